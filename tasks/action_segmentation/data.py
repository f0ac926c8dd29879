"""Reading the layout of the MS-TCN data release, and the result files of its evaluation.

    ROOT/mapping.txt                    one class a line: index name
    ROOT/features/<video>.npy           (D, T) floats
    ROOT/groundTruth/<video>.txt        one class name a line, T lines
    ROOT/splits/train.split<fold>.bundle, test.split<fold>.bundle    one <video>.txt a line

Every function that reads takes `report`, which is told each problem found: that of the reader, `fail`, raises
at the first one, that of `tasks.action_segmentation.check` collects them all.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rfnext.files import write_text
from tasks.spec import DataError, Part

logger = logging.getLogger(__name__)

IGNORED = -100
"""Label of padding, the `ignore_index` of torch's cross-entropy."""

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
class Layout:
    """Where the files of a data folder lie."""

    root: Path

    @property
    def mapping(self) -> Path:
        return self.root / "mapping.txt"

    def features(self, video: str) -> Path:
        return self.root / "features" / f"{video}.npy"

    def ground_truth(self, video: str) -> Path:
        return self.root / "groundTruth" / f"{video}.txt"

    def bundle(self, part: Literal["train", "test"], fold: int) -> Path:
        return self.root / "splits" / f"{part}.split{fold}.bundle"

    def folds(self) -> tuple[int, ...]:
        """The numbers of all folds that have a bundle, in order."""
        names = (re.fullmatch(r"(?:train|test)\.split(\d+)\.bundle", p.name) for p in self.root.glob("splits/*"))
        return tuple(sorted({int(found[1]) for found in names if found}))


def open_layout(root: str | Path, report: Report) -> Layout:
    """The layout of a folder, which is looked for."""
    layout = Layout(Path(root))
    if not layout.root.is_dir():
        mend = "give a folder with features/, groundTruth/, splits/ and mapping.txt"
        report(layout.root, None, "no such folder", mend)
    return layout


@dataclass(frozen=True)
class Video:
    """One video. With stride 2, frame k of `features` and `labels` is frame 2k of the video.

    features: (D, ceil(T / stride)) float32. labels: (ceil(T / stride)) int64. full_labels: (T) int64.
    """

    name: str
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    full_labels: NDArray[np.int64]


class _FeatureCache:
    """Reads features on first use and keeps them while they fit; the rest is read again each time."""

    def __init__(self, layout: Layout, stride: int, budget: int) -> None:
        self.layout, self.stride, self.budget = layout, stride, budget
        self.kept: dict[str, NDArray[np.float32]] = {}

    def __call__(self, video: str, frames: int) -> NDArray[np.float32]:
        if video in self.kept:
            return self.kept[video]
        features = read_features(self.layout.features(video), fail, frames=frames, stride=self.stride)
        assert features is not None  # `fail` never returns
        if features.nbytes <= self.budget:
            self.budget -= features.nbytes
            self.kept[video] = features
        return features


class Videos:
    """The videos of one part of a fold, in the order of the bundle; features are read on first use."""

    def __init__(self, names: Sequence[str], labels: Mapping[str, NDArray[np.int64]], features: _FeatureCache) -> None:
        self.names = tuple(names)
        self._labels, self._features = labels, features

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Video:
        """Raises DataError if the features cannot be read or hold NaN or infinity."""
        name = self.names[index]
        labels = self._labels[name]
        return Video(name, self._features(name, len(labels)), labels[:: self._features.stride], labels)

    def __iter__(self) -> Iterator[Video]:
        return (self[index] for index in range(len(self)))


@dataclass(frozen=True)
class Dataset:
    """One fold of a data folder; made by `open_dataset`.

    classes: names in the order of their indices. feature_size: D. stride: every stride-th frame is used.
    validation: carved out of the fold's training bundle, so disjoint from `train`.
    """

    classes: tuple[str, ...]
    feature_size: int
    stride: int
    train: Videos
    validation: Videos
    test: Videos

    def part(self, part: Part) -> Videos:
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


def open_dataset(
    root: str | Path,
    *,
    fold: int,
    stride: int = 1,
    validation: float = 0.2,
    group: str | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Dataset:
    """Open one fold of a data folder.

    Reads mapping, bundles, the labels of all videos of the fold and the headers of their features; the
    features themselves are read on first use and kept in memory up to `cache_bytes`.

    stride: use every stride-th frame.
    validation, group: see `carve_validation`.
    Raises DataError with file, line and mend at the first problem. NaN or infinity is found when a video's
    features are read; `python -m tasks.action_segmentation.check` reads everything beforehand.
    """
    if stride < 1:
        raise ValueError(f"stride is {stride}; give 1 or more")
    layout = open_layout(root, fail)
    index = read_mapping(layout, fail)
    train, test = read_fold(layout, fold, fail)
    shapes = read_shapes(layout, [*train, *test], fail)
    labels = {video: read_labels(layout, video, index, fail) for video in shapes}
    kept = {
        video: found[: common_length(layout, video, shapes[video][1], len(found), fail)]
        for video, found in labels.items()
        if found is not None
    }
    fit, held_out = carve_validation(list(train), fold=fold, share=validation, group=group)
    features = _FeatureCache(layout, stride, cache_bytes)
    return Dataset(
        classes=tuple(sorted(index, key=index.__getitem__)),
        feature_size=next(iter(shapes.values()))[0],
        stride=stride,
        train=Videos(fit, kept, features),
        validation=Videos(held_out, kept, features),
        test=Videos(list(test), kept, features),
    )


def carve_validation(
    videos: Sequence[str], *, fold: int, share: float = 0.2, group: str | None = None
) -> tuple[list[str], list[str]]:
    """Divide a fold's training videos into (train, validation), in their given order.

    The division depends on the fold and the names alone, never on a run's seed: groups are ordered by a hash
    and go to validation until its size is as near to `share` of the videos as whole groups allow; at least
    one goes.

    group: regular expression searched in the names; videos with the same match (its first group, if it has
        one) stay together, such as those of one subject: r"rgb-\\d+" for 50 Salads, r"P\\d+" for Breakfast,
        r"S\\d+" for GTEA. Videos without a match, or all if None, are groups of their own.
    Raises ValueError if the share is not in (0, 1), if the expression is broken or matches no video, or if
    either part would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"the validation share is {share}; give a fraction above 0 and below 1")
    try:
        matches = [re.search(group, video) if group is not None else None for video in videos]
    except re.error as error:
        raise ValueError(f"group {group!r} is not a regular expression: {error}") from error
    if group is not None and not any(matches):
        raise ValueError(f"group {group!r} matches none of the training videos, such as {videos[0]!r}; mend it")
    keys = [
        video if match is None else match.group(1 if match.re.groups else 0)
        for match, video in zip(matches, videos, strict=True)
    ]
    sizes = Counter(keys)
    if len(sizes) < 2:
        raise ValueError(
            f"fold {fold} has no validation video: the training videos ({len(videos)}) are of one group and "
            "cannot be divided; add training videos or mend the group expression"
        )
    target, count, held_out = share * len(videos), 0, set[str]()
    # A hash instead of a generator: the same in every version of numpy, and a new video moves no other group.
    for key in sorted(sizes, key=lambda key: hashlib.sha256(f"{fold}/{key}".encode()).digest())[:-1]:
        if held_out and abs(count + sizes[key] - target) >= abs(count - target):
            break
        held_out.add(key)
        count += sizes[key]
    parts: tuple[list[str], list[str]] = ([], [])
    for video, key in zip(videos, keys, strict=True):
        parts[key in held_out].append(video)
    return parts


def read_mapping(layout: Layout, report: Report) -> dict[str, int]:
    """Class name -> index; the indices are 0 .. n - 1."""
    path, lines = layout.mapping, _read_lines(layout.mapping, report)
    index: dict[str, int] = {}
    names: dict[int, str] = {}
    for number, line in enumerate(lines or (), start=1):
        fields = line.split()
        if len(fields) != 2 or not fields[0].isdecimal():
            report(path, number, f"{line!r} is not an index and a name", 'write one class a line: "0 cut"')
            continue
        key, name = int(fields[0]), fields[1]
        if name in index:
            report(path, number, f"class {name!r} is listed twice", "take one of the lines out")
        elif key in names:
            what = f"index {key} is already that of {names[key]!r}"
            report(path, number, what, "give every class its own index")
        else:
            index[name], names[key] = key, name
    if lines == []:
        report(path, 1, "no class is listed", 'write one class a line: "0 cut"')
    elif missing := sorted(set(range(len(names))) - set(names)):
        report(path, len(lines or ()), f"no class has index {missing[0]}", "number the classes 0, 1, 2, ...")
    return index


def read_fold(layout: Layout, fold: int, report: Report) -> tuple[dict[str, int], dict[str, int]]:
    """The videos of the training and of the test bundle, each with the line that names it."""
    train_path, test_path = layout.bundle("train", fold), layout.bundle("test", fold)
    mend = f"add it or choose another fold (there are: {', '.join(map(str, layout.folds())) or 'none'})"
    train = read_bundle(train_path, report, mend)
    test = read_bundle(test_path, report, mend)
    for video, line in test.items():
        if video in train:
            what = f"{video} is also in the training part, {train_path.name}:{train[video]}"
            report(test_path, line, what, "take it out of one of the two")
    return train, test


def read_bundle(path: Path, report: Report, mend_missing: str = "add it") -> dict[str, int]:
    """Names of the videos of a bundle, without ".txt", each with its line."""
    lines = _read_lines(path, report, mend_missing)
    videos: dict[str, int] = {}
    for number, line in enumerate(lines or (), start=1):
        video = line.removesuffix(".txt")
        if not video or Path(video).name != video:
            report(path, number, f"{line!r} is not the name of a video", "write one <video>.txt a line")
        elif video in videos:
            report(path, number, f"{video} is already named in line {videos[video]}", "take one out")
        else:
            videos[video] = number
    if lines == []:
        report(path, 1, "the bundle is empty", "write one <video>.txt a line")
    return videos


def read_shapes(layout: Layout, videos: Iterable[str], report: Report) -> dict[str, tuple[int, int]]:
    """(D, T) of the features of each video, from the headers of the files; D is the same for all.

    Videos whose features are missing, unreadable, empty or of another D than most are reported and left out.
    """
    shapes: dict[str, tuple[int, int]] = {}
    for video in videos:
        features = _open_features(layout.features(video), report)
        if features is not None:
            size, frames = features.shape
            shapes[video] = size, frames
    common = Counter(size for size, _ in shapes.values()).most_common(1)
    for video, (size, frames) in list(shapes.items()):
        if size != common[0][0]:
            what = f"features are {size} x {frames}, others have D = {common[0][0]}"
            report(layout.features(video), None, what, "save all as (D, T), not (T, D), with one D")
            del shapes[video]
    return shapes


def _open_features(path: Path, report: Report) -> NDArray | None:
    """Memory-mapped, so that only the header is read; a pickled array is refused, never loaded."""
    try:
        features = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        report(path, None, "no such file", f"add it or take {path.stem} out of the bundles")
    except Exception as error:  # numpy's header parser lets errors of many kinds through, TokenError for one
        mend = "save the features with numpy.save as a (D, T) array of floats"
        report(path, None, f"not a readable .npy file ({' '.join(str(error).split())})", mend)
    else:
        if features.ndim == 2 and features.size > 0 and features.dtype.kind in "fiu":
            return features
        what = f"holds {features.dtype} of shape {features.shape}, not (D, T) floats with at least one frame"
        report(path, None, what, "extract the features again")
    return None


def read_features(
    path: Path, report: Report, *, frames: int | None = None, stride: int = 1
) -> NDArray[np.float32] | None:
    """Every stride-th of the first `frames` frames, all finite: (D, ceil(frames / stride))."""
    mapped = _open_features(path, report)
    if mapped is None:
        return None
    with np.errstate(over="ignore"):
        features = np.array(mapped[:, :frames:stride], dtype=np.float32, order="C")
    finite = np.isfinite(features)
    if not finite.all():
        row, column = (int(k[0]) for k in np.nonzero(~finite))
        what = (
            f"feature {row} of frame {column * stride} is {features[row, column]} "
            f"({np.count_nonzero(~finite)} values are not finite)"
        )
        report(path, None, what, "extract the features of this video again")
    return features


def read_labels(layout: Layout, video: str, index: Mapping[str, int], report: Report) -> NDArray[np.int64] | None:
    """Class index of every frame: (T). Each unknown name is reported once, at its first line."""
    path = layout.ground_truth(video)
    lines = _read_lines(path, report, f"add it or take {video} out of the bundles")
    if lines == []:
        report(path, 1, "no frame is labelled", "write one class name a line, as many as frames")
    if not lines:
        return None
    labels = np.array([index.get(line, -1) for line in lines], dtype=np.int64)
    # Without any class, the mapping is what needs mending, not every label.
    unknown = Counter(lines[k] for k in np.flatnonzero(labels < 0)) if index else {}
    for name, count in unknown.items():
        what = f"{name!r} ({count} of {len(lines)} lines) is no class of {layout.mapping.name}"
        report(path, lines.index(name) + 1, what, "correct it or add the class")
    return labels


def common_length(layout: Layout, video: str, frames: int, labels: int, report: Report, *, strict: bool = False) -> int:
    """Of `frames` feature frames and a number of labels, how many frames have both.

    The two differ by a few frames in some releases, where the MS-TCN code silently cuts the longer one. So
    does this, with a warning, up to 5 frames and 1 % of the video; a larger difference, or any if `strict`,
    is reported.
    """
    shorter, longer = sorted((frames, labels))
    if shorter < longer:
        what = f"{labels} labels, but {layout.features(video)} has {frames} frames"
        mend = f"extract the features again, or cut both to {shorter} frames"
        problem = Problem(layout.ground_truth(video), min(labels, shorter + 1), what, mend)
        if strict or longer - shorter > min(5, longer // 100):
            report(*problem)
        else:
            logger.warning("%s; going on with the first %d frames", problem, shorter)
    return shorter


class Batch(NamedTuple):
    """B videos padded at the end to one length T.

    features: (B, D, T) float32, 0 at padding. labels: (B, T) int64, `IGNORED` at padding.
    mask: (B, 1, T) bool, True at real frames.
    """

    features: Tensor
    labels: Tensor
    mask: Tensor


def collate(videos: Sequence[Video], pad_to: int | None = None) -> Batch:
    """Batch `videos`, padded to the longest one or to `pad_to` frames.

    Raises ValueError if there is no video or `pad_to` is shorter than the longest one.
    """
    lengths = [len(video.labels) for video in videos]
    if not lengths or (pad_to is not None and pad_to < max(lengths)):
        raise ValueError(f"cannot pad videos of {lengths} frames to {pad_to}")
    frames = pad_to or max(lengths)
    features = torch.zeros(len(videos), len(videos[0].features), frames)
    labels = torch.full((len(videos), frames), IGNORED)
    for k, (video, length) in enumerate(zip(videos, lengths, strict=True)):
        features[k, :, :length] = torch.from_numpy(video.features)
        labels[k, :length] = torch.from_numpy(video.labels)
    return Batch(features, labels, (labels != IGNORED).unsqueeze(1))


def upsample(prediction: NDArray, stride: int, frames: int) -> NDArray:
    """Repeat each of the ceil(frames / stride) predictions `stride` times, cut to (frames): undoes
    sub-sampling.

    Raises ValueError if the prediction has another length.
    """
    if len(prediction) != -(-frames // stride):
        raise ValueError(f"{len(prediction)} predictions at stride {stride} do not cover {frames} frames")
    return np.repeat(prediction, stride)[:frames]


HEADER = "### Frame level recognition: ###"


def read_prediction(path: str | Path) -> list[str]:
    """Class name of every frame in a result file: names between white space, after the header line if it has
    one.

    Raises DataError if the file is missing, not text, or holds no label.
    """
    path = Path(path)
    text = _read_text(path, fail) or ""
    if text.startswith("#"):
        text = text.partition("\n")[2]
    return text.split() or fail(path, 1, "no frame is labelled", "predict this video again")


def write_prediction(path: str | Path, names: Iterable[str]) -> None:
    """Write a result file as the MS-TCN family does, atomically; `names` are the class names of all frames.

    Raises ValueError if there is no frame or a name has white space in it or starts with "#".
    """
    names = list(names)
    for name in set(names) or {""}:
        if name.split() != [name] or name.startswith("#"):
            raise ValueError(f"{path}: {name!r} cannot be written as a class name")
    write_text(path, f"{HEADER}\n{' '.join(names)}")


def _read_lines(path: Path, report: Report, mend_missing: str = "add it") -> list[str] | None:
    """Stripped lines without the blank ones at the end; None, once reported, if the file cannot be read."""
    text = _read_text(path, report, mend_missing)
    return None if text is None else [line.strip() for line in text.rstrip().splitlines()]


def _read_text(path: Path, report: Report, mend_missing: str = "add it") -> str | None:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        report(path, None, "no such file", mend_missing)
    except UnicodeDecodeError as error:
        report(path, None, f"not a text file ({error.reason})", "save it as UTF-8")
    except OSError as error:
        report(path, None, f"cannot be read ({error.strerror})", "make it a readable file")
    return None
