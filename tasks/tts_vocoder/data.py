"""The clips of a fold: its parts; `segments` cuts them.

`clips` reads the files; `datasets` says which folder a config means.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks import sharing
from tasks.spec import Part, fail
from tasks.tts_vocoder.recordings.clips import Clip, Shape, list_clips, read_clip, read_header, summary

log = logging.getLogger(__name__)

CACHE_BYTES = 2**28
"""Prepared clips that are kept, an hour at most, by all workers of a suite and all processes that cut segments together
(`tasks.sharing`). What is beyond is prepared again at each use."""


class Clips:
    """The clips of one part of a fold, in order of their names; read on first use and kept within a limit of memory."""

    def __init__(self, files: dict[str, Path], shape: Shape, reader: "_Reader") -> None:
        self.names = tuple(files)
        self.shape = shape
        self._files, self._reader = files, reader

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Clip:
        """Raises DataError if the clip cannot be used."""
        name = self.names[index]
        return self._reader(name, self._files[name])

    def __iter__(self) -> Iterator[Clip]:
        return (self[index] for index in range(len(self)))

    def first(self, count: int) -> "Clips":
        """The first `count` clips, or all if there are fewer."""
        return Clips(dict(list(self._files.items())[:count]), self.shape, self._reader)


class _Reader:
    """Reads clips, keeps them up to a number of bytes, and logs the first of each treatment (all at debug level)."""

    def __init__(self, shape: Shape, budget: int) -> None:
        self.shape, self.budget = shape, budget
        self.kept: dict[str, Clip] = {}
        self.said: set[str] = set()

    def __call__(self, name: str, path: Path) -> Clip:
        if name in self.kept:
            return self.kept[name]
        clip = read_clip(name, path, self.shape, fail)
        assert clip is not None  # `fail` never returns
        for kind, what in clip.treatments.items():
            if kind == "clipped":
                log.warning("%s: %s", path, what)
            else:
                first = kind not in self.said
                log.log(logging.INFO if first else logging.DEBUG, "%s: %s%s", path, what, " (and so on)" * first)
            self.said.add(kind)
        size = clip.wave.nbytes + (0 if clip.mel is None else clip.mel.nbytes)
        if size <= self.budget:
            self.budget -= size
            self.kept[name] = clip
        return clip


@dataclass(frozen=True)
class Recordings:
    """One fold of a data folder; made by `open_recordings`. `validation` is disjoint from `train`."""

    shape: Shape
    train: Clips
    validation: Clips
    test: Clips

    def part(self, part: Part) -> Clips:
        """The clips of a part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


def open_recordings(
    root: str | Path,
    shape: Shape,
    *,
    fold: int = 1,
    test: float,
    validation: float,
    clips: int | None = None,
) -> Recordings:
    """Open one fold of a data folder: list the clips, read all their headers, and log a summary.

    The samples are read when a clip is used; up to this process's share of `CACHE_BYTES` are kept in memory.

    test, validation: see `split`.
    clips: use only this many, evenly spaced in the order of names.
    Raises DataError with file and how to fix it, at the first problem. Problems of the samples, such as silence, are
    found when a clip is read. `python -m tasks.tts_vocoder.check` reads everything beforehand.
    """
    files = chosen_clips(list_clips(Path(root), fail), clips)
    for path in map(shape.mels.path, files) if shape.mels else ():
        if not path.exists():
            fail(path, None, "no such mel", "predict one for every recording, or take the recording out")
    headers = {name: read_header(path, shape, fail) for name, path in files.items()}
    log.info("%s: %s", root, summary([header for header in headers.values() if header], shape.sample_rate))
    reader = _Reader(shape, sharing.share(CACHE_BYTES))
    parts = split(list(files), fold=fold, test=test, validation=validation)
    train, held_out, scored = ({name: files[name] for name in part} for part in parts)
    return Recordings(shape, *(Clips(part, shape, reader) for part in (train, held_out, scored)))


def chosen_clips(files: dict[str, Path], count: int | None) -> dict[str, Path]:
    """`count` of the clips, evenly spaced in their order; all if that is None or there are no more."""
    if count is None or count >= len(files):
        return files
    kept = set(np.linspace(0, len(files) - 1, count).round().astype(int).tolist())
    return {name: path for index, (name, path) in enumerate(files.items()) if index in kept}


def split(
    names: Sequence[str], *, fold: int = 1, test: float, validation: float
) -> tuple[list[str], list[str], list[str]]:
    """Divide clips into (train, validation, test), by their order alone.

    The test part of fold f is the f-th block of clips from the end, in order of names. Neighbours are often of one
    chapter or session, so most of these stay in one part. The validation part is the last block of the other clips. For
    LJSpeech with `test=150`, the sizes are HiFi-GAN's, 12,950 and 150; the 150 clips are the last ones by name, not
    those of HiFi-GAN's list.

    test, validation: number of clips (1 or more), or a share of all clips (below 1; at least one clip).
    Raises ValueError if a part would be empty.
    """
    held_out, scored = (int(n) if n >= 1 else max(1, round(n * len(names))) for n in (validation, test))
    stop = len(names) - (fold - 1) * scored
    if fold < 1 or stop < scored or len(names) < scored + held_out + 1:
        raise ValueError(
            f"{len(names)} clips are not enough for fold {fold} with {scored} test and {held_out} validation clips; "
            "add clips or take smaller parts"
        )
    names = sorted(names)
    rest = names[: stop - scored] + names[stop:]
    return rest[:-held_out], rest[-held_out:], names[stop - scored : stop]
