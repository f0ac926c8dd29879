"""Seeded changes of files, blind ones of bytes and others that know the format: what people, disks and attackers make.

A sample is the files of a folder by their names; `SPECIAL` contents stand for what is no file.
"""

import contextlib
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from rfnext import tensor_files

Sample = dict[str, bytes]

FIFO, FOLDER, ZEROS, LOOP, MISSING, SPARSE = (
    b"\0special: " + name for name in b"fifo folder zeros loop missing sparse".split()
)
SPECIAL = (FIFO, FOLDER, ZEROS, LOOP, MISSING)
"""In place of a file: a pipe, a folder, a link to /dev/zero, a link to itself, nothing. After `SPARSE` and a length in
eight bytes comes the start of a file that is as long, and empty."""

RAW = "@@raw%d@@"
EXTREMES = (0, -1, 1, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63, 10**30, 0.5, -0.0, 5e-324, 1.7e308)
TOKENS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e400",
    "-1e400",
    "1" + "0" * 400,
    "1" + "0" * 5000,
    "[" * 90 + "]" * 90,
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 900 + "1" + "}" * 900,
    '"\\ud800"',
    '"\\u0000"',
)
STRINGS = (
    "",
    " ",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 70_000,
    "\x00",
    "\x1b[31m",
    "é\u202e",
    "%s%n{0}",
    "NaN",
    "٣",
    "__import__('os').system('true')",
    "!!python/object/apply:os.system ['true']",
    "$(touch x)",
    "a\nb",
)
SETTINGS = ("&a [1,1,1,1,1,1,1,1,1]", "!!float ''", "!!int ''", "!!timestamp x", "!!python/name:os.system", "? [1]: 2")


def mutated(sample: Sample, others: list[Sample], rng: random.Random) -> Sample:
    """A sample with one to three changes in one of its files, or a file that is no file."""
    name = rng.choice(sorted(sample))
    if rng.random() < 0.03:
        return sample | {name: rng.choice(SPECIAL)}
    data = sample[name]
    for _ in range(rng.choice((1, 1, 2, 3))):
        changed = None
        if rng.random() < 0.6:
            with contextlib.suppress(Exception):  # libraries meet what an earlier change has broken
                changed = _by_format(name)(data, rng)
        if changed is None:
            other = rng.choice(others)
            changed = _bytes(data, other[rng.choice(sorted(other))], rng)
        data = changed
    return sample | {name: data}


def _by_format(name: str) -> Callable[[bytes, random.Random], bytes | None]:
    ending = name.rpartition(".")[2]
    if ending in ("json", "yml", "yaml", "jsonl"):
        return _json
    if ending in ("txt", "bundle", "csv"):
        return _lines
    if ending == "npy":
        return _npy
    if ending == "png":
        return _png
    return _tensors if ending in ("pt", "pth", "ckpt", "pkl", "bin") else _header


def _bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, spliced or repeated."""
    out = bytearray(data)
    if not out:
        return other[: rng.randrange(len(other) + 1)]
    at, size = rng.randrange(len(out)), rng.choice((1, 2, 4, 8, 100))
    match rng.randrange(7):
        case 0:
            out[at] ^= 1 << rng.randrange(8)
        case 1:
            out[at : at + size] = rng.randbytes(size)
        case 2:
            del out[at:]
        case 3:
            del out[at : at + size]
        case 4:
            start = rng.randrange(len(other) + 1)
            out[at:at] = other[start : start + rng.choice((1, 10, 1000))]
        case 5:
            out[at:at] = out[at : at + size] * rng.choice((1, 2, 50))
        case 6:
            out[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
    return bytes(out)


def _header(data: bytes, rng: random.Random) -> bytes:
    """An extreme number among the first bytes, of a size and byte order by chance."""
    kind = rng.choice(("<H", "<I", "<Q", ">H", ">I", ">Q", "<d"))
    size = struct.calcsize(kind)
    if len(data) < 64:
        return data + bytes(64)
    at = rng.randrange(64 - size)
    top = 2 ** (8 * size)
    value = rng.choice((1e308, float("nan"))) if kind == "<d" else rng.choice((0, 1, top - 1, top // 2, top // 2 - 1))
    return data[:at] + struct.pack(kind, value) + data[at + size :]


def _png(data: bytes, rng: random.Random) -> bytes | None:
    """One chunk of a PNG changed, twice, or missing, its sum right again."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    if not chunks:
        return None
    which = rng.randrange(len(chunks))
    name, content = chunks[which]
    match rng.randrange(5):
        case 0:
            del chunks[which]
        case 1:
            chunks.insert(which, chunks[which])
        case 2:
            chunks[which] = rng.choice((b"tRNS", b"PLTE", b"iCCP", b"zTXt", b"eXIf")), content
        case 3 if name == b"IDAT":
            chunks[which] = name, zlib.compress(bytes(rng.choice((1, 2**16, 2**24))))
        case _:
            chunks[which] = name, _bytes(content, content, rng)
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    )


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in parts for found in _paths(part, (*path, key)))]


def _json(data: bytes, rng: random.Random) -> bytes | None:
    """Another value, type or number at a place by chance, an entry twice, missing, renamed or too much."""
    lines = data.decode("utf-8", "replace").split("\n")
    number = rng.randrange(len(lines)) if lines[1:] else 0
    try:
        value = json.loads("\n".join(lines) if lines[0] in "{[" or len(lines) < 3 else lines[number])
    except (ValueError, RecursionError):
        return None
    whole = lines[0] in "{[" or len(lines) < 3
    path = rng.choice(_paths(value)[:5000])
    token, old = rng.choice(TOKENS + SETTINGS), _at(value, path)
    scrambled = _bytes(old.encode(), b"0o~", rng).decode("latin-1") if isinstance(old, str) else ""
    odd = (None, True, [], {}, [[]], {"": 0}, old, scrambled)
    new = rng.choice((RAW, RAW, rng.choice(EXTREMES), rng.choice(STRINGS), *odd))
    text = json.dumps(_with(value, path, new, rng))
    text = text.replace(json.dumps(RAW), token)
    if rng.random() < 0.1 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]  # every entry twice
    return (text if whole else "\n".join([*lines[:number], text, *lines[number + 1 :]])).encode(
        "utf-8", "surrogatepass"
    )


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _with(value: Any, path: tuple[Any, ...], new: Any, rng: random.Random) -> Any:
    """The value with another part at a path, or without it, or with it under another name, or in a list."""
    if not path:
        return new
    copy = json.loads(json.dumps(value))
    owner, key = _at(copy, path[:-1]), path[-1]
    match rng.randrange(6):
        case 0:
            del owner[key]
        case 1 if isinstance(owner, dict):
            owner[rng.choice(STRINGS)] = owner.pop(key)
        case 2:
            owner[key] = [owner[key]]
        case 3 if isinstance(owner, list):
            owner[key:key] = [new] * rng.choice((1, 3, 100))
        case _:
            owner[key] = new
    return copy


def _lines(data: bytes, rng: random.Random) -> bytes:
    """Lines that are missing, twice, too many, too long, not text, or with another field."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    odd = rng.choice(
        (
            b"\xff\xfe",
            b"\0",
            b"a" * 300_000,
            b"1" * 5000 + b" x",
            "٣ x".encode(),
            b"-1 x",
            b"../x.txt",
            b"/etc/passwd",
            b"\xc2\x85",
            b"\r",
            b"99999999999 x",
            b"a|b|c",
            b"\xed\xa0\x80",
            b" ",
            b"#",
        )
    )
    match rng.randrange(5):
        case 0:
            del lines[at]
        case 1:
            lines[at:at] = [lines[at]] * rng.choice((1, 2, 1000))
        case 2:
            lines[at] = odd
        case 3:
            lines[at] += odd
        case 4:
            lines[at:at] = [odd] * rng.choice((1, 2))
    return b"\n".join(lines)


def _npy(data: bytes, rng: random.Random) -> bytes:
    """Another header before the same numbers, or the same header before odd numbers."""
    end = 10 + int.from_bytes(data[8:10], "little") if data[:6] == b"\x93NUMPY" else 0
    if rng.random() < 0.2:
        values = np.frombuffer(data[end : end + (len(data) - end) // 4 * 4], np.float32).copy()
        if len(values):
            values[rng.randrange(len(values))] = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45, -1e4))
        return data[:end] + values.tobytes()
    shape = rng.choice(
        ((), (0,), (1,), (2**62, 4), (-4, -9), (2**31, 2**31), (True, 5), (4, 9, 1), (0, 2**62), (9, 4), (1, 36))
    )
    kind = rng.choice(
        ("<f4", "<f8", "|O", "<f2", ">f4", "|b1", "<c8", "<U9", "<M8[s]", "|V4", "|S0", "<f16", "('<f4', (2**30,))")
    )
    order = rng.choice((True, False, 1, "x"))
    descr = kind if kind.startswith("(") else repr(kind)
    text = f"{{'descr': {descr}, 'fortran_order': {order!r}, 'shape': {shape!r}, }}".encode()
    if rng.random() < 0.1:
        text = rng.choice((b"(" * 5000, b"{'descr': " + b"[" * 3000, b"\\", b"__import__('os')", b"{}"))
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data[end:]


def _odd_tensors(tensor: torch.Tensor) -> list[Any]:
    return [
        tensor.to(torch.complex64),
        tensor.double() * float("nan"),
        tensor.to(torch.int64),
        tensor.half(),
        tensor[:0],
        torch.zeros(1).expand(2**30),
        torch.zeros(1).expand(2**20, 2**20),
        torch.zeros(3).to_sparse(),
        torch.zeros(2, 2, device="meta"),
        torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2**40,)),
        tensor.flatten(),
        tensor[None],
        torch.tensor(float("inf")),
        torch.tensor(2**62),
        torch.tensor(True),
        torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.quint8),
        torch.nn.Parameter(torch.zeros(2)),
        torch.zeros(2, dtype=torch.uint8),
        -tensor.to(torch.float32),
    ]


def _tensors(data: bytes, rng: random.Random) -> bytes | None:
    """Another tensor or plain value in a checkpoint, its archive packed otherwise, or its pickle changed."""
    if rng.random() < 0.3 and data[:2] == b"PK":
        return _repacked(data, rng)
    try:  # torch alone makes what an earlier change only claims, in gigabytes
        content = tensor_files.load(io.BytesIO(data))
    except Exception:
        return None
    places: list[tuple[Any, Any]] = []
    nodes = [content]
    while nodes and len(places) < 5000:  # an earlier change may have made endless ones
        node = nodes.pop()
        parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in parts:
            places.append((node, key))
            nodes.append(value)
    if not places:
        return None
    owner, key = rng.choice(places)
    old = owner[key]
    bomb: Any = "x"
    for _ in range(40):
        bomb = [bomb, bomb]
    deep: Any = []
    for _ in range(rng.choice((40, 900))):
        deep = [deep]
    odd = [None, True, "", [], {}, (), 10**400, 2**40, -1, float("nan"), float("inf"), bomb, deep, *STRINGS, *EXTREMES]
    new = rng.choice(_odd_tensors(old) if isinstance(old, torch.Tensor) and rng.random() < 0.7 else odd)
    match rng.randrange(4):
        case 0:
            del owner[key]
        case 1 if isinstance(owner, dict):
            owner[rng.choice((*STRINGS, 3, None, (1,)))] = owner.pop(key)
        case _:
            owner[key] = new
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=rng.random() < 0.7)
    except Exception:
        return None
    return buffer.getvalue()


def _repacked(data: bytes, rng: random.Random) -> bytes | None:
    """The archive compressed, with zeros, with parts missing, or with its pickle changed; sums are right again."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return None
    name = rng.choice(sorted(parts))
    pickled = next((part for part in parts if part.endswith("data.pkl")), name)
    method = zipfile.ZIP_STORED
    match rng.randrange(5):
        case 0:
            method = zipfile.ZIP_DEFLATED
            parts[name] = bytes(2**26)
        case 1:
            del parts[name]
        case 2:
            parts[pickled] = _bytes(parts[pickled], parts[name], rng)
        case 3:
            parts[pickled] = rng.choice(PICKLES)
        case 4:
            parts[name] = _bytes(parts[name] or b"0", parts[pickled], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return buffer.getvalue()


_SIZE = b"\x8a\x05" + (2**34).to_bytes(5, "little")  # 16 GiB
PICKLES = (
    b"\x80\x02cbuiltins\nbytearray\n" + _SIZE + b"\x85R.",
    b"\x80\x02c__builtin__\nbytearray\n" + _SIZE + b"\x85R.",
    b"\x80\x02"
    + b"c_codecs\nencode\n" * 40
    + b"X\x10\x00\x00\x00"
    + b"a" * 16
    + b"X\x06\x00\x00\x00latin1\x86R"
    + b"X\x03\x00\x00\x00hex\x86R" * 39
    + b".",
    b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
    b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.",
    b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    b"\x80\x02ccollections\nCounter\n" + _SIZE + b"\x85R.",
    b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00u.",  # a mapping that is in itself
    b"\x80\x02]q\x00h\x00a.",
    b"cposix\nsystem\n(Vtrue\ntR.",
)
"""Programs in place of a checkpoint's pickle."""
