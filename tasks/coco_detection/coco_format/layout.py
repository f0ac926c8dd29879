"""COCO's layout: where the files of a data folder lie, reading them, and saying what is wrong with them.

    ROOT/annotations/instances_<part>.json            things: boxes and masks
    ROOT/<part>/<file_name>                           the images
    ROOT/annotations/panoptic_<part>.json             things and stuff, only for panoptic detectors
    ROOT/annotations/panoptic_<part>/<file_name>      PNGs with a segment's id in every pixel

COCO's own parts are train2017 and val2017. Every function that reads takes a `Report`: readers are given
`tasks.spec.fail`, which raises at the first problem, and `tasks.coco_detection.check` collects them all.
"""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rfnext.files import parse_json, read_text, reason
from tasks.coco_detection.coco_format.annotations import Content, Kind, check_lists, examine
from tasks.coco_detection.coco_format.images import check as check_images
from tasks.file_names import mend_missing
from tasks.spec import Report

log = logging.getLogger(__name__)

LONGEST = 2**33
"""Bytes of an annotation file; those of COCO have half a gigabyte."""

DOWNLOADS = """from https://cocodataset.org/#download get train2017.zip (18 GB), val2017.zip (1 GB), \
annotations_trainval2017.zip and, for panoptic detectors, panoptic_annotations_trainval2017.zip, and unpack them there \
(of the last one also the two zip files inside, in annotations/)"""
"""What COCO needs and where it is."""


class PartFiles(NamedTuple):
    """The files of a part. maps: the folder of panoptic PNGs; None unless the annotations are panoptic."""

    annotations: Path
    images: Path
    maps: Path | None


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

    def is_training(self, name: str) -> bool:
        """Whether a part is for training alone."""
        return name == self.train != self.test

    def file(self, kind: Kind, name: str) -> Path:
        """The annotations of a kind of a part."""
        return self.panoptic(name) if kind == "panoptic" else self.instances(name)

    def files(self, kind: Kind, name: str) -> PartFiles:
        """What is read of a part for annotations of a kind."""
        maps = self.panoptic_maps(name) if kind == "panoptic" else None
        return PartFiles(self.file(kind, name), self.images(name), maps)


Remark = Callable[[Path, str], object]
"""A function that is called with a file and what is said of it, which is no fault: what counts as what."""


def say(path: Path, what: str) -> None:
    """The `Remark` of a training: logs it."""
    log.warning("%s: %s", path, what)


def read(layout: Layout, kind: Kind, name: str, report: Report, remark: Remark = say) -> Content | None:
    """A part's annotations, see `read_files`."""
    return read_files(layout.files(kind, name), kind, report, remark, training=layout.is_training(name))


def read_files(files: PartFiles, kind: Kind, report: Report, remark: Remark = say, *, training: bool) -> Content | None:
    """Annotations, with what the detectors rely on checked; None, once reported, if they are of no use.

    Checked: the structure of all entries, that annotations belong to listed images and categories, that boxes and
    masks lie in their images, that there is an image file of the right size for each image (by its header) and, for
    panoptic annotations, a PNG for each annotation.
    training: of the training part, in which objects of no size are skipped instead of refused.
    """
    path = files.annotations
    content = parse(path, report)
    if content is None:
        return None
    for what, fix in (unusable := check_lists(content, kind)):
        report(path, None, what, fix)
    if unusable:
        return None
    _check_files(files.images, path, [image["file_name"] for image in content["images"]], report)
    if turned := check_images(files.images, content["images"], report):
        what = (
            "images with an EXIF orientation, turned upright on reading: boxes have to be those of the upright pictures"
        )
        remark(path, f"{what}: {len(turned)}, such as {turned[0]}")
    faults, remarks = examine(content, kind, training=training)
    for what, fix in faults:
        report(path, None, what, fix)
    for what in remarks:
        remark(path, what)
    if files.maps is not None and not faults:
        sizes = {image["id"]: image for image in content["images"]}
        maps = [sizes[entry["image_id"]] | {"file_name": entry["file_name"]} for entry in content["annotations"]]
        _check_files(files.maps, path, [entry["file_name"] for entry in maps], report)
        check_images(files.maps, maps, report, maps=True)
    return content


def parse(path: Path, report: Report) -> Content | None:
    """The lists of an annotation file; None, once reported, if it has not got them."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is a folder, a pipe or a device")
        content = parse_json(read_text(path, LONGEST))
    except FileNotFoundError:
        official = path.stem.endswith("2017")
        report(path, None, "no such file", f"add it; of COCO: {DOWNLOADS}" if official else "add it")
        return None
    except (OSError, UnicodeDecodeError) as error:
        report(path, None, f"cannot be read ({reason(error)})", "make it a readable UTF-8 file")
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
    return content


def _check_files(folder: Path, annotations: Path, names: Iterable[str], report: Report) -> None:
    if not folder.is_dir():
        report(folder, None, "no such folder", f"add it; {annotations.name} names its files")
        return
    try:
        there = set(os.listdir(folder))
    except OSError as error:
        report(folder, None, f"cannot be read ({error.strerror})", "make it readable")
        return
    wanted = list(names)
    # Own exports may use subfolders, whose files are looked for one by one.
    lost = [name for name in wanted if name not in there and not (("/" in name) and os.path.isfile(folder / name))]
    if not lost:
        return
    first = f"{lost[0]:.200}"
    if len(lost) == len(wanted):
        fix = "are these annotations of another part?" if there else "unpack its files there"
        fix = mend_missing(folder / lost[0], fix)
        report(folder, None, f"none of the {len(wanted)} files that {annotations.name} names, such as {first}", fix)
    else:
        fix = "was the download cut off? Get them again, or take them out of the annotations"
        fix = mend_missing(folder / lost[0], fix)
        report(folder, None, f"{len(lost)} of the {len(wanted)} files of {annotations.name} are missing: {first}", fix)


def same_categories(layout: Layout, kind: Kind, train: Content, test: Content, report: Report) -> None:
    """Report if the two parts do not list the same categories in the same order."""
    one, other = ([(c["id"], c["name"]) for c in content["categories"]] for content in (train, test))
    if one != other:
        pairs = [(a, b) for a, b in zip(one, other, strict=False) if a != b]
        what = f"{len(other)} categories, not the {len(one)} of {layout.file(kind, layout.train).name}"
        if pairs:
            what = f"category {pairs[0][1]}, where {layout.file(kind, layout.train).name} has {pairs[0][0]}"
        report(layout.file(kind, layout.test), None, what, "list the same categories in the same order in both")
