"""Files of tensors and plain values, as torch.save writes them, from outside.

Nothing in a file is executed, and what is read takes no more memory than the file is long: torch by itself inflates
archives, and makes zeros by the gigabyte where a file says so.
"""

import codecs
import io
import os
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from rfnext.files import open_file

MOST_VALUES = 10**7
"""Plain values of a file: a list that is in itself many times counts each time."""

DEEPEST = 64
"""Levels of plain values within each other."""

_LEGACY_PICKLES = 5
"""Pickles in a row in a file that torch wrote before version 1.6 or with its old format, as mmdet's publishing does."""


def read(path: str | Path) -> Any:
    """The content of a file, on the CPU.

    Raises:
        ValueError: without the file's name, if it is broken, or is more than tensors and plain values, all of them
            stored in it.
        OSError: naming the file, if it cannot be read.
    """
    with open_file(path) as file:
        try:
            return load(file)
        except Exception as error:  # broken bytes raise errors of any kind in torch
            raise ValueError(f"{_reason(error)}: not a checkpoint that can be read") from error


def serialised(value: Any) -> bytes:
    """What `torch.save` would write to a file, for `rfnext.files.write_bytes`."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _reason(error: Exception) -> str:
    """Of a ValueError, which is ours, its text; of others, which may be pages of advice to trust the file, the kind."""
    return str(error) if type(error) is ValueError else type(error).__name__


def load(file: BinaryIO) -> Any:
    """As `read`, of a seekable open file; torch's own errors pass through."""
    check(file)
    content = torch.load(file, map_location="cpu", weights_only=True)
    _check_content(content)
    return content


def check(file: BinaryIO) -> None:
    """Raise ValueError for an archive that unpacks to more than the file, or pickles that make data of their own.

    The file is at its start then.
    """
    if _is_archive(file):
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, which torch does not write")
        if sum(member.file_size for member in members) > file.seek(0, os.SEEK_END):
            raise ValueError("its parts are larger than the file")
    else:
        file.seek(0)
        start = file.read(9)
        if start[8:] == b"{":  # after the length of a header in JSON
            raise ValueError(
                "it is a safetensors file; make it one of torch: torch.save(safetensors.torch.load_file(FILE), "
                '"weights.pt")'
            )
        if start[:1] == b"{":
            raise ValueError("it is JSON, as structure files are, which hold dilations and no weights")
        if start[:1] != b"\x80":
            raise ValueError("it does not start as a file that torch wrote")
    names, texts = set[str](), set[str]()
    for count, (operation, argument, _) in enumerate(operations(file)):
        if count > MOST_VALUES:
            raise ValueError(f"its pickles have more than {MOST_VALUES} steps")
        if operation.name == "GLOBAL":
            names.add(argument)
        elif isinstance(argument, str) and len(argument) < 40:
            texts.add(argument)
    if "bytearray" in {name.rpartition(" ")[2] for name in names}:
        raise ValueError("it makes data that it does not hold (bytearray)")
    if any(name.endswith(" encode") for name in names) and (codec := next(filter(_expands, texts), None)):
        raise ValueError(f"it makes data that it does not hold (codec {codec})")
    file.seek(0)


def operations(file: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """What `pickletools.genops` says of each pickle of a file, whichever of torch's formats it has."""
    if _is_archive(file):
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                if member.endswith("data.pkl"):
                    yield from pickletools.genops(archive.read(member))
        return
    file.seek(0)
    for _ in range(_LEGACY_PICKLES):
        yield from pickletools.genops(file)


def _is_archive(file: BinaryIO) -> bool:
    """As torch tells them apart."""
    file.seek(0)
    return file.read(4) == b"PK\x03\x04"


def _expands(text: str) -> bool:
    """Whether a text names a codec from bytes to bytes, such as hex: applied again and again, these fill the memory."""
    try:
        return not codecs.lookup(text)._is_text_encoding  # pyright: ignore[reportAttributeAccessIssue]
    except (LookupError, ValueError, ImportError):
        return False


def _check_content(content: Any) -> None:
    """Raise ValueError for too many plain values."""
    left, nodes = MOST_VALUES, [(content, 0)]
    while nodes:
        value, depth = nodes.pop()
        if isinstance(value, (dict, list, tuple, set)):
            inside = [*value, *value.values()] if isinstance(value, dict) else value
            left -= len(inside)
            if left < 0 or depth > DEEPEST:
                raise ValueError(f"it holds more than {MOST_VALUES} values, or more than {DEEPEST} within each other")
            nodes += [(part, depth + 1) for part in inside]


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_STATISTICS = ("running_mean", "running_var")
"""Buffers of norms; in half precision they overflow first."""


def check_tensors(tensors: Mapping[str, Any]) -> None:
    """Raise ValueError, naming it, for a tensor that is larger than what is stored of it, as one that repeats a number
    is. Values of other kinds are passed over."""
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            continue
        plain = value.device.type == "cpu" and value.layout == torch.strided and not value.is_quantized
        if not plain or value.is_nested or value.nbytes > value.untyped_storage().nbytes():
            raise ValueError(f"tensor {str(name)[:200]!r} is larger than what is stored of it")


def refuse_wrong_values(tensors: Mapping[str, Any], model: nn.Module) -> None:
    """Raise ValueError, naming it, for a tensor that a network would take without an error and answer wrongly by.

    That is one of integers, booleans or complex numbers where the network has real ones, as quantised weights are; and
    one with values that are no numbers (NaN) or infinite. Buffers may hold infinities, but for the statistics of norms.

    Args:
        tensors: a state_dict; values of other kinds are passed over.
        model: what it is loaded into, as it was built. Its own tensors with such values are so by design.
    """
    buffers = dict(model.named_buffers(remove_duplicate=False))  # one that is shared has several names
    own = dict(model.named_parameters(remove_duplicate=False)) | buffers
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            continue
        built, shown = own.get(name), repr(str(name)[:200])
        if built is not None and built.is_floating_point() and not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise ValueError(
                f"tensor {shown} holds {kind}, the network {str(built.dtype).removeprefix('torch.')}, which would be "
                "other values; if it was quantised, give the weights of before"
            )
        if value.dtype not in _FLOATS:
            continue
        known = built if built is not None and built.dtype in _FLOATS and not built.is_meta else value.new_zeros(())
        if value.isnan().any() and not known.isnan().any():
            raise ValueError(f"tensor {shown} has values that are no numbers (NaN): the training diverged")
        is_mask = name in buffers and not name.endswith(_STATISTICS)  # masks of attention hold infinities
        if not is_mask and value.isinf().any() and not known.isinf().any():
            raise ValueError(f"tensor {shown} has infinite values: the training diverged, or half precision overflowed")
