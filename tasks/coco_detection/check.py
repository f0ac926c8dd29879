"""Check a data folder in COCO's layout: `python -m tasks.coco_detection.check PATH [--train NAME] [--test NAME]`.

Prints every kind of problem found, one a line, as "file: problem; how to fix it", and exits with 1; or a summary, and
0. A training makes the same checks before it starts, but for pictures that both parts have. What counts as something
else than it says is remarked on first. Panoptic annotations are checked where there are any, or with --panoptic.
--boxes: for detectors without masks.

--fix OUT writes a mended copy, see `mend`: a data folder with the mended annotations and links to the images.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfnext.files import explained
from tasks.coco_detection.coco_format import images
from tasks.coco_detection.coco_format.annotations import Content, Kind
from tasks.coco_detection.coco_format.layout import Layout, PartFiles, read, same_categories
from tasks.coco_detection.coco_format.mend import mend
from tasks.coco_detection.panoptic_quality import VOID, rgb_to_id
from tasks.findings import Findings
from tasks.spec import Report


def check(
    layout: Layout, report: Findings, *, panoptic: bool = False, boxes: bool = False, pixels: bool = False
) -> str:
    """Read all annotations and the headers of all images; raises nothing for bad data. Returns what could be read.

    panoptic: panoptic annotations must be there. boxes: masks are of no interest. pixels: decode every image and
    panoptic PNG, too, which takes minutes for COCO.
    """
    counts: list[str] = []
    if not layout.root.is_dir():
        report(layout.root, None, "no such folder", "give the folder that holds annotations/ and the folders of images")
        return ""
    kinds: list[Kind] = ["boxes" if boxes else "instances"]
    if panoptic or any(layout.panoptic(name).exists() for name in (layout.train, layout.test)):
        kinds.append("panoptic")
    for kind in kinds:
        contents = [read(layout, kind, name, report, report.remark) for name in (layout.train, layout.test)]
        train, test = contents
        if train is not None and test is not None:
            same_categories(layout, kind, train, test, report)
            if kind != "panoptic":
                here, there = layout.files(kind, layout.test), layout.files(kind, layout.train)
                report.check_twins(here.images, _pictures(here, test), _pictures(there, train))
        for name, content in zip((layout.train, layout.test), contents, strict=True):
            if content is None:
                continue
            entries, annotations = len(content["images"]), len(content["annotations"])
            counts.append(
                f"{kind} {name}: {entries} images, {annotations} annotations, {len(content['categories'])} classes"
            )
            # The names of PNGs are sound only where nothing is wrong with their annotations.
            if pixels and (kind != "panoptic" or not report.problems):
                _check_pixels(layout.files(kind, name), content, report)
    return "; ".join(counts)


def _pictures(files: PartFiles, content: Content) -> list[Path]:
    return [files.images / entry["file_name"] for entry in content["images"]]


def _check_pixels(files: PartFiles, content: Content, report: Report) -> None:
    """Decode the images, or the panoptic PNGs, whose pixels have to be of listed segments."""
    folder, entries = (files.images, content["images"]) if files.maps is None else (files.maps, content["annotations"])
    for entry in entries:
        path = folder / entry["file_name"]
        with contextlib.suppress(OSError):  # reported already
            fault = images.pixel_fault(path)
            if fault is None and files.maps is not None:
                fault = _map_fault(images.read(path), entry["segments_info"])
            if fault is not None and (fault != images.DEEP or files.maps is not None):  # else reported already
                report(path, None, *fault)


def _map_fault(pixels: NDArray[np.uint8], segments: list[dict[str, Any]]) -> images.Fault | None:
    unknown = set(np.unique(rgb_to_id(pixels)).tolist()) - {segment["id"] for segment in segments} - {VOID}
    if not unknown:
        return None
    return (
        f"has pixels of segment {min(unknown)}, which its annotation does not list",
        "give the PNG of this annotation",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.coco_detection.check",
        description="Check a data folder in COCO's layout: annotations/instances_<part>.json, <part>/*.jpg and, for "
        "panoptic detectors, annotations/panoptic_<part>.json and annotations/panoptic_<part>/*.png. Prints every "
        "kind of problem as file: problem; how to fix it, and exits with 1 if there is one.",
    )
    parser.add_argument("path", type=Path, help="the data folder")
    parser.add_argument("--train", default="train2017", help="name of the training part (default: %(default)s)")
    parser.add_argument("--test", default="val2017", help="name of the test part (default: %(default)s)")
    parser.add_argument("--panoptic", action="store_true", help="panoptic annotations are needed, too")
    parser.add_argument("--boxes", action="store_true", help="masks are not needed: --detector res2net-boxes, ...")
    parser.add_argument("--pixels", action="store_true", help="decode every image")
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="OUT",
        help="write a data folder with mended annotations and links to the images; nothing in PATH changes",
    )
    given = parser.parse_args(arguments)
    layout = Layout(given.path, given.train, given.test)
    if given.fix is not None:
        try:
            changes = mend(layout, "boxes" if given.boxes else "instances", given.fix)
        except (ValueError, OSError) as error:
            print(explained(error), f"{given.fix} is not written", sep="\n")
            return 1
        print(*changes, f"{given.fix} is written", sep="\n")
        layout = Layout(given.fix, given.train, given.test)
    found = Findings()
    return found.end(check(layout, found, panoptic=given.panoptic, boxes=given.boxes, pixels=given.pixels))


if __name__ == "__main__":
    sys.exit(main())
