"""Feature files: one .npy file a video, whose header is checked against the file's size before anything else is read.

Every function takes a `report`, see `layout`.
"""

import math
import stat
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from tasks.spec import Report

SAVE = "save the features with numpy.save as a (D, T) array of floats"
OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as numpy.savez and torch.save write it",
    b"\x80": "a pickle, which is never opened",
    b"\x89HDF": "an HDF5 file",
    b"MATLAB": "a MATLAB file",
}
"""First bytes of what is found under the name .npy."""

HOLLOW, SMALL = 100, 2**24
"""A file above `SMALL` bytes of which the disk holds less than one in `HOLLOW` was never written, only made long."""


def open_features(path: Path, report: Report) -> NDArray | None:
    """The array of a feature file, mapped: of two axes, numbers, not empty. Only the header is read.

    None, once reported, if the file is missing or no such array, or if its size is not what its header says. Arrays of
    Python objects are refused without opening them.
    """
    try:
        kind, features = _map(path)
    except FileNotFoundError:
        report(path, None, "no such file", f"add it or take {path.stem} out of the bundles")
    except _WrongContent as error:
        report(path, None, *error.args)
    except Exception as error:  # numpy's header parser lets errors of many kinds through, TokenError for one
        report(path, None, f"not a readable .npy file ({' '.join(str(error).split())})", SAVE)
    else:
        if features is not None:
            return features
        report(path, None, f"holds {kind}, not (D, T) floats with at least one frame", SAVE)
    return None


class _WrongContent(ValueError):
    """A file that is no features; arguments: what is wrong, and how to fix it."""


def _map(path: Path) -> tuple[str, NDArray | None]:
    """What the header says, and the array, None if it is no (D, T) numbers."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its other end
        raise _WrongContent("not a readable .npy file (it is a folder, pipe or device)", SAVE)
    with path.open("rb") as file:
        shape, fortran_order, dtype = _header(file)
        offset = file.tell()
    kind = f"{dtype} of shape {shape}"
    if dtype.hasobject:
        raise _WrongContent(f"not a readable .npy file ({kind}: Python objects are never opened)", SAVE)
    if len(shape) != 2 or min(shape) < 1 or dtype.kind not in "fiu":
        return kind, None
    claimed = offset + math.prod(shape) * dtype.itemsize
    again = "extract or copy the features of this video again"
    if claimed != found.st_size:
        what = f"not a readable .npy file (its header, {kind}, claims {claimed} bytes, the file has {found.st_size})"
        raise _WrongContent(what, again)
    stored = 512 * getattr(found, "st_blocks", 0)
    if found.st_size > SMALL and 0 < stored < found.st_size / HOLLOW:
        what = f"not a readable .npy file ({kind}, {claimed} bytes, of which {stored} were ever written)"
        raise _WrongContent(what, again)
    order = "F" if fortran_order else "C"
    return kind, np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order=order)


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type; the file is then at its data."""
    start = file.read(8)
    file.seek(0)
    if not start:
        _no_npy("it is empty")
    if not start.startswith(npy.MAGIC_PREFIX):
        text = "text" if start.isascii() and b"\0" not in start else "of another format"
        _no_npy(f"it is {next((name for first, name in OTHER_FORMATS.items() if start.startswith(first)), text)}")
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        _no_npy(f"version {version} of the format is for arrays with fields")
    return readers[version](file)


def _no_npy(what: str) -> NoReturn:
    raise _WrongContent(f"not a readable .npy file ({what})", SAVE)


def read_features(
    path: Path, report: Report, *, vectors: int | None = None, stride: int = 1
) -> NDArray[np.float32] | None:
    """Every stride-th of the first `vectors` feature vectors, all finite: (D, ceil(vectors / stride)).

    Of any real type, byte order and memory layout; None, once reported, if the file cannot be used.
    """
    mapped = open_features(path, report)
    if mapped is None:
        return None
    with np.errstate(over="ignore"):
        features = np.array(mapped[:, :vectors:stride], dtype=np.float32, order="C")
    finite = np.isfinite(features)
    if not finite.all():
        row, column = (int(k[0]) for k in np.nonzero(~finite))
        what = (
            f"value {row} of feature vector {column * stride} is {features[row, column]} "
            f"({np.count_nonzero(~finite)} values are not finite)"
        )
        report(path, None, what, "extract the features of this video again")
    return features
