"""The videos of a fold: its parts, the validation videos, and batches.

`layout` and `feature_files` read the files, `lengths` compares them; `datasets` says which folder a config means.
"""

import hashlib
import math
import mmap
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.action_segmentation.ms_tcn_format.feature_files import read_features
from tasks.action_segmentation.ms_tcn_format.layout import Layout, open_layout, read_fold, read_labels, read_mapping
from tasks.action_segmentation.ms_tcn_format.lengths import EVERY_FRAME, Sampling, fit_lengths, nearest, read_shapes
from tasks.spec import DataError, Part, fail

IGNORED = -100
"""Label of padding, the `ignore_index` of torch's cross-entropy."""


@dataclass(frozen=True)
class Video:
    """One video. With a step of 2 (`Sampling.step`), place k of `features` and `labels` is frame 2k of the video.

    features: (D, n) float32. labels: (n) int64. full_labels: (T) int64. n is ceil(T / step), less the feature vectors
    that are missing at the end, see `Sampling.tolerance`.
    """

    name: str
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    full_labels: NDArray[np.int64]


class Counts(NamedTuple):
    """What the means of a loss are taken over, each a scalar: frames with a label, all frames, and pairs of frames that
    follow each other."""

    labelled: Tensor
    frames: Tensor
    pairs: Tensor

    @classmethod
    def of(cls, labels: Tensor, mask: Tensor) -> "Counts":
        """Of labels (B, T) and mask (B, 1, T), as in a `Batch`."""
        return cls((labels != IGNORED).sum(), mask.sum(), mask[:, :, 1:].sum())


class Batch(NamedTuple):
    """B videos padded at the end to one length T.

    features: (B, D, T) float32, 0 at padding. labels: (B, T) int64, `IGNORED` at padding.
    mask: (B, 1, T) bool, True at real frames.
    """

    features: Tensor
    labels: Tensor
    mask: Tensor


@dataclass(frozen=True)
class _Files:
    """What is known of a fold's videos; their features are read at each use, and are in memory for that long only.

    The system keeps the files that were read in what memory is free, for all processes at once.

    size: D. vectors: how many feature vectors of each video are used.
    """

    layout: Layout
    size: int
    labels: Mapping[str, NDArray[np.int64]]
    vectors: Mapping[str, int]
    sampling: Sampling

    def length(self, video: str) -> int:
        return -(-self.vectors[video] // self.sampling.stride)

    def read(self, video: str) -> NDArray[np.float32]:
        """The features that are used: (D, n)."""
        path = self.layout.features(video)
        features = read_features(path, fail, vectors=self.vectors[video], stride=self.sampling.stride)
        assert features is not None  # `fail` never returns
        expected = self.size, self.length(video)
        if features.shape != expected:
            what = f"{features.shape} values of it are used where there were {expected}: it has changed meanwhile"
            fail(path, None, what, "start again, and leave the features as they are")
        return features

    def seen(self, video: str) -> NDArray[np.int64]:
        """The labels (n) of the frames that the network is given."""
        labels = self.labels[video]
        return labels[nearest(self.length(video), self.sampling.step, len(labels))]


class Videos:
    """The videos of one part of a fold, in the order of the bundle; features are read at each use.

    Reading raises DataError if a file cannot be read, has changed its shape, or holds NaN or infinity.
    """

    def __init__(self, names: Sequence[str], files: _Files) -> None:
        self.names = tuple(names)
        self._files = files

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Video:
        name, files = self.names[index], self._files
        return Video(name, files.read(name), files.seen(name), files.labels[name])

    def __iter__(self) -> Iterator[Video]:
        return (self[index] for index in range(len(self)))

    def labels(self) -> Iterator[NDArray[np.int64]]:
        """The labels (n) of each video that training sees; no features are read."""
        return (self._files.seen(name) for name in self.names)

    def counts(self, indices: Sequence[int]) -> Counts:
        """Of these videos, every frame of which has a label; no features are read."""
        frames = sum(self._files.length(self.names[index]) for index in indices)
        return Counts(*map(torch.tensor, (frames, frames, frames - len(indices))))

    def batch(self, indices: Sequence[int]) -> Batch:
        """These videos, padded to the longest one."""
        names, files = [self.names[index] for index in indices], self._files
        lengths = [files.length(name) for name in names]
        if len(names) == 1:  # no padding, and no copy: that takes longer than the reading
            labels = torch.from_numpy(files.seen(names[0]))[None]
            return Batch(torch.from_numpy(files.read(names[0]))[None], labels, (labels != IGNORED).unsqueeze(1))
        features = _zeros(len(names), files.size, max(lengths))
        labels = torch.full((len(names), max(lengths)), IGNORED)
        for k, (name, length) in enumerate(zip(names, lengths, strict=True)):
            features[k, :, :length] = torch.from_numpy(files.read(name))  # one at a time: each is large
            labels[k, :length] = torch.from_numpy(files.seen(name))
        return Batch(features, labels, (labels != IGNORED).unsqueeze(1))


def _zeros(*shape: int) -> Tensor:
    """Zeros in float32, of which only the pages that are written take memory: the padding of a long video's neighbours
    is most of a batch."""
    buffer = mmap.mmap(-1, 4 * math.prod(shape))
    return torch.frombuffer(buffer, dtype=torch.float32).view(shape)


@dataclass(frozen=True)
class Dataset:
    """One fold of a data folder; made by `open_dataset`.

    classes: names in the order of their indices.
    feature_size: D.
    step: frames from one input of the network to the next.
    train, validation: two parts of the fold's training bundle; no video is in both.
    test: the videos of the test bundle.
    """

    classes: tuple[str, ...]
    feature_size: int
    step: int | Fraction
    train: Videos
    validation: Videos
    test: Videos

    def part(self, part: Part) -> Videos:
        """The videos of a part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


def open_dataset(
    root: str | Path,
    *,
    fold: int,
    sampling: Sampling = EVERY_FRAME,
    validation: float = 0.2,
    group: str | None = None,
) -> Dataset:
    """Open one fold of a data folder.

    Reads mapping, bundles, the labels of all videos of the fold and the headers of their features; the
    features themselves are read when a video is used.

    sampling: frames per feature vector and per input, and the tolerated difference to the labels.
    validation, group: see `carve_validation`.
    Raises DataError with file, line and how to fix it, at the first problem. NaN or infinity is found when a video's
    features are read; `python -m tasks.action_segmentation.check` reads everything beforehand.
    """
    layout = open_layout(root, fail)
    index = read_mapping(layout, fail)
    train, test = read_fold(layout, fold, fail)
    size, labels, vectors = read_videos(layout, [*train, *test], index, sampling)
    try:
        fit, held_out = carve_validation(list(train), fold=fold, share=validation, group=group)
    except ValueError as error:
        raise DataError(f"{layout.bundle('train', fold)}: {error}") from error
    files = _Files(layout, size, labels, vectors, sampling)
    parts = (Videos(names, files) for names in (fit, held_out, list(test)))
    classes = tuple(sorted(index, key=index.__getitem__))
    return Dataset(classes, size, sampling.step, *parts)


def read_videos(
    layout: Layout, videos: Sequence[str], index: Mapping[str, int], sampling: Sampling
) -> tuple[int, dict[str, NDArray[np.int64]], dict[str, int]]:
    """D, the labels of every frame of each video, and how many of its feature vectors are used.

    The features themselves are not read yet.

    Raises DataError if a video cannot be read, or its features do not fit its labels.
    """
    shapes = read_shapes(layout, videos, fail)
    read = ((video, read_labels(layout, video, index, fail)) for video in shapes)
    labels = {video: found for video, found in read if found is not None}
    counts = {video: len(found) for video, found in labels.items()}
    vectors = fit_lengths(layout, shapes, counts, sampling, fail)
    return shapes[next(iter(vectors))][0], labels, vectors


def carve_validation(
    videos: Sequence[str], *, fold: int, share: float = 0.2, group: str | None = None
) -> tuple[list[str], list[str]]:
    """Divide a fold's training videos into (train, validation), in their given order.

    The division depends on the fold and the names alone, never on a run's seed. Groups are ordered by a hash and added
    to the validation part until its size is as near to `share` of the videos as whole groups allow; it has at least
    one group.

    group: regular expression searched in the names; videos with the same match (of its first group, if it
        has one) stay together, for example those of one subject: r"rgb-\\d+" for 50 Salads, r"P\\d+" for Breakfast,
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
        raise ValueError(f"group {group!r} matches none of the training videos, such as {videos[0]!r}; fix it")
    keys = [
        video if match is None else match.group(1 if match.re.groups else 0)
        for match, video in zip(matches, videos, strict=True)
    ]
    sizes = Counter(keys)
    if len(sizes) < 2:
        raise ValueError(
            f"fold {fold} has no validation video: the training videos ({len(videos)}) are of one group and "
            "cannot be divided; add training videos or fix the group expression"
        )
    target, count, held_out = share * len(videos), 0, set[str]()
    # By a hash, not a random generator: it is the same in every version of numpy and does not depend on other groups.
    for key in sorted(sizes, key=lambda key: hashlib.sha256(f"{fold}/{key}".encode()).digest())[:-1]:
        if held_out and abs(count + sizes[key] - target) >= abs(count - target):
            break
        held_out.add(key)
        count += sizes[key]
    parts: tuple[list[str], list[str]] = ([], [])
    for video, key in zip(videos, keys, strict=True):
        parts[key in held_out].append(video)
    return parts


def upsample(prediction: NDArray, step: int | Fraction, frames: int) -> NDArray:
    """Repeat each prediction `step` times, and the last one to the end: (frames). Undoes sub-sampling.

    Where the step is a fraction, a frame has the prediction that is nearest in time, as `nearest` is of labels.

    Raises ValueError if there is no prediction, or one behind the last frame.
    """
    if not 0 < len(prediction) <= -(-frames // step):
        raise ValueError(f"{len(prediction)} predictions, one per {step} frames, are not of {frames} frames")
    over, under = Fraction(step).as_integer_ratio()
    half = over if under > 1 else 0
    return prediction[np.minimum((2 * under * np.arange(frames) + half) // (2 * over), len(prediction) - 1)]
