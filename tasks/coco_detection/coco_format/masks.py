"""Segmentations in COCO's format: what is wrong with one, and its area.

Nothing that has a fault here may reach pycocotools, whose C code hangs, crashes or fills the memory on some of it.
"""

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tasks.image_files import Fault

SLACK = 1.0
"""Pixels by which boxes and polygons may reach over the border, as COCO's do by fractions and those of tools that count
from 1 do. They are taken as they are: pycocotools and mmdet cut off what lies outside."""

LONGEST = 2**20
"""Pixels of the longest outline of a polygon. pycocotools needs 80 bytes for each, however few points there are."""

FIX_POLYGONS = "give polygons [[x1, y1, x2, y2, ...], ...] in pixels, of at least three points each"
FIX_OUTSIDE = "keep it inside the image; check --fix clips what reaches out by less than a tenth of the image"
FIX_MISSING = "add masks, or train and score boxes alone: --detector res2net-boxes, check --boxes"
FIX_FLAT = "put it into a list of polygons: [[x1, y1, x2, y2, ...]]; check --fix does"
FIX_LONG = "trace the object's border once, or give run lengths"
FIX_RLE = 'give run lengths {"size": [height, width], "counts": ...} that add up to height x width'


def fault(segmentation: Any, width: int, height: int) -> Fault | None:
    """What is wrong with the mask of an object in an image of this size, said after "has", or None."""
    if segmentation is None:
        return "no segmentation", FIX_MISSING
    if segmentation in ([], {}):
        return f"an empty segmentation, {segmentation!r}", FIX_MISSING
    if isinstance(segmentation, dict):
        return _rle_fault(segmentation, width, height)
    if not isinstance(segmentation, list):
        return f"segmentation {segmentation!r:.60}", FIX_POLYGONS
    if not isinstance(segmentation[0], list):
        if set(map(type, segmentation)) <= {int, float}:
            return "a segmentation that is one flat list of numbers", FIX_FLAT
        return f"segmentation {segmentation!r:.60}", FIX_POLYGONS
    for polygon in segmentation:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            return f"a polygon that is no list of numbers: {polygon!r:.60}", FIX_POLYGONS
        if len(polygon) % 2 or not finite(polygon):
            return f"a polygon of {len(polygon)} numbers, not finite pairs x, y: {polygon!r:.60}", FIX_POLYGONS
    polygons = usable(segmentation)
    if not polygons:
        return f"no polygon of three points: {segmentation!r:.60}", FIX_POLYGONS
    for polygon in polygons:
        across, down = polygon[::2], polygon[1::2]
        if min(polygon) < -SLACK or max(across) > width + SLACK or max(down) > height + SLACK:
            ends = f"x {min(across):g} to {max(across):g}, y {min(down):g} to {max(down):g}"
            return f"a polygon outside its image of {width} x {height}: {ends}", FIX_OUTSIDE
        widest = max(max(across) - min(across), max(down) - min(down))
        if len(across) * widest > LONGEST and (length := _length(polygon)) > LONGEST:
            return f"a polygon of an outline of {length:,} pixels, more than the {LONGEST:,} that are read", FIX_LONG
    return None


def usable(polygons: list[list[float]]) -> list[list[float]]:
    """Polygons of at least three points; pycocotools takes one of two points for a box."""
    return [polygon for polygon in polygons if len(polygon) >= 6]


def _length(polygon: list[float]) -> int:
    """Pixels that pycocotools visits along an outline: the larger of the steps across and down of each side."""
    points = np.reshape(polygon, (-1, 2))
    return int(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def finite(values: list[float]) -> bool:
    """Whether all are finite and fit a float."""
    try:
        return math.isfinite(sum(values))
    except OverflowError:
        return False


def _rle_fault(segmentation: dict[str, Any], width: int, height: int) -> Fault | None:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if not isinstance(size, list) or size != [height, width] or set(map(type, size)) != {int}:
        return f"run lengths of size {size!r:.60}, in an image of [{height}, {width}] (height, width)", FIX_RLE
    if isinstance(counts, str):
        # No mask needs more: a number has one character, and another one for every 16 pixels that it counts at least.
        runs = decoded(counts) if len(counts) <= 2 * width * height + 8 else None
        if runs is None:
            return f"malformed run lengths {counts!r:.40}", FIX_RLE
        counts = runs.tolist()
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        return f"run lengths {counts!r:.40}", FIX_RLE
    if len(counts) > width * height + 2:
        return f"{len(counts):,} run lengths, more than pixels", FIX_RLE
    if min(counts, default=0) < 0 or sum(counts) != width * height:
        return f"run lengths that are negative or do not add up to {width} x {height}", FIX_RLE
    return None if any(counts[1::2]) else ("a mask without a pixel", "remove the annotation")


def decoded(text: str) -> NDArray[np.int64] | None:
    """Run lengths of COCO's compressed form, (n,); None if it is malformed.

    Each number is written in groups of five bits, lowest first, one character each: 48 + bits, + 32 if another one
    follows; the last group's fifth bit is the sign. From the fourth number on it is the difference to the last but one.
    """
    if not text.isascii():
        return None
    groups = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or groups[-1] & 32:
        return None
    ends = np.flatnonzero(groups & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        return None
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    values = np.add.reduceat((groups & 31) << 5 * place, starts)
    values -= np.where(groups[ends] & 16, 1 << 5 * lengths, 0)
    for first in (1, 2):
        values[first::2] = values[first::2].cumsum()
    return values


def area(segmentation: Any, width: int, height: int) -> float:
    """Pixels of a mask without a fault."""
    from pycocotools import mask

    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
        return float(sum(segmentation["counts"][1::2]))
    if isinstance(segmentation, list):
        polygons: Any = usable(segmentation)
        segmentation = mask.merge(mask.frPyObjects(polygons, height, width))
    return float(mask.area(cast(Any, segmentation)))
