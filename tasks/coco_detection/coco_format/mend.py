"""A mended copy of a data folder's annotations: what has exactly one right mend is mended, and the rest is refused.

Mended: ids of annotations that are missing, of another kind, below 1 or not unique (numbered anew); ids of images and
categories that are text (numbered from 1); a missing iscrowd (0) and a missing or impossible area (that of the mask, or
of the box); boxes and polygons that reach out of the image by less than a tenth of its size (clipped at the border);
polygons of less than three points beside others (removed) and a flat list that is one polygon (put into a list);
objects of no size (removed). Everything else in the files is kept as it is.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from tasks.coco_detection.coco_format import masks
from tasks.coco_detection.coco_format.annotations import (
    FIX_EMPTY,
    Content,
    Kind,
    area,
    area_is_sound,
    check_lists,
    examine,
    reach,
)
from tasks.coco_detection.coco_format.layout import Layout, parse
from tasks.spec import DataError, fail

TENTH = 0.1
"""Share of an image's size by which something may reach out and still be clipped: more is no slip of the hand."""


def mend(layout: Layout, kind: Kind, out: Path) -> list[str]:
    """Write a data folder of mended annotations, with links to the images; returns what was changed, a line each.

    Panoptic annotations are linked to as they are.

    Raises:
        DataError: at the first problem that has no one mend; nothing is written then.
        OSError: if nothing can be written.
    """
    if out.exists():
        raise DataError(f"{out}: exists; give a folder that does not")
    changes: list[str] = []
    written: dict[Path, Content] = {}
    for name in dict.fromkeys((layout.train, layout.test)):
        path = layout.file(kind, name)
        content = parse(path, fail)
        assert content is not None  # `fail` never returns
        counts = _mended(path, content, kind, training=layout.is_training(name))
        changes += [f"{path}: {what}: {count}" for what, count in counts.items()]
        written[path] = content
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        (building / "annotations").mkdir()
        for path, content in written.items():
            (building / path.relative_to(layout.root)).write_text(json.dumps(content), "utf-8")
        for name in dict.fromkeys((layout.train, layout.test)):
            linked = (layout.images(name), layout.panoptic(name), layout.panoptic_maps(name))
            for path in filter(Path.exists, linked):
                (building / path.relative_to(layout.root)).symlink_to(path.resolve())
        building.chmod(0o755)  # mkdtemp makes folders private
        os.rename(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return changes or ["nothing to mend"]


MENDABLE = (masks.FIX_OUTSIDE, masks.FIX_FLAT, FIX_EMPTY)
"""Faults that may have one mend; whether they have is seen afterwards."""


def _mended(path: Path, content: Content, kind: Kind, *, training: bool) -> Counter[str]:
    """Mend in place; returns what was done -> how often. Raises DataError at a fault that has no one mend."""
    for what, fix in check_lists(content, kind):
        fail(path, None, what, fix)
    for what, fix in examine(content, kind, training=training)[0]:
        if fix not in MENDABLE:
            fail(path, None, what, fix)
    changes: Counter[str] = Counter()
    images = {image["id"]: image for image in content["images"]}
    entries = content["annotations"]
    entries[:] = [entry for entry in entries if _mend_entry(entry, images[entry["image_id"]], kind, changes)]
    if not entries:
        fail(path, None, "no annotation has a size", "annotate at least one object")
    ids = [entry.get("id") for entry in entries]
    if any(type(id_) is not int or id_ < 1 for id_ in ids) or len(set(ids)) < len(ids):
        changes["annotations numbered anew"] = len(entries)
        for number, entry in enumerate(entries, 1):
            entry["id"] = number
    for key, reference in (("images", "image_id"), ("categories", "category_id")):
        _number_text(content, key, reference, changes)
    for what, fix in examine(content, kind, training=training)[0]:
        fail(path, None, what, fix)
    return changes


def _number_text(content: Content, key: str, reference: str, changes: Counter[str]) -> None:
    """Replace the ids of images or categories by numbers if one of them is text."""
    if all(isinstance(entry["id"], int) for entry in content[key]):
        return
    numbers = {entry["id"]: number for number, entry in enumerate(content[key], 1)}
    changes[f"{key} numbered from 1"] = len(numbers)
    for entry in content[key]:
        entry["id"] = numbers[entry["id"]]
    for entry in content["annotations"]:
        entry[reference] = numbers[entry[reference]]


def _mend_entry(entry: dict[str, Any], image: dict[str, Any], kind: Kind, changes: Counter[str]) -> bool:
    """Mend an annotation with a sound image and box in place; False: it is to be removed."""
    size = image["width"], image["height"]
    if "iscrowd" not in entry:
        entry["iscrowd"] = 0
        changes["annotations that got iscrowd 0"] += 1
    mask = entry.get("segmentation") if kind == "instances" else None
    if isinstance(mask, list) and mask:
        entry["segmentation"] = mask = _mend_polygons(mask, size, changes)
    if masks.SLACK < reach(entry["bbox"], image) < TENTH * min(size):
        x, y, width, height = entry["bbox"]
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + width, size[0]), min(y + height, size[1])
        entry["bbox"] = [left, top, max(right - left, 0), max(bottom - top, 0)]
        changes["boxes clipped at the border of the image"] += 1
    if not min(entry["bbox"][2:]):
        changes["annotations of no size removed"] += 1
        return False
    sound = mask is not None and masks.fault(mask, *size) is None
    if not area_is_sound(entry.get("area"), image):
        entry["area"] = area(entry, image, with_mask=sound)
        changes["areas computed"] += 1
    return True


def _mend_polygons(mask: list[Any], size: tuple[int, int], changes: Counter[str]) -> list[Any]:
    if set(map(type, mask)) <= {int, float}:
        changes["flat polygons put into a list"] += 1
        mask = [mask]
    numbers = all(isinstance(p, list) and set(map(type, p)) <= {int, float} and masks.finite(p) for p in mask)
    if not numbers or any(len(polygon) % 2 for polygon in mask) or not masks.usable(mask):
        return mask
    if len(usable := masks.usable(mask)) < len(mask):
        changes["polygons of less than three points removed"] += len(mask) - len(usable)
    ends = [(min(p[::2]), min(p[1::2]), max(p[::2]), max(p[1::2])) for p in usable]
    out = max(max(-left, -top, right - size[0], bottom - size[1]) for left, top, right, bottom in ends)
    if not masks.SLACK < out < TENTH * min(size):
        return usable
    changes["masks clipped at the border of the image"] += 1
    return [clipped for polygon in usable if len(clipped := clip(polygon, *size)) >= 6]


def clip(polygon: list[float], width: int, height: int) -> list[float]:
    """The part of a polygon inside an image, by Sutherland and Hodgman: border by border."""
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    for axis, bound, sign in ((0, 0, 1), (1, 0, 1), (0, width, -1), (1, height, -1)):
        kept = []
        for k, point in enumerate(points):
            before = points[k - 1]
            here, there = sign * (point[axis] - bound), sign * (before[axis] - bound)
            if (here < 0) != (there < 0):
                share = there / (there - here)
                crossing = [a + share * (b - a) for a, b in zip(before, point, strict=True)]
                crossing[axis] = bound
                kept.append(tuple(crossing))
            if here >= 0:
                kept.append(point)
        points = kept
    return [value for point in points for value in point]
