"""Frame accuracy, Edit and segmental F1 of action segmentation.

Definitions: Lea et al., "Temporal Convolutional Networks for Action Segmentation and Detection", CVPR 2017;
pooling is as in the MS-TCN family: within a fold, accuracy pools frames, F1 pools the counts of
segments, and Edit is a mean over videos. The caller averages folds.

Labels are names or integers, in anything that `numpy.asarray` turns into a 1-d array.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rapidfuzz.distance import Levenshtein

Label = str | int
LastSegment = Literal["i", "i+1"]
"""Where the last segment of T frames ends: "i" at T - 1 (RF-Next, MS-TCN++, ASFormer), "i+1" at T."""

OVERLAPS = (10, 25, 50)
"""Thresholds of the F1 scores: intersection over union in percent."""


class Segments(NamedTuple):
    """Runs of equal labels, in time order; segment k covers the frames start[k] <= t < end[k]."""

    label: NDArray
    start: NDArray[np.int64]
    end: NDArray[np.int64]


def segments(labels: ArrayLike) -> Segments:
    """Cut `labels` (T) into its runs of equal labels, background included. Raises ValueError if T is 0."""
    frames = _frames(labels)
    start = np.flatnonzero(np.concatenate(([True], frames[1:] != frames[:-1])))
    return Segments(frames[start], start, np.append(start[1:], len(frames)))


def edit_score(prediction: ArrayLike, truth: ArrayLike, background: Iterable[Label] = ()) -> float:
    """Edit score of one video, 0 to 100: 100 * (1 - L / n), where L is the Levenshtein distance between the
    two sequences of segment labels and n the length of the longer one. Lengths of segments do not matter.

    Segments labelled as `background` are left out; if that leaves none in both, the score is 100.
    """
    background = tuple(background)
    first, second = (
        found.label[~_is_one_of(found.label, background)] for found in (segments(prediction), segments(truth))
    )
    longer = max(len(first), len(second))
    return 100.0 * (1.0 - Levenshtein.distance(first.tolist(), second.tolist()) / longer) if longer else 100.0


def f1_counts(
    prediction: ArrayLike,
    truth: ArrayLike,
    overlap: float,
    background: Iterable[Label] = (),
    last_segment: LastSegment = "i+1",
) -> tuple[int, int, int]:
    """True positives, false positives and false negatives among the segments of one video.

    Every predicted segment is matched with the true segment of the same label that has the highest intersection over
    union (the first one of equals). It is a true positive if that is at least `overlap` (0.1, 0.25, 0.5) and no earlier
    segment has the same match; else it is a false positive. True segments without a match are false negatives.

    prediction, truth: (T). Segments labelled as `background` are left out.
    Raises ValueError if the two differ in length or kind, or are empty, or if `overlap` is not in (0, 1].
    """
    if not 0 < overlap <= 1:
        raise ValueError(f"overlap is {overlap}; give a fraction above 0, at most 1")
    background = tuple(background)
    prediction, truth = _pair(prediction, truth)
    return _counts(_overlaps(prediction, truth, background, last_segment), overlap)


def score(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]],
    *,
    background: Iterable[Label] = ("background",),
    last_segment: LastSegment = "i+1",
) -> dict[str, float]:
    """All metrics of one fold, in percent: accuracy, edit, f1@10, f1@25, f1@50.

    pairs: (prediction, truth) of every video, (T) each.
    background: labels whose segments count neither in Edit nor in F1 (accuracy counts every frame).
    Raises ValueError if there is no pair, or if a pair differs in length or kind, or is empty.
    """
    background = tuple(background)
    correct = frames = 0
    edits: list[float] = []
    counts = np.zeros((len(OVERLAPS), 3), dtype=np.int64)
    for prediction, truth in pairs:
        prediction, truth = _pair(prediction, truth)
        correct += int(np.count_nonzero(prediction == truth))
        frames += len(truth)
        edits.append(edit_score(prediction, truth, background))
        overlaps = _overlaps(prediction, truth, background, last_segment)
        counts += [_counts(overlaps, percent / 100) for percent in OVERLAPS]
    if not edits:
        raise ValueError("nothing to score: there is no pair of a prediction and a truth")
    f1 = {f"f1@{percent}": _f1(*row) for percent, row in zip(OVERLAPS, counts.tolist(), strict=True)}
    return {"accuracy": 100.0 * correct / frames, "edit": float(np.mean(edits)), **f1}


class _Overlaps(NamedTuple):
    iou: NDArray[np.float64]  # per predicted segment: that of its best true segment
    best: NDArray[np.int64]  # which one
    predicted: int
    true: int


def _overlaps(
    prediction: NDArray, truth: NDArray, background: tuple[Label, ...], last_segment: LastSegment
) -> _Overlaps:
    """The best match of every predicted segment.

    Only segments that share frames can match. Each such pair is a run between two neighbouring boundaries of either
    sequence, so the number of pairs is at most the sum of the two numbers of segments, not their product.
    """
    if last_segment not in ("i", "i+1"):
        raise ValueError(f'last_segment is {last_segment!r}; give "i" or "i+1"')
    predicted, true = segments(prediction), segments(truth)
    start = np.union1d(predicted.start, true.start)
    end = np.append(start[1:], len(truth))
    if last_segment == "i":
        for ends in (predicted.end, true.end, end):
            ends[-1] -= 1
    p = np.searchsorted(predicted.start, start, side="right") - 1
    t = np.searchsorted(true.start, start, side="right") - 1
    intersection = end - start
    union = (predicted.end - predicted.start)[p] + (true.end - true.start)[t] - intersection
    alike = (predicted.label[p] == true.label[t]) & (union > 0)
    iou = np.divide(intersection, union, out=np.zeros(len(start)), where=alike)

    foreground = ~_is_one_of(predicted.label, background)
    # Sorted by segment, then by falling overlap, then by time: the first run of each segment is its best.
    order = np.lexsort((t, -iou, p))
    best = order[np.searchsorted(p, np.flatnonzero(foreground))]
    return _Overlaps(iou[best], t[best], len(best), int(np.count_nonzero(~_is_one_of(true.label, background))))


def _counts(overlaps: _Overlaps, overlap: float) -> tuple[int, int, int]:
    hits = len(np.unique(overlaps.best[overlaps.iou >= overlap]))
    return hits, overlaps.predicted - hits, overlaps.true - hits


def _f1(tp: int, fp: int, fn: int) -> float:
    """Harmonic mean of precision and recall in percent; 100 if there is no true and no predicted segment."""
    return 200.0 * tp / (2 * tp + fp + fn) if tp + fp + fn else 100.0


def _is_one_of(labels: NDArray, background: Sequence[Label]) -> NDArray[np.bool_]:
    found = np.zeros(len(labels), dtype=bool)
    for label in background:
        found |= labels == label  # a name never equals an integer
    return found


def _frames(labels: ArrayLike) -> NDArray:
    frames = np.asarray(labels)
    if frames.ndim != 1 or len(frames) == 0 or frames.dtype.kind not in "iuUT":
        raise ValueError(f"give a non-empty 1-d sequence of names or of integers, not {frames.dtype} {frames.shape}")
    return frames


def _pair(prediction: ArrayLike, truth: ArrayLike) -> tuple[NDArray, NDArray]:
    first, second = _frames(prediction), _frames(truth)
    if len(first) != len(second):
        raise ValueError(f"the prediction has {len(first)} frames, the truth {len(second)}")
    if (first.dtype.kind in "iu") != (second.dtype.kind in "iu"):
        raise ValueError(f"the prediction is {first.dtype}, the truth {second.dtype}: give names or integers for both")
    return first, second
