"""COCO's layout: where the files of a data folder lie, reading them, and saying what is wrong with them.

    ROOT/annotations/instances_<part>.json            things: boxes and masks
    ROOT/<part>/<file_name>                           the images
    ROOT/annotations/panoptic_<part>.json             things and stuff, only for panoptic detectors
    ROOT/annotations/panoptic_<part>/<file_name>      PNGs with a segment's id in every pixel

COCO's own parts are train2017 and val2017. Every function that reads takes a `Report`: readers are given
`tasks.spec.fail`, which raises at the first problem, and `tasks.coco_detection.check` collects them all.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tasks.spec import Report

Kind = Literal["instances", "panoptic"]

DOWNLOADS = """from https://cocodataset.org/#download get train2017.zip (18 GB), val2017.zip (1 GB), \
annotations_trainval2017.zip and, for panoptic detectors, panoptic_annotations_trainval2017.zip, and unpack them there \
(of the last one also the two zip files inside, in annotations/)"""
"""What COCO needs and where it is."""


@dataclass(frozen=True)
class Layout:
    """Where the files of a data folder lie. train, test: the names of its two parts, as in "train2017"."""

    root: Path
    train: str = "train2017"
    test: str = "val2017"

    @property
    def annotations(self) -> Path:
        """Folder of the annotations."""
        return self.root / "annotations"

    def images(self, name: str) -> Path:
        """Folder of a part's images."""
        return self.root / name

    def instances(self, name: str) -> Path:
        """Boxes and masks of a part."""
        return self.annotations / f"instances_{name}.json"

    def panoptic(self, name: str) -> Path:
        """Panoptic annotations of a part."""
        return self.annotations / f"panoptic_{name}.json"

    def panoptic_maps(self, name: str) -> Path:
        """Folder of a part's panoptic PNGs."""
        return self.annotations / f"panoptic_{name}"

    def file(self, kind: Kind, name: str) -> Path:
        """The annotations of a kind of a part."""
        return self.instances(name) if kind == "instances" else self.panoptic(name)


Content = dict[str, list[dict[str, Any]]]
"""A COCO file: "images", "annotations" and "categories"."""


def read(layout: Layout, kind: Kind, name: str, report: Report) -> Content | None:
    """A part's annotations, with what the detectors rely on checked; None, once reported, if they are of no use.

    Checked: the structure of all entries, that annotations belong to listed images and categories, that there is
    an image file for each image and, for panoptic annotations, a PNG for each annotation.
    """
    path = layout.file(kind, name)
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        report(path, None, "no such file", f"add it; of COCO: {DOWNLOADS}" if name.endswith("2017") else "add it")
        return None
    except (OSError, UnicodeDecodeError) as error:
        report(path, None, f"cannot be read ({error})", "make it a readable UTF-8 file")
        return None
    except ValueError as error:
        report(path, None, f"broken JSON ({error})", "was the download cut off? Get it again")
        return None
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        report(
            path, None, "not COCO annotations: it needs the lists images, annotations and categories", "export it anew"
        )
        return None
    for key in keys:
        if not content[key]:
            report(path, None, f"the list {key} is empty", "export it with at least one entry")
            return None
    if not _entries_are_sound(path, kind, content, report):
        return None
    _check_files(layout.images(name), path, [image["file_name"] for image in content["images"]], report)
    if kind == "panoptic":
        maps = [annotation["file_name"] for annotation in content["annotations"]]
        _check_files(layout.panoptic_maps(name), path, maps, report)
    return content


def _entries_are_sound(path: Path, kind: Kind, content: Content, report: Report) -> bool:
    """Whether every entry has what it needs; reports the first bad one of each list."""
    wanted: dict[str, dict[str, Any]] = {
        "images": {"id": int, "file_name": str, "width": int, "height": int},
        "categories": {"id": int, "name": str},
    }
    wanted["annotations"] = (
        {"id": int, "image_id": int, "category_id": int, "bbox": list, "area": (int, float)}
        if kind == "instances"
        else {"image_id": int, "file_name": str, "segments_info": list}
    )
    if kind == "panoptic":
        wanted["categories"]["isthing"] = int
    for key, fields in wanted.items():
        for number, entry in enumerate(content[key]):
            for field, type_ in fields.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(field), type_):
                    value = entry.get(field) if isinstance(entry, dict) else entry
                    report(path, None, f"{key}[{number}] has {field} = {value!r}", "fix that entry")
                    return False
    for key, field in (("images", "id"), ("categories", "id"), ("categories", "name")):
        values = [entry[field] for entry in content[key]]
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            report(path, None, f"two of the {key} have {field} {twice!r}", "give each its own")
            return False
    if kind == "panoptic":
        things = [bool(category["isthing"]) for category in content["categories"]]
        if things != sorted(things, reverse=True) or len(set(things)) < 2:
            fix = "list all things (isthing 1), then all stuff (isthing 0), at least one of each"
            report(path, None, "the categories are not things followed by stuff", fix)
            return False
    images = {image["id"]: image for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for number, entry in enumerate(content["annotations"]):
        if entry["image_id"] not in images:
            what = f"annotations[{number}] belongs to image {entry['image_id']}, which is not listed"
            report(path, None, what, "are images and annotations of one file?")
            return False
        for segment in entry["segments_info"] if kind == "panoptic" else [entry]:
            problem = _segment_problem(segment, categories)
            if problem is not None:
                report(path, None, f"annotations[{number}] {problem}", "fix that entry")
                return False
    return True


def _segment_problem(segment: Any, categories: set[int]) -> str | None:
    if not isinstance(segment, dict) or segment.get("category_id") not in categories:
        category = segment.get("category_id") if isinstance(segment, dict) else segment
        return f"has category {category!r}, which is not listed"
    box = segment.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(isinstance(v, (int, float)) for v in box):
        return f"has bbox {box!r}, not [x, y, width, height]"
    if min(box[2:]) < 0:
        return f"has bbox {box!r} of a negative size"
    return None


def _check_files(folder: Path, annotations: Path, names: Iterable[str], report: Report) -> None:
    if not folder.is_dir():
        report(folder, None, "no such folder", f"add it; {annotations.name} names its files")
        return
    there = {entry.name for entry in os.scandir(folder)}
    wanted = list(names)
    # Own exports may use subfolders, whose files are looked for one by one.
    lost = [name for name in wanted if name not in there and not (("/" in name) and (folder / name).is_file())]
    if len(lost) == len(wanted):
        fix = "are these annotations of another part?" if there else "unpack its files there"
        report(folder, None, f"none of the {len(wanted)} files that {annotations.name} names, such as {lost[0]}", fix)
    elif lost:
        fix = "was the download cut off? Get them again, or take them out of the annotations"
        report(
            folder, None, f"{len(lost)} of the {len(wanted)} files of {annotations.name} are missing: {lost[0]}", fix
        )


def same_categories(layout: Layout, kind: Kind, train: Content, test: Content, report: Report) -> None:
    """Report if the two parts do not list the same categories in the same order."""
    one, other = ([(c["id"], c["name"]) for c in content["categories"]] for content in (train, test))
    if one != other:
        pairs = [(a, b) for a, b in zip(one, other, strict=False) if a != b]
        what = f"{len(other)} categories, not the {len(one)} of {layout.file(kind, layout.train).name}"
        if pairs:
            what = f"category {pairs[0][1]}, where {layout.file(kind, layout.train).name} has {pairs[0][0]}"
        report(layout.file(kind, layout.test), None, what, "list the same categories in the same order in both")
