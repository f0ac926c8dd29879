"""Check a data folder in COCO's layout: `python -m tasks.coco_detection.check PATH [--train NAME] [--test NAME]`.

Prints every problem found, one a line, as "file: problem; how to fix it", and exits with 1; or a summary, and 0.
Panoptic annotations are checked where there are any, or with --panoptic.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tasks.coco_detection.layout import Kind, Layout, read, same_categories
from tasks.spec import Problem, Report


@dataclass
class Findings:
    """What a check found; the counts cover what could be read."""

    problems: list[Problem] = field(default_factory=list)
    counts: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return "fine: " + "; ".join(self.counts)


def check(layout: Layout, *, panoptic: bool = False, pixels: bool = False) -> Findings:
    """Read all annotations and check that all files exist; raises nothing for bad data.

    panoptic: panoptic annotations must be there. pixels: open every image, too, which takes minutes for COCO.
    """
    found = Findings()

    def report(path: Path, line: int | None, what: str, fix: str) -> None:
        found.problems.append(Problem(path, line, what, fix))

    if not layout.root.is_dir():
        report(layout.root, None, "no such folder", "give the folder that holds annotations/ and the folders of images")
        return found
    kinds: list[Kind] = ["instances"]
    if panoptic or any(layout.panoptic(name).exists() for name in (layout.train, layout.test)):
        kinds.append("panoptic")
    for kind in kinds:
        contents = [read(layout, kind, name, report) for name in (layout.train, layout.test)]
        train, test = contents
        if train is not None and test is not None:
            same_categories(layout, kind, train, test, report)
        for name, content in zip((layout.train, layout.test), contents, strict=True):
            if content is None:
                continue
            images, annotations = len(content["images"]), len(content["annotations"])
            found.counts.append(
                f"{kind} {name}: {images} images, {annotations} annotations, {len(content['categories'])} classes"
            )
            if pixels and kind == "instances":
                for entry in content["images"]:
                    _check_pixels(layout.images(name) / entry["file_name"], entry["width"], entry["height"], report)
    return found


def _check_pixels(path: Path, width: int, height: int, report: Report) -> None:
    try:
        with Image.open(path) as image:
            size = image.size
            image.load()
    except FileNotFoundError:
        return  # reported already
    except (OSError, SyntaxError) as error:
        report(path, None, f"cannot be read ({error})", "get it again")
        return
    if size != (width, height):
        what = f"is {size[0]} x {size[1]}, its annotations are for {width} x {height}"
        report(path, None, what, "are the images of this part?")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.coco_detection.check",
        description="Check a data folder in COCO's layout: annotations/instances_<part>.json, <part>/*.jpg and, for "
        "panoptic detectors, annotations/panoptic_<part>.json and annotations/panoptic_<part>/*.png. Prints every "
        "problem as file: problem; how to fix it, and exits with 1 if there is one.",
    )
    parser.add_argument("path", type=Path, help="the data folder")
    parser.add_argument("--train", default="train2017", help="name of the training part (default: %(default)s)")
    parser.add_argument("--test", default="val2017", help="name of the test part (default: %(default)s)")
    parser.add_argument("--panoptic", action="store_true", help="panoptic annotations are needed, too")
    parser.add_argument("--pixels", action="store_true", help="open every image")
    given = parser.parse_args(arguments)
    found = check(Layout(given.path, given.train, given.test), panoptic=given.panoptic, pixels=given.pixels)
    print(*(found.problems or [found]), sep="\n")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
