"""How images are read: upright, turned by their EXIF orientation, by training, scoring, prediction and pictures alike.

mmdet's loader decodes by OpenCV, which turns; `read` is the same function. Annotations are for the upright picture.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.spec import Report

ORIENTATION = 0x0112
"""EXIF tag: 1 as stored, 2 to 8 mirrored or turned, from 5 on with width and height swapped."""

TURNED = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats whose tag OpenCV obeys. Pillow turns TIFF itself, so that its size is the upright one already."""


class Header(NamedTuple):
    """What an image's header says. size: (width, height) once upright. stored: as stored. orientation: EXIF's."""

    size: tuple[int, int]
    stored: tuple[int, int]
    orientation: int


def read(path: Path | str) -> NDArray[np.uint8]:
    """The upright image in RGB, (height, width, 3), as detectors see it. Raises OSError if it cannot be decoded."""
    import mmcv

    image = mmcv.imread(str(path), backend="cv2")
    if image is None:
        raise OSError(f"{path} cannot be decoded by OpenCV")
    return np.ascontiguousarray(image[..., ::-1])  # OpenCV's order is BGR


def header(path: Path) -> Header:
    """Size and orientation from the header alone: no pixel is decoded.

    Raises:
        OSError: if it is no image that can be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's of large images and odd EXIF data
            with Image.open(path) as image:
                stored = image.size
                orientation = _orientation(image.info.get("exif", b"")) if image.format in TURNED else 1
    except (Image.DecompressionBombError, SyntaxError, ValueError, OverflowError) as error:
        raise OSError(f"{path}: {error}") from error
    width, height = stored
    return Header((height, width) if orientation >= 5 else stored, stored, orientation)


def _orientation(data: bytes) -> int:
    """The tag in EXIF data; 1 where OpenCV finds none, too, in broken data for instance."""
    # Not Pillow's getexif(): it decodes PNGs, and believes XMP data, which OpenCV does not.
    exif = Image.Exif()
    try:
        exif.load(data)
        orientation = exif.get(ORIENTATION, 1)
    except Exception:  # bytes of any kind lead Pillow to errors of any kind
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def check(folder: Path, entries: Sequence[Mapping[str, Any]], report: Report) -> list[str]:
    """Report images of another size than their entry says, by their headers; missing files are passed over.

    Returns the names of those that carry an orientation and are of the right size.
    """
    turned: list[str] = []
    unlike: dict[str, tuple[Path, str, int]] = {}  # fix -> the first image, what is wrong with it, and how many more
    for entry in entries:
        path, size = folder / entry["file_name"], (entry["width"], entry["height"])
        try:
            found = header(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            what, fix = f"cannot be read ({error})", "get it again"
        else:
            if found.size == size:
                turned += [entry["file_name"]] if found.orientation > 1 else []
                continue
            what, fix = mismatch(found, size)
        first, text, more = unlike.get(fix, (path, what, -1))
        unlike[fix] = first, text, more + 1
    for fix, (path, what, more) in unlike.items():
        report(path, None, what + (f" (and {more} more images like it)" if more else ""), fix)
    return turned


def mismatch(found: Header, size: tuple[int, int]) -> tuple[str, str]:
    """What is wrong with an image that is not of the size (width, height) in the annotations, and how to fix it."""
    what = f"is {found.size[0]} x {found.size[1]}, its annotations are for {size[0]} x {size[1]}"
    if found.orientation == 1 or found.stored != size:
        return what, "are the images of this part?"
    fix = (
        "annotate the upright picture, or remove the tag if the boxes fit the pixels as stored: "
        "exiftool -Orientation= FILE"
    )
    return f"{what}: it is turned upright on reading, by its EXIF orientation {found.orientation}", fix
