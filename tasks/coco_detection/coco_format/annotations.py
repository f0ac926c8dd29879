"""What is wrong with the entries of an annotation file in COCO's format.

Faults make a file unusable: a training refuses it and `check` says all of them. What counts as something, or as
nothing, is a remark: it is used, and said once.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from tasks.coco_detection.coco_format import masks
from tasks.coco_detection.coco_format.masks import SLACK
from tasks.image_files import LARGEST, SMALLER, Fault

Kind = Literal["instances", "boxes", "panoptic"]
"""What is read: boxes and masks; the same files, but boxes alone; panoptic segments."""

Content = dict[str, list[dict[str, Any]]]
"""A COCO file: "images", "annotations" and "categories"."""

LONGEST_NAME = 1000
"""Characters of a file name, folders included."""

FIX_ENTRY = "fix that entry"
FIX_IDS = "give each its own"
FIX_EMPTY = "remove it, since it cannot be found; check --fix does"
FIX_CORNERS = "write [x, y, width, height], with width = x2 - x1 and height = y2 - y1"
FIX_CROWD = "write 1 for a crowd or a region to ignore, otherwise 0"

CLASSES = {"instances": 2**14, "boxes": 2**14, "panoptic": 255}
"""Most categories of a file. mmdet marks pixels of no class by 255, so a panoptic class of that number is not learnt.
The largest data sets of boxes have some 13,000, and a detector's memory grows with them."""

MOST = 2**33
"""Pixels that the masks of one image have together: mmdet holds them all at once, a byte each, 8 GiB."""

DECIDING = 5
"""Fewest polygons that can say what the boxes of a file are meant to be. Of fewer, a slip of a hand would decide. Where
one box in twenty is a slip, three of five are so in one file of 860."""


class Faults:
    """The faults of one file, grouped by how to fix them: the first of each in full, and how many more there are."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, int]] = {}

    def add(self, what: str, fix: str) -> None:
        """Count a fault."""
        first, more = self._found.get(fix, (what, -1))
        self._found[fix] = first, more + 1

    def __bool__(self) -> bool:
        return bool(self._found)

    def __iter__(self) -> Iterator[Fault]:
        for fix, (what, more) in self._found.items():
            yield what + (f" (and {more} more like it)" if more else ""), fix


def examine(content: Content, kind: Kind, *, training: bool) -> tuple[Faults, list[str]]:
    """What is wrong with the annotations, and remarks on what counts as something else than it says.

    To be called after `check_lists` found no fault.
    training: of the training part, in which objects of no size are skipped instead of refused.
    """
    faults = Faults()
    if kind == "panoptic":
        check_panoptic(content, faults)
        return faults, []
    return faults, check_instances(content, with_masks=kind == "instances", training=training, faults=faults)


def check_lists(content: Content, kind: Kind) -> Faults:
    """What is wrong with images and categories: their fields, ids and names, which everything else relies on."""
    faults, panoptic = Faults(), kind == "panoptic"
    for key, name in (("images", "file_name"), ("categories", "name")):
        seen: dict[str, set[Any]] = {"id": set(), name: set()}
        for number, entry in enumerate(content[key]):
            if not isinstance(entry, dict):
                faults.add(f"{key}[{number}] is {entry!r:.40}", FIX_ENTRY)
                continue
            for field in _bad_fields(entry, key, panoptic=panoptic):
                faults.add(f"{key}[{number}] has {field} = {entry.get(field)!r:.60}", FIX_ENTRY)
            for field, values in seen.items():
                value = entry.get(field)
                if not isinstance(value, int | str):
                    continue
                if value in values:
                    faults.add(f"two of the {key} have {field} {value!r:.60}", FIX_IDS)
                values.add(value)
        if key == "images" and not faults:
            _check_names(content[key], faults)
    if (number := len(content["categories"])) > CLASSES[kind]:
        faults.add(f"{number:,} categories, at most {CLASSES[kind]:,} are told apart", "join or remove some")
    if panoptic and not faults:
        things = [bool(category["isthing"]) for category in content["categories"]]
        if things != sorted(things, reverse=True) or len(set(things)) < 2:
            fix = "list all things (isthing 1), then all stuff (isthing 0), at least one of each"
            faults.add("the categories are not things followed by stuff", fix)
    return faults


def _bad_fields(entry: dict[str, Any], key: str, *, panoptic: bool) -> Iterator[str]:
    """Fields that are missing or of another kind. Ids may be text, as some tools write them; all are numbered anew."""
    if not is_id(entry.get("id")):
        yield "id"
    name = "file_name" if key == "images" else "name"
    if not is_text(entry.get(name)):
        yield name
    for field in ("width", "height") if key == "images" else ():
        if type(entry.get(field)) is not int or not 1 <= entry[field] <= LARGEST:
            yield field
    if panoptic and key == "categories" and entry.get("isthing") not in (0, 1):
        yield "isthing"


def is_id(value: Any) -> bool:
    """Whether a value can be an id: a whole number or text."""
    return isinstance(value, int | str) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether a value is text that fits a line and can be written: without control characters and halves of others."""
    if not isinstance(value, str) or not value:
        return False
    return value.isprintable() or not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


def _check_names(entries: Iterable[dict[str, Any]], faults: Faults) -> None:
    """File names stay inside the folder of images, whoever wrote the annotations."""
    for number, entry in enumerate(entries):
        name = entry["file_name"]
        if not stays_inside(name):
            what = f"images[{number}] has file_name {name!r:.200}, which leads out of the folder of images"
            faults.add(what, "give names relative to that folder, without ..")
        elif len(name) > LONGEST_NAME:
            what = f"images[{number}] has a file_name of {len(name):,} characters, {name!r:.60}..."
            faults.add(what, f"give names of at most {LONGEST_NAME}")


def stays_inside(name: str) -> bool:
    """Whether a file name is relative and leads to no other folder than one below."""
    parts = name.replace("\\", "/").split("/")
    return not (parts[0] in ("", "~") or parts[0].endswith(":") or ".." in parts or not is_text(name))


def check_instances(content: Content, *, with_masks: bool, training: bool, faults: Faults) -> list[str]:
    """Boxes and masks; returns remarks."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    boxes, outside, remarks = _Boxes(), Faults(), _Remarks()
    for number, entry in enumerate(content["annotations"]):
        problem = _reference_fault(entry, images, categories) or box_fault(entry.get("bbox")) or _crowd_fault(entry)
        if problem is not None:
            faults.add(f"annotations[{number}] {problem[0]}", problem[1])
            continue
        image, box = images[entry["image_id"]], entry["bbox"]
        name = f"annotations[{number}] (id {entry.get('id')!r:.40}, of {image['file_name']})"
        remarks.add(entry, image)
        if not min(box[2:]):
            remarks.empty += 1
            if not training:
                faults.add(f"{name} has bbox {box} of no size", FIX_EMPTY)
            continue
        mask = entry.get("segmentation")
        problem = masks.fault(mask, image["width"], image["height"]) if with_masks else None
        if problem is not None:
            faults.add(f"{name} has {problem[0]}", problem[1])
        elif with_masks and isinstance(mask, list):
            remarks.short += len(masks.usable(mask)) < len(mask)
            boxes.add_mask(number, box, mask)
        boxes.add(box, image)
        if reach(box, image) > SLACK:
            what = f"{name} has bbox {box}, which reaches outside its image of {image['width']} x {image['height']}"
            outside.add(what, masks.FIX_OUTSIDE)
    for what, fix in boxes.meant_otherwise(bool(outside)) or outside:
        faults.add(what, fix)
    if with_masks:
        _check_memory(remarks.annotated, images, faults)
    remarks.elsewhere, remarks.corners = boxes.elsewhere, len(boxes.by_masks)
    return remarks.texts(content)


def _check_memory(masks_of: Mapping[Any, int], images: Mapping[Any, dict[str, Any]], faults: Faults) -> None:
    for image, number in masks_of.items():
        name, width, height = (images[image][field] for field in ("file_name", "width", "height"))
        if number * width * height > MOST:
            what = f"the {number:,} masks of {name} of {width} x {height} have more than {MOST:,} pixels together"
            faults.add(what, SMALLER)


def _reference_fault(entry: Any, images: dict[Any, Any], categories: set[Any]) -> Fault | None:
    """Whether an annotation belongs to an image and a category."""
    if not isinstance(entry, dict):
        return f"is {entry!r:.40}", FIX_ENTRY
    image, category = entry.get("image_id"), entry.get("category_id")
    if not is_id(image) or image not in images:
        return f"belongs to image {image!r:.40}, which is not listed", "are images and annotations of one file?"
    if "segments_info" not in entry and (not is_id(category) or category not in categories):
        return f"has category {category!r:.40}, which is not listed", "list that category, or fix the entry"
    return None


def box_fault(box: Any) -> Fault | None:
    """Whether a box is four finite numbers without negative sizes."""
    if not isinstance(box, list) or len(box) != 4 or not set(map(type, box)) <= {int, float} or not masks.finite(box):
        return f"has bbox {box!r:.80}, not [x, y, width, height]", "give four finite numbers, in pixels"
    if min(box[2:]) < 0:
        return f"has bbox {box!r:.80} of a negative size", FIX_CORNERS
    return None


def _crowd_fault(entry: dict[str, Any]) -> Fault | None:
    """Whether what says that an object does not count is 0 or 1."""
    for field in ("iscrowd", "ignore"):
        if entry.get(field, 0) not in (0, 1):
            return f"has {field} = {entry[field]!r:.40}", FIX_CROWD
    return None


def reach(box: list[float], image: dict[str, Any]) -> float:
    """How far a box reaches over the border of its image, in pixels; at most 0 if it does not."""
    x, y, width, height = box
    return max(-x, -y, x + width - image["width"], y + height - image["height"])


class _Boxes:
    """Whether the boxes of a file are what COCO's are: [x, y, width, height] in pixels."""

    def __init__(self) -> None:
        self.number, self.fractions, self.corners = 0, True, True
        self.by_masks: list[str] = []  # annotations whose polygons say that the box is of corners
        self.with_masks = self.elsewhere = 0  # those of which less than half is where their polygons are
        self.first_elsewhere = ""
        self.as_masks = 0  # those whose polygons say that it is of a corner and a size

    def add(self, box: list[float], image: dict[str, Any]) -> None:
        left, top, right, bottom = box
        self.number += 1
        self.fractions &= max(box) <= 1
        inside = right <= image["width"] + SLACK and bottom <= image["height"] + SLACK
        self.corners &= right > left and bottom > top and inside

    def add_mask(self, number: int, box: list[float], polygons: list[list[float]]) -> None:
        across = [value for polygon in polygons for value in polygon[::2]]
        down = [value for polygon in polygons for value in polygon[1::2]]
        extent = min(across), min(down), max(across), max(down)
        size = *extent[:2], extent[2] - extent[0], extent[3] - extent[1]
        near = [all(abs(a - b) <= 2 for a, b in zip(box, other, strict=True)) for other in (extent, size)]
        self.as_masks += near == [False, True]
        self.with_masks += 1
        if near == [False, False] and _overlap(box, extent) < 0.5:
            self.first_elsewhere = self.first_elsewhere or f"annotations[{number}] has bbox {box}"
            self.elsewhere += 1
        if near == [True, False]:
            self.by_masks.append(f"annotations[{number}] has bbox {box}")

    def meant_otherwise(self, outside: bool) -> list[Fault]:
        """The fault that all boxes share, if there is one. outside: some reach outside their images."""
        if self.number and self.fractions:
            return [("the boxes are fractions of their images: none is above 1", "multiply them by width and height")]
        if len(self.by_masks) > self.as_masks and len(self.by_masks) + self.as_masks >= DECIDING:
            what = f"{self.by_masks[0]}, which its polygons say is [x1, y1, x2, y2]"
            return [(what + f" ({len(self.by_masks)} of {self.number} boxes)", FIX_CORNERS)]
        if 2 * self.elsewhere > self.with_masks >= DECIDING:
            what = f"{self.first_elsewhere}, its polygons are elsewhere"
            return [(what + f" ({self.elsewhere} of {self.with_masks} boxes)", "give each object its own box and mask")]
        if outside and self.corners:
            return [(f"all {self.number} boxes look like [x1, y1, x2, y2], and some would reach outside", FIX_CORNERS)]
        return []


def _overlap(box: list[float], extent: tuple[float, float, float, float]) -> float:
    """Intersection over union of [x, y, width, height] and (x1, y1, x2, y2)."""
    (x, y, width, height), (left, top, right, bottom) = box, extent
    across, down = min(x + width, right) - max(x, left), min(y + height, bottom) - max(y, top)
    shared = max(across, 0) * max(down, 0)
    return shared / max(width * height + (right - left) * (bottom - top) - shared, 1e-9)


class _Remarks:
    """How often something is missing that counts as something."""

    def __init__(self) -> None:
        self.crowd = self.area = self.ignored = self.empty = self.short = self.tiny = 0
        self.annotated: Counter[Any] = Counter()
        self.elsewhere = self.corners = self.repeated = 0
        self._seen: set[int] = set()  # hashes take a fifth of the memory

    def add(self, entry: dict[str, Any], image: dict[str, Any]) -> None:
        self.crowd += "iscrowd" not in entry
        self.area += not area_is_sound(entry.get("area"), image)
        self.ignored += bool(entry.get("ignore", 0))
        same = hash((entry["image_id"], entry["category_id"], *entry["bbox"]))
        self.repeated += same in self._seen
        self._seen.add(same)
        self.tiny += 0 < min(entry["bbox"][2:]) < 1
        if min(entry["bbox"][2:]):
            self.annotated[entry["image_id"]] += 1

    def texts(self, content: Content) -> list[str]:
        ids = [entry.get("id") for entry in content["annotations"] if isinstance(entry, dict)]
        odd = sum(not is_id(value) for value in ids)
        twice = len(ids) - odd - len({value for value in ids if is_id(value)})
        bare = len(content["images"]) - len(self.annotated)
        texts = {
            "annotations without iscrowd, which counts as 0": self.crowd,
            "annotations without an area that their image can have, which is computed": self.area,
            "annotations with ignore, which counts as iscrowd 1: not learnt and not missed": self.ignored,
            "annotations of no size": self.empty,
            "boxes less than a pixel wide or high, which training skips": self.tiny,
            "masks with polygons of less than three points, which do not count": self.short,
            "annotations without an id that is a whole number or text, all of which are numbered anew": odd,
            "annotations with an id that another one has, all of which are numbered anew": twice,
            "boxes of which less than half is where their polygons are": self.elsewhere,
            "boxes that are [x1, y1, x2, y2] by their polygons, each taken for [x, y, width, height]": self.corners,
            "boxes that an object of that category and image has already, each of which counts": self.repeated,
            "images without an annotation, which training skips": bare,
        }
        return [f"{text}: {count}" for text, count in texts.items() if count]


def area_is_sound(area: Any, image: dict[str, Any]) -> bool:
    """Whether an area is a number of pixels that the image has. Without one, mmdet skips the object."""
    return type(area) in (int, float) and 0 < area <= image["width"] * image["height"]


def area(entry: dict[str, Any], image: dict[str, Any], *, with_mask: bool) -> float:
    """Area of an annotation without a fault, in pixels: of its mask, or else of its box."""
    found = masks.area(entry["segmentation"], image["width"], image["height"]) if with_mask else 0.0
    return found or float(entry["bbox"][2] * entry["bbox"][3])


def check_panoptic(content: Content, faults: Faults) -> None:
    """Panoptic segments, and that every image has them."""
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    annotated: Counter[Any] = Counter()
    for number, entry in enumerate(content["annotations"]):
        name = f"annotations[{number}]"
        problem = _reference_fault({"segments_info": [], **entry} if isinstance(entry, dict) else entry, images, set())
        if problem is not None:
            faults.add(f"{name} {problem[0]}", problem[1])
            continue
        if not isinstance(entry.get("file_name"), str) or not isinstance(entry.get("segments_info"), list):
            faults.add(f"{name} has no file_name or no list segments_info", FIX_ENTRY)
            continue
        if entry["image_id"] in annotated:
            faults.add(f"{name} is a second one of image {entry['image_id']!r:.60}", "keep one of each image")
        annotated[entry["image_id"]] += len(entry["segments_info"])
        seen: set[int] = set()
        for segment in entry["segments_info"]:
            what = _segment_fault(segment, images[entry["image_id"]], categories, seen)
            if what is not None:
                faults.add(f"{name} {what[0]}", what[1])
    _check_memory(annotated, images, faults)
    for image_id in images.keys() - annotated.keys():
        faults.add(f"image {image_id!r:.60} has no panoptic annotation", "add it, or take the image out")
    _check_names(
        [e for e in content["annotations"] if isinstance(e, dict) and isinstance(e.get("file_name"), str)], faults
    )


def _segment_fault(segment: Any, image: dict[str, Any], categories: set[Any], seen: set[int]) -> Fault | None:
    category = segment.get("category_id") if isinstance(segment, dict) else segment
    if not is_id(category) or category not in categories:
        return f"has category {category!r:.40}, which is not listed", "list that category, or fix the entry"
    number = segment.get("id")
    if type(number) is not int or not 0 < number < 256**3 or number in seen:
        return f"has a segment of id {number!r:.40}", "give the number of its pixels in the PNG, above 0, each once"
    seen.add(number)
    problem = box_fault(segment.get("bbox")) or _crowd_fault(segment)
    if problem is None and reach(segment["bbox"], image) > SLACK:
        problem = f"has bbox {segment['bbox']}, outside its image of {image['width']} x {image['height']}", FIX_ENTRY
    return problem
