"""Recorded speech: reading, checking and preparing clips, and cutting them into segments for training.

    ROOT/wavs/<clip>.wav     LJSpeech's layout; any rate, format and number of channels that libsndfile reads
    ROOT/metadata.csv        one clip a line: <clip>|text|normalised text; optional, without it every file counts

Without a folder wavs/, all audio files anywhere below ROOT are the clips.

A clip that cannot be used is an error that names the file and the mend: missing, unreadable, empty, truncated,
silent, not finite, or of too low a sample rate for the mel. What can be used is brought into shape, and the log says
how: channels averaged, resampled, silence at the ends trimmed, loudness set, a short clip padded. Clipping is only
reported, since nothing undoes it.

Every function that reads takes `report`, which is told each problem found: that of the reader, `fail`, raises at the
first one, that of `tasks.tts_vocoder.check` collects them all.
"""

import logging
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from tasks.spec import DataError, Part

log = logging.getLogger(__name__)

Wave = NDArray[np.float32]
"""(samples), full scale is 1."""

Loudness = Literal["peak", "as_is"]
"""peak: scaled so that the largest sample is `PEAK`, as HiFi-GAN does. as_is: left alone."""

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
PEAK = 0.95
SILENT = 1e-3
"""Largest sample, -60 dB of full scale, up to which a clip is silent."""

TRIM_DB = 45.0
"""Silence at the ends is what stays this far below the loudest 20 ms."""

MARGIN = 0.1
"""Seconds of it that are kept at either end."""

CLIPPED_RUN = 4
"""Equal samples in a row at the clip's peak, near full scale, that make it clipped."""

CACHE_BYTES = 8 * 2**30


class Problem(NamedTuple):
    """What is wrong with a file and how to mend it; `line` counts from 1, None where a file has no lines."""

    path: Path
    line: int | None
    what: str
    mend: str

    def __str__(self) -> str:
        place = f"{self.path}" if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.what}; {self.mend}"


Report = Callable[[Path, int | None, str, str], object]
"""Takes the four parts of a `Problem`."""


def fail(path: Path, line: int | None, what: str, mend: str) -> NoReturn:
    """The reader's `report`: raises DataError."""
    raise DataError(str(Problem(path, line, what, mend)))


@dataclass(frozen=True)
class Shape:
    """What every clip is brought into.

    sample_rate: Hz. highest: Hz, the highest frequency that the mel looks at; a recording must reach it.
    trim: cut silence at the ends. loudness: see `Loudness`.
    """

    sample_rate: int
    highest: float
    trim: bool = False
    loudness: Loudness = "peak"


def list_clips(root: Path, report: Report) -> dict[str, Path]:
    """Name -> file of every clip, in order of the names; what the metadata names twice or does not find is reported."""
    if not root.is_dir():
        report(root, None, "no such folder", "give a folder with wavs/*.wav and metadata.csv, or any folder of audio")
        return {}
    metadata, wavs = root / "metadata.csv", root / "wavs"
    folder = wavs if wavs.is_dir() else root
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        # macOS leaves "._name.wav" beside files that it copied
        if path.suffix.lower() not in SUFFIXES or not path.is_file() or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            report(path, None, f"there is also {files[name].name} of the same name", "take one away")
        else:
            files[name] = path
    if not files:
        report(folder, None, "there is no audio file in it", f"put clips there ({', '.join(SUFFIXES)})")
    if not metadata.exists():
        return files
    lines = _named(metadata, report)
    for name, line in lines.items():
        if name not in files:
            report(metadata, line, f"there is no clip {name} in {folder}", "add the file or take the line out")
    if unnamed := [name for name in files if name not in lines]:
        log.info("%s does not name %d of %d clips, %s first; they are left out", metadata, *_counts(unnamed, files))
    return {name: path for name, path in files.items() if name in lines}


def _counts(some: Sequence[str], of: dict[str, Path]) -> tuple[int, int, str]:
    return len(some), len(of), some[0]


def _named(metadata: Path, report: Report) -> dict[str, int]:
    """Clips that metadata.csv names, each with its line."""
    try:
        text = metadata.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        report(metadata, None, f"cannot be read as text ({error})", "save it as UTF-8, or take it away")
        return {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.rstrip().splitlines(), start=1):
        name = line.partition("|")[0].strip().removesuffix(".wav")
        if not name or name.startswith("/") or ".." in Path(name).parts:
            report(metadata, number, f"{line[:40]!r} names no clip", "write <clip>|text a line")
        elif name in lines:
            report(metadata, number, f"{name} is already named in line {lines[name]}", "take one out")
        else:
            lines[name] = number
    if not lines:
        report(metadata, 1, "no clip is named", "write <clip>|text a line, or take the file away")
    return lines


class Header(NamedTuple):
    """What the header of an audio file says. frames: samples of each channel."""

    sample_rate: int
    channels: int
    frames: int


def read_header(path: Path, shape: Shape, report: Report) -> Header | None:
    """The header, checked: None, once reported, if the file is unreadable, empty, truncated or of too low a rate."""
    import soundfile

    try:
        info = soundfile.info(str(path), verbose=True)
    except (OSError, soundfile.SoundFileError) as error:
        reason = "it is empty" if path.is_file() and not path.stat().st_size else str(error).rpartition(": ")[2]
        report(path, None, f"not readable as audio ({reason})", "save it as WAV or FLAC, or take it out")
        return None
    if info.frames == 0:
        report(path, None, "it has a length of 0", "record it again or take it out")
        return None
    # libsndfile reads what is there of a WAV file that was cut, and says so only here.
    if cut := re.search(r"^data\s*: (\d+) \(should be (\d+)\)", info.extra_info, re.MULTILINE):
        report(path, None, f"truncated: {cut[2]} of {cut[1]} bytes are there", "copy it again or take it out")
        return None
    if info.samplerate < 2 * shape.highest:
        report(
            path,
            None,
            f"its sample rate of {info.samplerate} Hz holds nothing above {info.samplerate // 2} Hz, and the mel "
            f"looks up to {shape.highest:g} Hz",
            f"record at {math.ceil(2 * shape.highest)} Hz or more, or set mel.sample-rate and mel.fmax lower",
        )
        return None
    return Header(info.samplerate, info.channels, info.frames)


class Clip(NamedTuple):
    """A clip brought into `Shape`. treatments: kind -> what was done to it, for the log."""

    name: str
    wave: Wave
    treatments: dict[str, str]


def read_clip(name: str, path: Path, shape: Shape, report: Report) -> Clip | None:
    """One clip, ready for use; None, once reported, if it cannot be used."""
    import soundfile
    from scipy.signal import resample_poly

    header = read_header(path, shape, report)
    if header is None:
        return None
    try:
        samples = np.asarray(soundfile.read(str(path), dtype="float32", always_2d=True)[0], dtype=np.float32)
    except (OSError, soundfile.SoundFileError) as error:
        report(path, None, f"truncated or broken ({error!r})", "copy it again or take it out")
        return None
    if len(samples) < header.frames:
        report(path, None, f"truncated: {len(samples)} of {header.frames} samples are there", "copy it again")
        return None
    if not np.isfinite(samples).all():
        report(path, None, f"{np.count_nonzero(~np.isfinite(samples))} samples are not finite", "save it again")
        return None
    done: dict[str, str] = {}
    if count := clipped_samples(samples):
        done["clipped"] = f"clipped: {count} samples stand at full scale, which nothing undoes"
    wave = samples.mean(axis=1)
    if header.channels > 1:
        done["channels"] = f"{header.channels} channels averaged"
    if np.abs(wave).max() <= SILENT:
        what = f"silent: its largest sample is {np.abs(wave).max():.1g} of full scale"
        if np.abs(samples).max() > SILENT:
            what = "silent once its channels are averaged: they cancel each other"
        report(path, None, what, "record it again or take it out")
        return None
    if header.sample_rate != shape.sample_rate:
        divisor = math.gcd(header.sample_rate, shape.sample_rate)
        wave = resample_poly(wave, shape.sample_rate // divisor, header.sample_rate // divisor).astype(np.float32)
        done["rate"] = f"resampled from {header.sample_rate} to {shape.sample_rate} Hz"
    if shape.trim:
        start, end = speech(wave, shape.sample_rate)
        if (seconds := (start + len(wave) - end) / shape.sample_rate) >= 0.01:
            done["trimmed"] = f"{seconds:.2f} s of silence trimmed"
        wave = wave[start:end]
    if shape.loudness == "peak":
        gain = PEAK / float(np.abs(wave).max())
        done["loudness"] = f"scaled by {20 * math.log10(gain):+.1f} dB to a peak of {PEAK}"
        wave = gain * wave
    return Clip(name, np.ascontiguousarray(wave, dtype=np.float32), done)


def clipped_samples(samples: NDArray[np.float32]) -> int:
    """How many samples of (samples, channels) lie in runs of `CLIPPED_RUN` at the channel's peak near full scale."""
    count = 0
    for channel in samples.T:
        peak = np.abs(channel).max()
        if peak >= 0.98:
            edges = np.flatnonzero(np.diff(np.concatenate([[False], np.abs(channel) >= peak - 1e-6, [False]])))
            runs = edges[1::2] - edges[::2]
            count += int(runs[runs >= CLIPPED_RUN].sum())
    return count


def speech(wave: Wave, sample_rate: int) -> tuple[int, int]:
    """First and last (exclusive) sample of what is not silence at the ends; see `TRIM_DB` and `MARGIN`."""
    step = sample_rate // 50
    frames = np.pad(wave, (0, -len(wave) % step)).reshape(-1, step)
    level = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1))
    loud = np.flatnonzero(level > level.max() * 10 ** (-TRIM_DB / 20))
    margin = round(MARGIN * sample_rate)
    return max(0, int(loud[0]) * step - margin), min(len(wave), (int(loud[-1]) + 1) * step + margin)


class Clips:
    """The clips of one part of a fold in order of their names; read on first use and kept while they fit."""

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
    """Reads clips, keeps them up to a budget of bytes, and logs each kind of treatment once (all at debug level)."""

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
        if clip.wave.nbytes <= self.budget:
            self.budget -= clip.wave.nbytes
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
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


def open_recordings(
    root: str | Path,
    shape: Shape,
    *,
    fold: int = 1,
    test: float,
    validation: float,
    clips: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Recordings:
    """Open one fold of a data folder: list the clips, read all their headers, and say in the log what was found.

    The samples are read on first use and kept in memory up to `cache_bytes`.

    test, validation: see `split`.
    clips: use only this many, evenly spaced in the order of names.
    Raises DataError with file and mend at the first problem; what only the samples show (silence, say) is found when
    a clip is read. `python -m tasks.tts_vocoder.check` reads everything beforehand.
    """
    files = list_clips(Path(root), fail)
    if clips is not None and clips < len(files):
        kept = set(np.linspace(0, len(files) - 1, clips).round().astype(int).tolist())
        files = {name: path for index, (name, path) in enumerate(files.items()) if index in kept}
    headers = {name: read_header(path, shape, fail) for name, path in files.items()}
    log.info("%s: %s", root, summary([header for header in headers.values() if header], shape.sample_rate))
    reader = _Reader(shape, cache_bytes)
    parts = split(list(files), fold=fold, test=test, validation=validation)
    train, held_out, scored = ({name: files[name] for name in part} for part in parts)
    return Recordings(shape, *(Clips(part, shape, reader) for part in (train, held_out, scored)))


def summary(headers: Sequence[Header], sample_rate: int) -> str:
    """What a set of clips is, and how many are resampled or averaged."""
    seconds = sum(header.frames / header.sample_rate for header in headers)
    text = f"{len(headers)} clips, {seconds / 60:.1f} minutes"
    for rate, count in sorted(Counter(header.sample_rate for header in headers).items()):
        text += f", {count} at {rate} Hz" + (f" (resampled to {sample_rate} Hz)" if rate != sample_rate else "")
    if several := sum(header.channels > 1 for header in headers):
        text += f", {several} with several channels (averaged)"
    return text


def split(
    names: Sequence[str], *, fold: int = 1, test: float, validation: float
) -> tuple[list[str], list[str], list[str]]:
    """Divide clips into (train, validation, test), by their order alone.

    Fold f tests on the f-th block of clips, counted from the end in order of names: neighbours are often of one
    chapter or session, which so stays on one side. Validation is the block at the end of what is left. For LJSpeech
    with `test=150` this gives HiFi-GAN's sizes, 12,950 and 150, the latter being the last 150 clips by name; the list
    of names that HiFi-GAN was published with is another one.

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


class Cut(NamedTuple):
    """Where to cut a segment. start: 0 at the clip's start, up to (not including) 1 where the last whole one begins."""

    clip: int
    start: float


class Segments(Dataset[Tensor]):
    """Segments of `length` samples: `segments[Cut(3, 0.5)]` is the middle one of clip 3.

    A clip that is shorter is padded with zeros at its end, which the log says once for each.
    """

    def __init__(self, clips: Clips, length: int) -> None:
        self.clips, self.length = clips, length
        self._padded: set[int] = set()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, cut: Cut) -> Tensor:
        wave = torch.from_numpy(self.clips[cut.clip].wave)
        if len(wave) < self.length:
            if cut.clip not in self._padded:
                self._padded.add(cut.clip)
                name, seconds = self.clips.names[cut.clip], self.length / self.clips.shape.sample_rate
                log.info("%s is shorter than a segment of %.2f s and is padded with silence", name, seconds)
            return torch.nn.functional.pad(wave, (0, self.length - len(wave)))
        start = int(cut.start * (len(wave) - self.length + 1))
        return wave[start : start + self.length]


class Cuts(Sampler[Cut]):
    """`per_clip` random cuts of every clip in random order, new every epoch, which depend on the seed and the epoch
    only; Lightning calls `set_epoch`."""

    def __init__(self, clips: int, per_clip: int, seed: int) -> None:
        self.clips, self.per_clip, self.seed, self.epoch = clips, per_clip, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Cut]:
        generator = random.Random(f"cuts/{self.seed}/{self.epoch}")
        cuts = [Cut(clip, generator.random()) for clip in range(self.clips) for _ in range(self.per_clip)]
        generator.shuffle(cuts)
        return iter(cuts)

    def __len__(self) -> int:
        return self.clips * self.per_clip
