"""Image files from users: their headers, and the limits within which one is decoded."""

import functools
import os
import re
import stat
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFile

from tasks.spec import fail

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

DEEP: Fault = (
    "has values of more than 8 bits, of which the lower ones would be lost",
    "save it with 8 bits a value, scaled by the range that its values have",
)
"""Of photographs; labels may be so."""


class Header(NamedTuple):
    """What an image's header says. size: (width, height) once upright. stored: as stored. orientation: EXIF's. deep:
    whether its values have more than 8 bits. format: Pillow's name of the file's format."""

    size: tuple[int, int]
    stored: tuple[int, int]
    orientation: int
    deep: bool
    format: str

    @property
    def inexact(self) -> Fault | None:
        """What is wrong with a picture of classes or segments, if its format changes or renumbers values."""
        if self.format == "PNG":
            return None
        return f"is a {self.format} file, which need not hold the values that were written", "write it as a PNG anew"


def header(path: Path) -> Header:
    """Size and orientation from the header alone: no pixel is decoded.

    Raises:
        DataError: naming the file, if it is no image that can be read, or one of more than `LARGEST` pixels.
        OSError: if there is no such file, or it may not be read.
    """
    found = examined(path)
    return found if isinstance(found, Header) else fail(path, None, *found)


def examined(path: Path) -> Header | Fault:
    """The header, or what is wrong with the file and how to fix it. Raises OSError as `header` does."""
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
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats()) as image:
            stored, name = image.size, str(image.format)
            orientation = _orientation(image.info.get("exif", b"")) if image.format in TURNED else 1
            # Pillow's mode of coloured ones is that of 8 bits, what it decodes from is not.
            # Blue, green and red of 5 or 6 bits, as BMPs have, share 16.
            kinds = [str(tile).replace("BGR;16", "") for tile in image.tile]
            deep = image.mode[0] in "IF" or any(";16" in kind for kind in kinds) or _bits(image, path) > 8
    except PermissionError:
        raise
    except Image.DecompressionBombError as error:  # its text has the number of pixels
        return _too_large(int(re.findall(r"\d+", f"{error} {2 * LARGEST}")[0]))
    except Exception as error:  # bytes of any kind lead Pillow to errors of any kind
        return f"cannot be read ({error})".replace(f" {str(path)!r}", ""), AGAIN
    width, height = stored
    if width * height > LARGEST:
        return _too_large(width * height)
    return Header((height, width) if orientation >= 5 else stored, stored, orientation, deep, name)


def _bits(image: ImageFile.ImageFile, path: Path) -> int:
    """Bits of the values of coloured images of three formats whose mode in Pillow does not tell; 0 of others.

    Those of a PPM are by the value of white that it names, those of JPEG 2000 in its marker SIZ (ISO 15444-1, A.5.1)
    and, since texts and profiles of any length may come before that, in its box ihdr (I.5.3.1), where 255 is no number.
    Those of an AVIF are in the third byte of its box av1C: bit 6 means more than 8 (AV1 in ISOBMFF, 2.3).
    """
    if image.format in ("JPEG2000", "AVIF"):
        with open(path, "rb") as file:
            start = file.read(2**16)
        if image.format == "AVIF":
            configuration = start.partition(b"av1C")[2][:3]
            return 10 if len(configuration) == 3 and configuration[2] & 0x40 else 8
        told = [start.partition(b"\xff\x4f\xff\x51")[2][38:39], start.partition(b"ihdr")[2][10:11]]
        return max((1 + (one[0] & 0x7F) for one in told if one and one[0] < 255), default=0)
    # Before version 11 of Pillow, tiles are plain tuples, whose parts have no names.
    coded = [settings for codec, _, _, settings in image.tile if codec.startswith("ppm")]
    named = [settings[-1] for settings in coded if isinstance(settings, tuple)]
    return max((value.bit_length() for value in named if isinstance(value, int)), default=0)


@functools.cache
def formats() -> tuple[str, ...]:
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
