"""One fold of a data folder: its parts, of which the validation part is carved out of the training images."""

import contextlib
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rfnext.files import cache_folder, write_text
from tasks.coco_detection.layout import Content, Kind, Layout, read, same_categories
from tasks.spec import Part, fail


class PartFiles(NamedTuple):
    """One part for mmdet. maps: the folder of panoptic PNGs; None unless the annotations are panoptic."""

    annotations: Path
    images: Path
    maps: Path | None


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

    mmdet reads one file per part, so the two carved ones are written to the cache, once for each state of the original.
    An image's part depends on its id alone.

    Raises:
        DataError: with file and how to fix it, at the first problem.
    """
    if not 0 < validation < 1:
        raise ValueError(f"the validation share is {validation}; give a fraction above 0 and below 1")
    train, test = read(layout, kind, layout.train, fail), read(layout, kind, layout.test, fail)
    assert train is not None  # `fail` never returns
    assert test is not None
    same_categories(layout, kind, train, test, fail)
    source = layout.file(kind, layout.train)
    files = dict(zip(("train", "validation"), _carve(source, train, validation), strict=True))
    maps = {name: layout.panoptic_maps(name) if kind == "panoptic" else None for name in (layout.train, layout.test)}
    return Dataset(
        kind=kind,
        classes=tuple(category["name"] for category in train["categories"]),
        things=sum(category.get("isthing", 1) for category in train["categories"]),
        train=PartFiles(files["train"], layout.images(layout.train), maps[layout.train]),
        validation=PartFiles(files["validation"], layout.images(layout.train), maps[layout.train]),
        test=PartFiles(layout.file(kind, layout.test), layout.images(layout.test), maps[layout.test]),
    )


def named_files(annotations: Path) -> tuple[list[str], list[str]]:
    """Names of the files of images and of annotations (panoptic PNGs) in a COCO file; none while it cannot be used.

    COCO's own takes a minute to parse, so the names are kept in the cache, for each state of the file.
    """
    with contextlib.suppress(OSError, ValueError):
        kept = cache_folder() / "coco_detection-names-v1" / f"{_state_key(annotations)}.json"
        if not kept.exists():
            content = json.loads(annotations.read_text("utf-8"))
            write_text(kept, json.dumps([_names(content, key) for key in ("images", "annotations")]))
        images, maps = json.loads(kept.read_text("utf-8"))
        return images, maps
    return [], []  # `layout.read` says what is wrong


def _names(content: Any, key: str) -> list[str]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return []
    named = (entry.get("file_name") for entry in entries if isinstance(entry, dict))
    return [name for name in named if isinstance(name, str)]


def _state_key(source: Path, *more: object) -> str:
    """Name in the cache of what is made from a state of a file."""
    state = source.stat()
    key = " ".join(map(str, (source.resolve(), state.st_size, state.st_mtime_ns, *more)))
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _carve(source: Path, content: Content, share: float) -> tuple[Path, Path]:
    """Files with the training and the validation images of `content`, which was read from `source`."""
    folder = cache_folder() / "coco_detection-parts-v1" / _state_key(source, share)
    paths = folder / "train.json", folder / "validation.json"
    if all(path.exists() for path in paths):
        return paths
    held_out = carve_validation([image["id"] for image in content["images"]], share)
    for path, wanted in zip(paths, (False, True), strict=True):
        part = {
            "images": [image for image in content["images"] if (image["id"] in held_out) == wanted],
            "annotations": [a for a in content["annotations"] if (a["image_id"] in held_out) == wanted],
            "categories": content["categories"],
        }
        if not part["annotations"]:
            name = path.stem
            fail(source, None, f"no annotated image is left for {name}", "add images or change the validation share")
        write_text(path, json.dumps(part))
    return paths


def carve_validation(ids: Iterable[int], share: float) -> set[int]:
    """The `share` of image ids, at least one, that are held out: those with the smallest hashes."""
    # A hash instead of a generator: the same in every version of numpy, and a new image moves few others.
    ordered = sorted(ids, key=lambda number: hashlib.sha256(str(number).encode()).digest())
    return set(ordered[: max(1, round(share * len(ordered)))])
