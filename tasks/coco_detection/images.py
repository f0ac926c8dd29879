"""How images are read: upright, turned by their EXIF orientation, by training, scoring, prediction and pictures alike.

mmdet's loader decodes by OpenCV, which turns; `read` is the same function. Annotations are for the upright picture.
"""

import functools
import os
import re
import stat
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.spec import Report, fail

LARGEST = 2**27
"""Pixels of the largest image that is read, 134,217,728: 384 MiB once decoded. A PNG of kilobytes can hold billions."""

BYTES = 2**30
"""Bytes of the largest image file that is read: a sparse one can claim any size."""

ORIENTATION = 0x0112
"""EXIF tag: 1 as stored, 2 to 8 mirrored or turned, from 5 on with width and height swapped."""

TURNED = ("JPEG", "MPO", "PNG", "WEBP")
"""Formats whose tag OpenCV obeys. Pillow turns TIFF itself, so that its size is the upright one already."""

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "GIF", "PPM", "JPEG2000")
"""What OpenCV decodes, too. Pillow would open more: for EPS it starts another program."""

AGAIN = "get it again"
SMALLER = "make it smaller, or cut it into tiles"


Fault = tuple[str, str]
"""What is wrong, and how to fix it."""


class Header(NamedTuple):
    """What an image's header says. size: (width, height) once upright. stored: as stored. orientation: EXIF's."""

    size: tuple[int, int]
    stored: tuple[int, int]
    orientation: int


def read(path: Path | str) -> NDArray[np.uint8]:
    """The upright image in RGB, (height, width, 3), as detectors see it; see `read_bgr`."""
    return np.ascontiguousarray(read_bgr(path)[..., ::-1])


def read_bgr(path: Path | str) -> NDArray[np.uint8]:
    """The upright image in OpenCV's order of channels, blue first, (height, width, 3).

    Raises:
        DataError: naming the file, if it is no image, is too large, is cut off or cannot be decoded.
        OSError: if there is no such file, or it may not be read.
    """
    found = _decoded(Path(path))
    return fail(Path(path), None, *found) if isinstance(found, tuple) else found


def _decoded(path: Path) -> NDArray[np.uint8] | Fault:
    """The image, or what is wrong with it and how to fix it."""
    import mmcv

    found = _examined(path)  # nothing that is too large is decoded
    if not isinstance(found, Header):
        return found
    data = path.read_bytes()
    if _is_cut_off(data):
        return "is cut off", AGAIN
    try:
        image = mmcv.imfrombytes(data, backend="cv2")
    except Exception as error:  # OpenCV's own, of several lines
        return f"cannot be decoded ({' '.join(str(error).split()):.200})", AGAIN
    return ("cannot be decoded", AGAIN) if image is None else image


def pixel_fault(path: Path) -> Fault | None:
    """What is wrong with an image's pixels, by OpenCV and by Pillow, which is the stricter of the two, or None.

    Raises OSError if there is no such file, or it may not be read.
    """
    found = _decoded(path)
    if isinstance(found, tuple):
        return found
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_formats()) as image:
            image.load()
    except Exception as error:  # bytes of any kind lead Pillow to errors of any kind
        return f"cannot be read ({error})", AGAIN
    return None


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or a PNG has no end. Some versions of OpenCV fill up what is missing with grey."""
    if data.startswith(b"\xff\xd8"):  # an end, after the last pixels' begin: a thumbnail has an end, too
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and data.rfind(b"IEND\xaeB`\x82") < 0


def header(path: Path) -> Header:
    """Size and orientation from the header alone: no pixel is decoded.

    Raises:
        DataError: naming the file, if it is no image that can be read, or one of more than `LARGEST` pixels.
        OSError: if there is no such file, or it may not be read.
    """
    found = _examined(path)
    return found if isinstance(found, Header) else fail(path, None, *found)


def _examined(path: Path) -> Header | Fault:
    """The header, or what is wrong with the file and how to fix it."""
    try:
        state = os.stat(path)
    except ValueError as error:  # of a name that no file can have
        return f"cannot be read ({error})", "give it another name"
    except FileNotFoundError:
        if path.is_symlink():
            return "is a link to nothing", "put an image file there"
        raise
    if not stat.S_ISREG(state.st_mode):
        return "is a folder" if stat.S_ISDIR(state.st_mode) else "is a pipe or a device", "put an image file there"
    if not 0 < state.st_size <= BYTES:
        return f"has {state.st_size:,} bytes, images have 1 to {BYTES:,}", AGAIN
    try:
        # Pillow warns of large images and odd EXIF data.
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=_formats()) as image:
            stored = image.size
            orientation = _orientation(image.info.get("exif", b"")) if image.format in TURNED else 1
    except PermissionError:
        raise
    except Image.DecompressionBombError as error:  # its text has the number of pixels
        return _too_large(int(re.findall(r"\d+", f"{error} {2 * LARGEST}")[0]))
    except Exception as error:  # bytes of any kind lead Pillow to errors of any kind
        return f"cannot be read ({error})".replace(f" {str(path)!r}", ""), AGAIN
    width, height = stored
    if width * height > LARGEST:
        return _too_large(width * height)
    return Header((height, width) if orientation >= 5 else stored, stored, orientation)


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this version of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _too_large(pixels: int) -> Fault:
    return f"has {pixels:,} pixels, at most {LARGEST:,} are read", SMALLER


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
            found = _examined(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            found = f"cannot be read ({error.strerror})", "make it readable"
        if isinstance(found, Header) and found.size == size:
            turned += [entry["file_name"]] if found.orientation > 1 else []
            continue
        what, fix = mismatch(found, size) if isinstance(found, Header) else found
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
