"""One fold of a data folder: its parts, of which the validation part is carved out of the training images."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfnext.files import bound, cache_folder, write_text
from tasks.coco_detection.coco_format import masks
from tasks.coco_detection.coco_format.annotations import Content, Kind, area, area_is_sound, stays_inside
from tasks.coco_detection.coco_format.layout import Layout, PartFiles, parse, read, read_files, same_categories
from tasks.spec import Part, fail

PARTS = "coco_detection-parts-v2"
"""Folder in the cache of the annotations that mmdet and pycocotools read."""

KEPT = 8
"""Data sets whose annotations stay in the cache; those of COCO take half a gigabyte."""

UNUSED = 7 * 24 * 3600
"""Seconds without use after which those beyond these go."""


@dataclass(frozen=True)
class Dataset:
    """One fold of a data folder; made by `open_dataset`.

    classes: names in the order of labels; panoptic ones list the things first. things: how many of them are things.
    train and validation are carved out of the same part of the layout, by image.
    """

    kind: Kind
    classes: tuple[str, ...]
    things: int
    train: PartFiles
    validation: PartFiles
    test: PartFiles

    def part(self, part: Part) -> PartFiles:
        """The files of a part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


def open_dataset(layout: Layout, kind: Kind, *, validation: float) -> Dataset:
    """Open a data folder, carving `validation` (a share) of the training part's images out for validation.

    mmdet and pycocotools read one file per part. These are written to the cache, once for each state of the originals,
    with what `uniform` makes of the entries. An image's part depends on its id alone.

    Raises:
        DataError: with file and how to fix it, at the first problem.
    """
    if not 0 < validation < 1:
        raise ValueError(f"the validation share is {validation}; give a fraction above 0 and below 1")
    train, test = read(layout, kind, layout.train, fail), read(layout, kind, layout.test, fail)
    assert train is not None  # `fail` never returns
    assert test is not None
    same_categories(layout, kind, train, test, fail)
    paths = _written(layout, kind, train, test, validation)
    sources = {"train": layout.train, "validation": layout.train, "test": layout.test}
    files = {part: layout.files(kind, name)._replace(annotations=paths[part]) for part, name in sources.items()}
    return Dataset(
        kind=kind,
        classes=tuple(category["name"] for category in train["categories"]),
        things=sum(kind != "panoptic" or bool(category["isthing"]) for category in train["categories"]),
        **files,
    )


def named_files(annotations: Path) -> tuple[list[str], list[str]]:
    """Names of the files of images and of annotations (panoptic PNGs) in a COCO file; none while it cannot be used.

    COCO's own takes a minute to parse, so the names are kept in the cache, for each state of the file.
    """
    if not annotations.is_file():
        return [], []
    with contextlib.suppress(OSError, ValueError):
        kept = cache_folder() / "coco_detection-names-v1" / f"{_state_key(annotations)}.json"
        if not kept.exists():
            content = parse(annotations, lambda *problem: None) or {"images": [], "annotations": []}
            write_text(kept, json.dumps([_names(content[key]) for key in ("images", "annotations")]))
        images, maps = json.loads(kept.read_text("utf-8"))
        return images, maps
    return [], []  # `layout.read` says what is wrong


def _names(entries: list[Any]) -> list[str]:
    named = (entry.get("file_name") for entry in entries if isinstance(entry, dict))
    return [name for name in named if isinstance(name, str) and stays_inside(name)]


def _state_key(source: Path, *more: object) -> str:
    """Name in the cache of what is made from a state of a file."""
    state = source.stat()
    key = " ".join(map(str, (source.resolve(), state.st_size, state.st_mtime_ns, *more)))
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _cached(key: str, *names: str) -> dict[str, Path]:
    """Files of a folder of the cache, which counts as used now; if it is not there yet, old ones make room for it."""
    folder = cache_folder() / PARTS / key
    try:
        os.utime(folder)
    except OSError:
        bound(folder.parent, KEPT, UNUSED)
    return {name: folder / f"{name}.json" for name in names}


def _written(layout: Layout, kind: Kind, train: Content, test: Content, share: float) -> dict[str, Path]:
    """Files with the training, the validation and the test part, whose annotations were read already."""
    train_file, test_file = (layout.file(kind, name) for name in (layout.train, layout.test))
    key = _state_key(train_file, kind, share, _state_key(test_file))
    paths = _cached(key, "train", "validation", "test")
    if all(path.exists() for path in paths.values()):
        return paths
    whole, numbers = uniform(train, kind, drop_empty=layout.is_training(layout.train))
    held_out = {numbers[id_] for id_ in carve_validation(numbers, share)}
    parts = {"test": uniform(test, kind, drop_empty=False)[0]}
    for name, wanted in (("train", False), ("validation", True)):
        parts[name] = whole | {
            "images": [image for image in whole["images"] if (image["id"] in held_out) == wanted],
            "annotations": [a for a in whole["annotations"] if (a["image_id"] in held_out) == wanted],
        }
        if not parts[name]["annotations"]:
            what, fix = f"no annotated image is left for {name}", "add images or change the validation share"
            fail(layout.file(kind, layout.train), None, what, fix)
    for name, path in paths.items():
        write_text(path, json.dumps(parts[name]))
    return paths


def uniform_copy(files: PartFiles, kind: Kind, *, training: bool) -> Path:
    """A copy in the cache of a part's annotations, after they were checked, with what `uniform` makes of them.

    Raises:
        DataError: with file and how to fix it, at the first problem.
    """
    content = read_files(files, kind, fail, training=training)
    assert content is not None  # `fail` never returns
    path = _cached(_state_key(files.annotations, kind, training), "whole")["whole"]
    if not path.exists():
        write_text(path, json.dumps(uniform(content, kind, drop_empty=training)[0]))
    return path


def uniform(content: Content, kind: Kind, *, drop_empty: bool) -> tuple[Content, dict[Any, int]]:
    """What mmdet and pycocotools read as it is meant, of annotations without a fault; and image id -> number.

    Images, categories and annotations are numbered from 1 in their order: pycocotools takes an annotation of id 0 for
    none, and keeps one of several with the same id. iscrowd is 0 or 1, 1 also for what is to be ignored; areas are
    computed where they are missing. drop_empty: without objects of no size.
    """
    images = {image["id"]: number for number, image in enumerate(content["images"], 1)}
    sizes = {image["id"]: image for image in content["images"]}
    categories = {category["id"]: number for number, category in enumerate(content["categories"], 1)}
    made: Content = {
        "images": [{k: v for k, v in i.items() if k in _OF_IMAGE} | {"id": images[i["id"]]} for i in content["images"]],
        "categories": [category | {"id": categories[category["id"]]} for category in content["categories"]],
        "annotations": [],
    }
    if kind == "panoptic":
        maps = {}
        for entry in content["annotations"]:
            segments = [_object(s, "boxes", sizes[entry["image_id"]], categories) for s in entry["segments_info"]]
            made["annotations"].append(entry | {"image_id": images[entry["image_id"]], "segments_info": segments})
            maps[images[entry["image_id"]]] = entry["file_name"]
        for image in made["images"]:
            image["map"] = maps[image["id"]]
        return made, images
    for entry in content["annotations"]:
        if min(entry["bbox"][2:]) or not drop_empty:
            known = _object(entry, kind, sizes[entry["image_id"]], categories)
            number = len(made["annotations"]) + 1
            made["annotations"].append(known | {"id": number, "image_id": images[entry["image_id"]]})
    return made, images


_OF_IMAGE = ("file_name", "width", "height")


def _object(entry: dict[str, Any], kind: Kind, image: dict[str, Any], categories: dict[Any, int]) -> dict[str, Any]:
    """An annotation or a segment: the fields that are read, with all that may be missing."""
    made = {"category_id": categories[entry["category_id"]], "bbox": entry["bbox"], "area": entry.get("area")}
    made["iscrowd"] = int(bool(entry.get("iscrowd", 0) or entry.get("ignore", 0)))
    if "id" in entry:
        made["id"] = entry["id"]
    mask = entry.get("segmentation") if kind == "instances" else None
    if mask is not None:
        made["segmentation"] = masks.usable(mask) if isinstance(mask, list) else mask
    if not area_is_sound(made["area"], image):
        made["area"] = area(entry, image, with_mask=mask is not None)
    return made


def carve_validation(ids: Iterable[Any], share: float) -> set[Any]:
    """The `share` of image ids, at least one, that are held out: those with the smallest hashes."""
    # A hash instead of a generator: the same in every version of numpy, and a new image moves few others.
    ordered = sorted(ids, key=lambda number: hashlib.sha256(str(number).encode()).digest())
    return set(ordered[: max(1, round(share * len(ordered)))])
