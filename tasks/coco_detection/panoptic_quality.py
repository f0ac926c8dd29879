"""Panoptic quality, with crowds.

It is computed here because mmdet's CocoPanopticMetric needs the package panopticapi, which is not on PyPI.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOID = 0
"""Segment id of pixels that belong to nothing."""

Ids = NDArray[np.int64]
Segments = Iterable[Mapping[str, Any]]


def rgb_to_id(pixels: NDArray[np.integer]) -> Ids:
    """Segment ids of a panoptic PNG: (H, W, 3) in RGB -> (H, W), r + 256 g + 256^2 b."""
    return pixels.astype(np.int64) @ np.array([1, 256, 256**2])


@dataclass
class Counts:
    """What was counted for one category: matched pairs, their summed IoU, and segments without a match."""

    matched: int = 0
    iou: float = 0.0
    false_positives: int = 0
    false_negatives: int = 0


class PanopticQuality:
    """Panoptic quality of any number of images (Kirillov et al., "Panoptic Segmentation", CVPR 2019, equation 1).

    Of each category, PQ = sum of the IoU of matched pairs / (TP + FP / 2 + FN / 2), SQ = their mean IoU and
    RQ = TP / (TP + FP / 2 + FN / 2); reported is the mean over the categories that occur in truth or prediction. A
    truth and a predicted segment of one category match if their IoU is above 0.5, which only one pair can be.

    As in the paper's section 4.2 and its reference code: truth pixels that are void count to no union; unmatched
    predictions that lie by more than half in void and crowd regions of their category are no false positives, and
    crowd segments are neither matched nor missed.
    """

    def __init__(self) -> None:
        self.counts: dict[int, Counts] = {}

    def add(self, truth: Ids, truth_segments: Segments, predicted: Ids, predicted_segments: Segments) -> None:
        """Count one image.

        Args:
            truth, predicted: (H, W), a segment's id in every pixel, `VOID` where there is none.
            truth_segments, predicted_segments: each with id and category_id, perhaps iscrowd.

        Raises:
            ValueError: if the sizes differ, or pixels hold an id without a segment.
        """
        if truth.shape != predicted.shape:
            raise ValueError(f"truth is {truth.shape} pixels, the prediction {predicted.shape}")
        truths = {s["id"]: s for s in truth_segments}
        predictions = {s["id"]: s for s in predicted_segments}
        overlap = _overlaps(truth, predicted)
        truth_area, predicted_area = _areas(overlap, 0), _areas(overlap, 1)
        for ids, segments, which in ((truth_area, truths, "truth"), (predicted_area, predictions, "prediction")):
            if unknown := ids.keys() - segments.keys() - {VOID}:
                raise ValueError(f"the {which} has pixels of segment {min(unknown)}, which is not listed")

        void = {p: area for (t, p), area in overlap.items() if t == VOID}
        matched_truths, matched_predictions = set[int](), set[int]()
        for (t, p), area in overlap.items():
            if t == VOID or p == VOID or truths[t].get("iscrowd"):
                continue
            category = truths[t]["category_id"]
            union = truth_area[t] + predicted_area[p] - area - void.get(p, 0)
            if category == predictions[p]["category_id"] and area > 0.5 * union:
                counts = self.counts.setdefault(category, Counts())
                counts.matched += 1
                counts.iou += area / union
                matched_truths.add(t)
                matched_predictions.add(p)
        crowds = {s["category_id"]: t for t, s in truths.items() if s.get("iscrowd")}
        for t, segment in truths.items():
            if t not in matched_truths and not segment.get("iscrowd"):
                self.counts.setdefault(segment["category_id"], Counts()).false_negatives += 1
        for p, segment in predictions.items():
            if p in matched_predictions or p not in predicted_area:
                continue
            ignored = void.get(p, 0) + overlap.get((crowds.get(segment["category_id"], VOID), p), 0) * (
                segment["category_id"] in crowds
            )
            if ignored <= 0.5 * predicted_area[p]:
                self.counts.setdefault(segment["category_id"], Counts()).false_positives += 1

    def scores(self) -> dict[str, float]:
        """PQ, SQ and RQ in percent; 0 if nothing was counted."""
        counted = list(self.counts.values())
        if not counted:
            return {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0}
        segments = [c.matched + 0.5 * (c.false_positives + c.false_negatives) for c in counted]
        return {
            "PQ": 100 * float(np.mean([c.iou / n for c, n in zip(counted, segments, strict=True)])),
            "SQ": 100 * float(np.mean([c.iou / c.matched if c.matched else 0.0 for c in counted])),
            "RQ": 100 * float(np.mean([c.matched / n for c, n in zip(counted, segments, strict=True)])),
        }


def _overlaps(truth: Ids, predicted: Ids) -> dict[tuple[int, int], int]:
    """Pixels of every pair of a truth and a predicted segment that overlap."""
    offset = int(predicted.max()) + 1
    pairs, areas = np.unique(truth * offset + predicted, return_counts=True)
    return {divmod(pair, offset): area for pair, area in zip(pairs.tolist(), areas.tolist(), strict=True)}


def _areas(overlap: Mapping[tuple[int, int], int], which: int) -> dict[int, int]:
    areas: dict[int, int] = {}
    for pair, area in overlap.items():
        areas[pair[which]] = areas.get(pair[which], 0) + area
    return areas
