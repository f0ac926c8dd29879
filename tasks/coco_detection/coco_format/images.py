"""How images are read: upright, turned by their EXIF orientation, by training, scoring, prediction and pictures alike.

mmdet's loader decodes by OpenCV, which turns; `read` is the same function. Annotations are for the upright picture.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.image_files import AGAIN, DEEP, Fault, Header, examined, formats
from tasks.spec import Report, fail


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

    found = examined(path)  # nothing that is too large is decoded
    if not isinstance(found, Header):
        return found
    if found.deep:  # OpenCV takes the upper 8 bits: of a camera's 10 or 12 in 16 that is next to nothing
        return DEEP
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
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats()) as image:
            image.load()
    except Exception as error:  # bytes of any kind lead Pillow to errors of any kind
        return f"cannot be read ({error})", AGAIN
    return None


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or a PNG has no end. Some versions of OpenCV fill up what is missing with grey."""
    if data.startswith(b"\xff\xd8"):  # an end, after the last pixels' begin: a thumbnail has an end, too
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and data.rfind(b"IEND\xaeB`\x82") < 0


def check(folder: Path, entries: Sequence[Mapping[str, Any]], report: Report, *, maps: bool = False) -> list[str]:
    """Report images of another size than their entry says, by their headers; missing files are passed over.

    maps: they hold segments, so their values have to be exact.

    Returns the names of those that carry an orientation and are of the right size.
    """
    turned: list[str] = []
    unlike: dict[str, tuple[Path, str, int]] = {}  # fix -> the first image, what is wrong with it, and how many more
    for entry in entries:
        path, size = folder / entry["file_name"], (entry["width"], entry["height"])
        try:
            found = examined(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            found = f"cannot be read ({error.strerror})", "make it readable"
        if isinstance(found, Header):
            found = (DEEP if found.deep else found.inexact if maps else None) or found
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
