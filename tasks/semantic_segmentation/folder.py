"""Own data: a folder of images with a label PNG each, read and checked.

    ROOT/classes.txt         names of the classes, one a line, in the order of the values in the labels, from 0
    ROOT/images/NAME.jpg     or .jpeg or .png
    ROOT/labels/NAME.png     of the same size; each pixel holds its class, or 255 where it has none
    ROOT/test.txt            optional: the NAMEs of the test part, one a line

Every function that reads takes a `Report`: a training gives `tasks.spec.fail`, which raises at the first problem, and
`tasks.semantic_segmentation.check` collects them all.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rfnext.files import lines_of, reason
from tasks.file_names import mend_missing
from tasks.image_files import AGAIN, DEEP, Fault, Header, examined, formats
from tasks.spec import Report

SCALED = {"L;2": 85, "L;4": 17}
"""Pillow scales greyscale of 2 or 4 bits to 0 .. 255, by this factor; in labels the values are the classes."""

IGNORED = 255
"""Label of pixels that count for nothing."""

ENDINGS = (".jpg", ".jpeg", ".png")
BYTES = 2**24
"""Most bytes of a list: a sparse file can claim any size."""

LONGEST_NAME = 200
"""Characters of the name of a class or an image."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the stored picture upright."""

Pixels = NDArray[np.uint8]


class Files(NamedTuple):
    """An image and its labels."""

    image: Path
    labels: Path


class Folder(NamedTuple):
    """What a data folder lists. samples: by name, in alphabetical order. test: names, None without test.txt."""

    classes: tuple[str, ...]
    samples: dict[str, Files]
    test: tuple[str, ...] | None


def read_folder(root: Path, report: Report) -> Folder | None:
    """The lists of a data folder, with names and sizes of all files checked; no pixel is decoded.

    None, once reported, if there is nothing to go on with.
    """
    classes = _read_list(root / "classes.txt", "name the classes, one a line", report)
    if classes is not None and len(classes) > IGNORED:
        report(root / "classes.txt", None, f"{len(classes)} classes", f"name at most {IGNORED}: {IGNORED} is no class")
        classes = None
    images = _list_images(root / "images", report)
    if classes is None or images is None:
        return None
    samples = {}
    for name, path in images.items():
        labels = root / "labels" / f"{name}.png"
        if not labels.exists():
            fix = mend_missing(labels, "add them, or take the image out")
            report(path, None, f"has no labels: there is no {labels}", fix)
        elif _same_size(path, labels, report):
            samples[name] = Files(path, labels)
    test = None
    if (root / "test.txt").exists():
        listed = _read_list(root / "test.txt", "name the images of the test part, or remove it", report) or ()
        for line, name in enumerate(listed, 1):
            if name not in images:
                mends = (mend_missing(root / "images" / f"{name}{ending}", "") for ending in ENDINGS)
                fix = next(filter(None, mends), "write names without .jpg or .png")
                report(root / "test.txt", line, f"there is no image {name[:LONGEST_NAME]!r}", fix)
        test = tuple(name for name in listed if name in samples)
    return Folder(classes, samples, test)


def _read_list(path: Path, fix: str, report: Report) -> tuple[str, ...] | None:
    """The lines of a text file, none empty, none twice."""
    try:
        if not path.is_file():
            report(path, None, "no such file", fix)
            return None
        if path.stat().st_size > BYTES:
            report(path, None, f"has more than {BYTES:,} bytes", fix)
            return None
        lines = [line.strip() for line in lines_of(path.read_text("utf-8-sig"))]
    except (OSError, UnicodeDecodeError) as error:
        report(path, None, f"cannot be read ({reason(error)})", "make it a readable UTF-8 file")
        return None
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line or line in first:
            what = f"{line:.100} stands in line {first[line]}, too" if line else "is empty"
            report(path, number, what, "every line is a name of its own")
        elif len(line) > LONGEST_NAME or not line.isprintable():
            report(path, number, f"{line[:40]!r} is no name", f"write at most {LONGEST_NAME} printable characters")
        first.setdefault(line, number)
    if not lines:
        report(path, None, "is empty", fix)
    return tuple(lines) or None


def _list_images(folder: Path, report: Report) -> dict[str, Path] | None:
    """Name -> path of the images of a folder; None, once reported, if there is none."""
    try:
        # "._a.jpg" is macOS's, beside a.jpg
        listed = (name for name in os.listdir(folder) if not name.startswith("."))
        found = sorted(name for name in listed if Path(name).suffix.lower() in ENDINGS)
    except OSError as error:
        report(folder, None, f"cannot be read ({error.strerror})", "put the images there")
        return None
    if not found:
        report(folder, None, "holds no .jpg, .jpeg or .png", "put the images there")
        return None
    images: dict[str, Path] = {}
    for name in found:
        stem = Path(name).stem
        if stem in images:
            report(folder / name, None, f"has the name of {images[stem].name}", "give each image a name of its own")
        images.setdefault(stem, folder / name)
    return images


def _same_size(image: Path, labels: Path, report: Report) -> bool:
    """Whether both can be opened, and are of the same size once the image is upright; reported otherwise."""
    headers = []
    for path in (image, labels):
        found = _header(path, photograph=path == image)
        if isinstance(found, Header):
            headers.append(found)
        else:
            report(path, None, *found)
    if len(headers) < 2:
        return False
    (one, other), turned = (header.size for header in headers), headers[0].orientation
    if headers[1].orientation > 1:
        report(labels, None, f"has an EXIF orientation, {headers[1].orientation}", "save it upright, without the tag")
        return False
    if one == other:
        return True
    upright = f" once turned upright by its EXIF orientation {turned}" if turned > 1 else ""
    what = f"is {other[0]} x {other[1]}, {image.name} is {one[0]} x {one[1]}{upright}"
    report(labels, None, what, "give labels of the size of their image")
    return False


def _header(path: Path, *, photograph: bool) -> Header | Fault:
    try:
        found = examined(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})", "make it readable"
    if not isinstance(found, Header):
        return found
    fault = (DEEP if found.deep else None) if photograph else found.inexact
    return fault or found


def read_image(path: Path, report: Report) -> Pixels | None:
    """The upright image in RGB, (height, width, 3); None, once reported, if it cannot be used."""
    header = _header(path, photograph=True)
    if not isinstance(header, Header):
        return report(path, None, *header)  # type: ignore[return-value]
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats()) as image:
            turned = image if header.orientation == 1 else image.transpose(TURNS[header.orientation])
            return np.array(turned.convert("RGB"))
    except Exception as error:  # bytes of any kind lead Pillow to errors of any kind
        report(path, None, f"cannot be read ({error})", AGAIN)
        return None


def read_labels(path: Path, classes: Sequence[str], report: Report) -> Pixels | None:
    """Class of each pixel, (height, width), or `IGNORED`; None, once reported, if it cannot be used."""
    header = _header(path, photograph=False)
    if not isinstance(header, Header):
        return report(path, None, *header)  # type: ignore[return-value]
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats()) as image:
            mode, step = image.mode, SCALED.get(str(image.tile[0][3]) if image.tile else "", 1)
            # Values of a palette's image are its indices, which are the classes.
            found = np.array(image) // step if mode in ("1", "L", "P", "I", "I;16") else None
    except Exception as error:  # bytes of any kind lead Pillow to errors of any kind
        report(path, None, f"cannot be read ({error})", AGAIN)
        return None
    if found is None:
        report(path, None, f"has several channels ({mode})", "save one channel: greyscale or a palette")
        return None
    wrong = (found >= len(classes)) & (found != IGNORED)
    if wrong.any():
        what = f"{int(wrong.sum())} pixels have values beyond the {len(classes)} classes, such as {found[wrong][0]}"
        report(path, None, what, f"write 0 to {len(classes) - 1}, or {IGNORED} for none; or name more in classes.txt")
        return None
    return found.astype(np.uint8)
