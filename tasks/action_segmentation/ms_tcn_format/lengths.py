"""Whether feature files and labels fit: orientation, frames per feature vector, vectors that are missing at the end.

What is wrong is found by comparing all videos, and said once for all of them. Functions take a `report`, see `layout`.
"""

import json
import logging
import math
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.action_segmentation.ms_tcn_format.feature_files import open_features
from tasks.action_segmentation.ms_tcn_format.layout import Layout
from tasks.spec import Problem, Report

log = logging.getLogger(__name__)

ALIKE = 0.02
"""Numbers of labels per feature vector that differ by less than this share count as one."""


@dataclass(frozen=True)
class Sampling:
    """How many frames there are to a label, a feature vector, and an input of the network. A frame has one label.

    feature_stride: frames per vector of the feature files; a fraction where features and labels have different rates,
        see `stride_of`. The label of a vector is then the one nearest in time.
    stride: the network gets every stride-th vector.
    tolerance: frames by which features may cover less or more than the labels. Vectors behind the last label are not
        used. Where vectors are missing at the end, training leaves the frames out, as the loaders of MS-TCN do; the
        prediction goes on with the class of the last vector, so that every labelled frame is scored.
    """

    stride: int = 1
    feature_stride: int | Fraction = 1
    tolerance: int = 0

    def __post_init__(self) -> None:
        for name, least in (("stride", 1), ("feature_stride", Fraction(1, 100)), ("tolerance", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give {least} or more")

    @property
    def step(self) -> int | Fraction:
        """Frames from one input of the network to the next."""
        return self.stride * self.feature_stride


EVERY_FRAME = Sampling()


class _Video(NamedTuple):
    """A video's shape of features, as stored, and number of labels."""

    name: str
    rows: int
    columns: int
    labels: int


def stride_of(rate: str) -> int | Fraction:
    """Frames per feature vector, of the rates of features and labels: "15/25", or "0.6", vectors a label.

    Raises ValueError if these are no numbers above 0, or there are more than 100 vectors a label, or labels a vector.
    """
    try:
        features, _, labels = rate.partition("/")
        found = Fraction(labels or "1") / Fraction(features)
    except (ValueError, ZeroDivisionError):
        found = Fraction(0)
    if not Fraction(1, 100) <= found <= 100:
        raise ValueError(
            f"feature_rate is {rate!r}; give the rates of features and labels, as in 15/25, "
            "or vectors a label, as in 0.6"
        )
    return int(found) if found.denominator == 1 else found


def nearest(count: int, step: int | Fraction, frames: int) -> NDArray[np.int64]:
    """The label, of `frames`, that is nearest in time to each of `count` inputs, one every `step` frames: (count)."""
    over, under = Fraction(step).as_integer_ratio()
    return np.minimum((2 * over * np.arange(count) + under) // (2 * under), frames - 1)


def difference(vectors: int, labels: int, stride: int | Fraction) -> int:
    """Frames that feature vectors of `stride` frames each cover more (or, below 0, less) than the labels.

    The last vector may be of fewer frames, so ceil(labels / stride) vectors cover them exactly; at rates that do not
    divide each other so does one less, which extractors leave.
    """
    if isinstance(stride, Fraction) and abs(vectors - labels / stride) < 1:
        return 0
    return math.floor(min(vectors * stride - labels, 0)) or math.ceil(max(vectors - -(-labels // stride), 0) * stride)


def read_shapes(layout: Layout, videos: Iterable[str], report: Report) -> dict[str, tuple[int, int]]:
    """Shape of the features of each video as stored, from the headers of the files; unusable ones are reported."""
    shapes: dict[str, tuple[int, int]] = {}
    for video in videos:
        features = open_features(layout.features(video), report)
        if features is not None:
            shapes[video] = features.shape[0], features.shape[1]
    return shapes


def fit_lengths(
    layout: Layout,
    shapes: Mapping[str, tuple[int, int]],
    labels: Mapping[str, int],
    sampling: Sampling,
    report: Report,
) -> dict[str, int]:
    """Feature vectors to use of each video: all, or those up to the last label.

    Args:
        layout: the data folder.
        shapes: shapes of the features as stored; (D, vectors), with one D, is right.
        labels: numbers of labels.
        sampling: what is expected of them.
        report: see `layout`. Videos that were reported are left out of the result.
    """
    videos = [_Video(name, *shapes[name], count) for name, count in labels.items() if name in shapes]
    if not videos:
        return {}
    size = _feature_size(videos, sampling)
    transposed = [video for video in videos if video.columns == size != video.rows]
    if transposed:
        report(*_transposed(layout, transposed, videos, size))
    straight = [video for video in videos if video.rows == size]
    for name, rows, columns, _ in videos:
        if size not in (rows, columns):
            what = f"features are {rows} x {columns}, others have D = {size}"
            report(layout.features(name), None, what, "save all as (D, T) with one D")

    def off(video: _Video) -> int:
        return abs(difference(video.columns, video.labels, sampling.feature_stride))

    wrong = [video for video in straight if off(video) > sampling.tolerance]
    if wrong:
        report(*_misfit(layout, wrong, straight, sampling))
    fitting = [video for video in straight if off(video) <= sampling.tolerance]
    if short := [off(video) for video in fitting if off(video)]:
        log.warning(
            "%s: features and labels differ in %d of %d videos, by up to %d frames (tolerance %d)",
            *(layout.root, len(short), len(videos), max(short), sampling.tolerance),
        )
    return {v.name: min(v.columns, -(-v.labels // sampling.feature_stride)) for v in fitting}


def _feature_size(videos: list[_Video], sampling: Sampling) -> int:
    """D, whichever axis it is on: what most videos agree on.

    In this order: the other axis has as many entries as there are labels; D is in the shape of most videos; the other
    axis has nearly as many entries; D is the first axis.
    """

    def votes(near: Callable[[int, int], bool]) -> Counter[int]:
        found: Counter[int] = Counter()
        for _, rows, columns, labels in videos:
            if near(columns, labels) != near(rows, labels):
                found[rows if near(columns, labels) else columns] += 1
        return found

    stride = sampling.feature_stride
    exact = votes(lambda n, labels: abs(difference(n, labels, stride)) <= sampling.tolerance).most_common(1)
    if exact and 2 * exact[0][1] >= len(videos):
        return exact[0][0]
    shared = Counter(size for video in videos for size in {video.rows, video.columns}).most_common(2)
    if len(shared) == 1 or shared[0][1] > shared[1][1]:
        return shared[0][0]
    nearly = votes(lambda n, labels: _near(n, labels, stride)).most_common(1)
    return (nearly or Counter(video.rows for video in videos).most_common(1))[0][0]


def _near(vectors: int, labels: int, stride: int | Fraction) -> bool:
    """Whether vectors of `stride` frames fit but for what extractors leave out: less than a tenth, or a last vector."""
    return vectors == labels // stride or abs(difference(vectors, labels, stride)) <= max(1, labels // 10)


def _transposed(layout: Layout, wrong: list[_Video], videos: list[_Video], size: int) -> Problem:
    """What is said of (vectors, D) features, with the command that mends them."""
    first = wrong[0]
    what = (
        f"features are {first.rows} x {first.columns} for {first.labels} labels: these are (frames, features), "
        f"as in {len(wrong)} of {len(videos)} videos"
    )
    # A square array cannot be told; where none is (D, frames) already, it is taken to be like the others.
    others = len(wrong) + sum(v.rows == v.columns for v in videos) < len(videos)
    condition = f"x.shape[1] == {size}" + (" != x.shape[0]" if others else "")
    files = f'pathlib.Path({json.dumps(str(layout.root / "features"))}).glob("*.npy")'
    save = f"[numpy.save(p, x.T) for p in {files} if (x := numpy.load(p)).ndim == 2 and {condition}]"
    code = f"import numpy, pathlib; {save}"
    fix = f"transpose them: python -c {shlex.quote(code)}"
    stride = _common_stride(videos)
    if {video.rows for video in videos} == {first.rows} and stride is not None and stride > 1:
        fix += f" (or, if D is {first.rows}, there is one vector per {stride} frames: give --feature-stride {stride})"
    return Problem(layout.features(first.name), None, what, fix)


def _common_stride(videos: list[_Video]) -> int | None:
    """Frames per feature vector, if one number explains all lengths."""
    known = sorted({max(1, round(video.labels / video.columns)) for video in videos})
    errors = {k: sum(abs(difference(v.columns, v.labels, k)) for v in videos) for k in known}
    best = min(known, key=errors.__getitem__)
    return best if all(_near(video.columns, video.labels, best) for video in videos) else None


def _misfit(layout: Layout, wrong: list[_Video], videos: list[_Video], sampling: Sampling) -> Problem:
    """What is said of (D, vectors) features whose number of vectors does not fit the labels."""
    first = wrong[0]
    seen = f"{first.labels} labels, but {layout.features(first.name)} has {first.columns} feature vectors"
    count = f"{len(wrong)} of {len(videos)} videos"
    stride = _common_stride(videos)
    if stride is None:
        return Problem(layout.features(first.name), None, *_no_stride(seen, wrong, videos))
    need = max(abs(difference(video.columns, video.labels, stride)) for video in videos)
    accept = f"--length-tolerance {need}" if need > sampling.tolerance else ""
    if stride != sampling.feature_stride:
        per, expected = ("frame" if k == 1 else f"{k} frames" for k in (stride, sampling.feature_stride))
        what = f"{seen}: one per {per}, not per {expected} (in {count})"
        fix = " ".join(filter(None, (f"give --feature-stride {stride}", accept)))
        if sampling.stride > 1:
            fix += f" (--stride counts feature vectors: with {sampling.stride}, every {sampling.stride}-th is used)"
        return Problem(layout.features(first.name), None, what, fix)
    what = f"{seen} of {stride} frames each" if stride > 1 else seen
    line = min(first.labels, first.columns * stride + 1)
    differ = f"{what} ({count} differ, by up to {need} frames)"
    return Problem(layout.ground_truth(first.name), line, differ, f"extract them again, or accept it by {accept}")


def _no_stride(seen: str, wrong: list[_Video], videos: list[_Video]) -> tuple[str, str]:
    """What is wrong, and the mend, if no stride explains all lengths."""
    ratios = Counter(float(f"{video.labels / video.columns:.3g}") for video in videos)
    low, high = min(ratios), max(ratios)
    if len(wrong) == len(videos) > 1 and high - low <= ALIKE * high:
        what = f"{seen}: {low:g} labels per vector, about the same in all {len(videos)} videos"
        mend = "give them by --feature-rate, as in 15/25, or extract the features at the frames of the labels"
        return what, f"features and labels have different frame rates; {mend}"
    if len(videos) > 1 and len({video.columns for video in videos}) == 1:
        what = f"{seen}, as all {len(videos)} videos have, however many labels they have"
        return what, "extract one vector per frame, or per N frames, rather than a fixed number per video"
    if len(ratios) > 3:
        spread = f"between {low:g} and {high:g}"
    else:
        spread = " and ".join(f"{ratio:g} (in {number})" for ratio, number in ratios.most_common())
    what = f"{seen}; labels per vector are {spread} in {len(videos)} videos"
    names = ", ".join(video.name for video in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
    return what, f"extract the features of {names} again, of all videos with one stride"
