"""Arrays in .npy files from outside: the header is checked against the file before anything else is read."""

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rfnext.files import open_file

OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as numpy.savez and torch.save write it",
    b"\x80": "a pickle, which is never opened",
    b"\x89HDF": "an HDF5 file",
    b"MATLAB": "a MATLAB file",
}
"""First bytes of what is found under the name .npy."""

HOLLOW, SMALL = 100, 2**24
"""A file above `SMALL` bytes of which the disk holds less than one in `HOLLOW` was never written, only made long."""


class NotWhole(ValueError):
    """A file that is shorter or longer than its header says, or was never written."""


def open_array(path: Path, most: int) -> NDArray[Any]:
    """The array of a file, mapped: only the header is read. Python objects are never opened.

    Args:
        path: the file.
        most: the largest number of values; a file may be long on the disk and empty.

    Raises:
        NotWhole: if the file is not as long as its header says. ValueError: if it is no array, or has more than `most`
            values. Neither names the file.
        OSError: naming the file, if it cannot be read; FileNotFoundError if it is missing.
    """
    with open_file(path) as file:
        try:
            shape, fortran_order, dtype = _header(file)
        except Exception as error:  # numpy's header parser lets errors of many kinds through, TokenError for one
            raise ValueError(" ".join(str(error).split())[:200]) from None
        offset, found = file.tell(), os.fstat(file.fileno())
    if dtype.hasobject:
        raise ValueError(f"{_shown(dtype, shape)}: Python objects are never opened")
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError(f"its shape is {_shown(dtype, shape)}")
    size = math.prod(shape)
    if size > most:
        raise ValueError(f"it claims {_shown(dtype, shape)}, more than {most} values")
    claimed = offset + size * dtype.itemsize
    if claimed != found.st_size:
        what = f"its header, {_shown(dtype, shape)}, claims {claimed} bytes, the file has {found.st_size}"
        raise NotWhole(what)
    stored = 512 * getattr(found, "st_blocks", 0)
    if found.st_size > SMALL and 0 < stored < found.st_size / HOLLOW:
        raise NotWhole(f"{_shown(dtype, shape)}, {claimed} bytes, of which {stored} were ever written")
    if claimed == offset:  # what is empty cannot be mapped
        return np.empty(shape, dtype)
    order = "F" if fortran_order else "C"
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape, order=order)


def _shown(dtype: np.dtype, shape: tuple[int, ...]) -> str:
    return f"{str(dtype)[:80]} of shape {str(shape)[:80]}"


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type; the file is then at its data."""
    start = file.read(8)
    file.seek(0)
    if not start:
        raise ValueError("it is empty")
    if not start.startswith(npy.MAGIC_PREFIX):
        text = "text" if start.isascii() and b"\0" not in start else "of another format"
        named = (name for first, name in OTHER_FORMATS.items() if start.startswith(first))
        raise ValueError(f"it is {next(named, text)}")
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of the format is for arrays with fields")
    return readers[version](file)
