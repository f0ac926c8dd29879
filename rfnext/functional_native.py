"""The implementation `native` of the searched convolution: kernels for CPUs, compiled on the machine that runs them.

What `taps` does by calls of torch, `functional_native.c` does in one pass: it mixes the shifted inputs of a tile of
positions in the core's cache and multiplies them there, so that neither passes over memory nor calls per tap and
branch are left. The same three products as a plain conv's step, sums in a fixed order for a fixed number of threads,
and only x kept for the backward pass. Depthwise convs, which have no product to share, take one pass over all taps of
all branches in registers for each of y, dL/dx and dL/dW.

The C compiler of the machine (the variable CC, else cc, gcc or clang) compiles the file within two seconds when it is
first needed; the result is kept in the folder RFNEXT_CACHE (~/.cache/rfnext), under a name that holds a hash of the
source, the processor's features and the compiler. Where there is no compiler, "auto" does without.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfnext.atomic import write_bytes
from rfnext.cache import cache_folder
from rfnext.functional_convs import Geometry, by_branches
from rfnext.functional_taps import as_operator, by_taps, is_thin, meets_input, shifts_of_taps

logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_suffix(".c")
_SUFFIX = {torch.float32: "float", torch.float64: "double"}
_FLAGS = ("-O3", "-ffp-contract=fast", "-shared", "-fPIC")
# Not every compiler knows OpenMP, nor how to name the processor at hand in the same way.
_TRIED = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",))


def is_for(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether the kernels are there, and for this layer: on a CPU, in float32 or float64, and not thin, unless it is
    depthwise and of stride 1."""
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    depthwise = weight.shape[1] == 1 and weight.shape[0] == geometry.groups and max(geometry.stride) == 1
    fits = depthwise or not is_thin(weight, geometry.groups)
    return fits and x.device.type == "cpu" and dtype in _SUFFIX and failure() is None


def by_native(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """x (batch, channel_in, *size_in) -> (batch, channel_out, *size_out), stored in memory like x.

    What `is_for` refuses in a layer on a CPU goes as in "taps".

    Raises:
        ValueError: if x is not on a CPU, or the kernels cannot be compiled.
    """
    reason = failure() if x.device.type == "cpu" else f"it computes on CPUs, x is on {x.device}"
    if reason is not None:
        raise ValueError(f'implementation="native" cannot compute this layer: {reason}; "auto" takes what can')
    if x.shape[0] == 0:
        return by_branches(x, weight, bias, probability, geometry)
    run = _operator if is_for(x, weight, geometry) else by_taps
    return run(x, weight, bias, probability, geometry)


# The library.

_lock = threading.Lock()


def failure() -> str | None:
    """Why there is no library, or None if there is one."""
    with _lock:
        return _library()[1]


# torch.compile takes the answer as it is and does not look at how it comes about. This is all that
# torch.compiler.assume_constant_result does, but for importing the compiler into every program that imports us.
failure._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _library() -> tuple[ctypes.CDLL | None, str | None]:
    """The compiled kernels, or why there are none."""
    try:
        path = cache_folder() / f"native-{_key()}.so"
        with contextlib.suppress(OSError):  # not there yet, or not whole: a disk may lose what it was given
            return _load(path), None
        with tempfile.TemporaryDirectory(prefix="rfnext-") as folder:
            built = Path(folder, "native.so")
            _compile(built)
            try:
                write_bytes(path, built.read_bytes())
            except OSError as error:
                logger.info("the compiled kernels are not kept for the next process: %s", error)
            return _load(built), None
    except (OSError, subprocess.SubprocessError, _NoCompiler) as error:
        reason = f"{_SOURCE.name} could not be compiled or loaded: {error}"
        logger.info("%s", reason)
        return None, reason


class _NoCompiler(Exception):
    pass


def _compilers() -> list[list[str]]:
    asked = os.environ.get("CC")
    return [shlex.split(asked)] if asked else [[name] for name in ("cc", "gcc", "clang") if shutil.which(name)]


def _compile(to: Path) -> None:
    if os.name != "posix":
        raise _NoCompiler(f"this is for Linux and macOS, not for {platform.system()}")
    failures = []
    for compiler in _compilers():
        for flags in _TRIED:
            command = [*compiler, *_FLAGS, *flags, str(_SOURCE), "-o", str(to)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode == 0:
                logger.info("compiled by %s", shlex.join(command))
                return
            failures.append(f"{shlex.join(command)}: {(done.stderr.strip() or 'failed').splitlines()[0]}")
    raise _NoCompiler(failures[0] if failures else "no C compiler: install gcc or clang, or name one in CC")


def _key() -> str:
    """What the compiled file depends on: clusters share folders between machines with different processors."""
    processor = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        processor = next((line for line in lines if line.lower().startswith(("flags", "features"))), processor)
    parts = (
        _SOURCE.read_text(),
        *_FLAGS,
        *map(str, _TRIED),
        platform.system(),
        platform.machine(),
        processor,
        str(_compilers()),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    for suffix in _SUFFIX.values():
        for name, arguments in (
            ("space", [pointer] * 4 + [integer]),
            ("forward", [pointer] * 9 + [integer]),
            ("backward", [pointer] * 11 + [integer]),
        ):
            function = getattr(library, f"{name}_{suffix}")
            function.argtypes, function.restype = arguments, None
    return library


def _call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    library = _library()[0]
    assert library is not None
    getattr(library, f"{name}_{_SUFFIX[dtype]}")(*arguments)


# The operator.


class _Plan(NamedTuple):
    """The arguments of a layer.

    conv and terms: as the structs of these names in the source. member: (shares, branches), which branches sum up to
    which share. forward, backward: sizes of the scratch space.
    """

    conv: ctypes.Array[ctypes.c_int64]
    terms: ctypes.Array[ctypes.c_int64]
    member: Tensor
    forward: Sequence[int]
    backward: Sequence[int]


@functools.lru_cache(maxsize=1024)
def _plan(batch: int, channel_in: int, channel_out: int, geometry: Geometry, dtype: torch.dtype, threads: int) -> _Plan:
    sharers: dict[tuple[int, ...], int] = {}
    terms: list[tuple[int, ...]] = []
    most = 1
    rest = [0] * (3 - len(geometry.kernel))
    for index, readers in shifts_of_taps(geometry):
        most = max(most, len(readers))
        for shift, branches in readers.items():
            if meets_input(shift, geometry):
                terms.append((index, sharers.setdefault(branches, len(sharers)), *rest, *shift))
    ones = [1] * len(rest)
    sizes = (*ones, *geometry.size_in, *ones, *geometry.size_out, *ones, *geometry.stride)
    taps = math.prod(geometry.kernel)
    conv = _integers((batch, geometry.groups, channel_in, channel_out, taps, len(terms), most, len(sharers), *sizes))
    flat = _integers([n for term in terms for n in term])
    member = torch.zeros(len(sharers), len(geometry.dilations), dtype=torch.float64)
    for branches, place in sharers.items():
        member[place, list(branches)] = 1
    forward, backward = _integers([0] * 3), _integers([0] * 3)
    _call("space", dtype, conv, flat, forward, backward, threads)
    return _Plan(conv, flat, member, tuple(forward), tuple(backward))


def _integers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


class _Work:
    """What both passes have in common: plan, shares, contiguous arguments, scratch space."""

    def __init__(self, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry) -> None:
        groups = geometry.groups
        self.threads = torch.get_num_threads()
        self.plan = _plan(x.shape[0], weight.shape[1], weight.shape[0] // groups, geometry, x.dtype, self.threads)
        self.x, self.weight = x.contiguous(), weight.contiguous()
        # Sums of probabilities are taken as precisely as they are given.
        self.shares = (self.plan.member.to(probability.dtype) @ probability).to(x.dtype)

    def scratch(self, elements: int, elements_per_thread: int, integers_per_thread: int) -> tuple[Tensor, Tensor]:
        return (
            self.x.new_empty(elements + self.threads * elements_per_thread),
            self.x.new_empty(self.threads * integers_per_thread, dtype=torch.int64),
        )


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    work = _Work(x, weight, probability, geometry)
    bias = None if bias is None else bias.to(x.dtype).contiguous()
    y = x.new_empty(x.shape[0], weight.shape[0], *geometry.size_out)
    elements, integers = work.scratch(*work.plan.forward)
    tensors = (work.shares, work.x, work.weight, bias, y, elements, integers)
    _call("forward", x.dtype, work.plan.conv, work.plan.terms, *map(_pointer, tensors), work.threads)
    return y


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    need_x, need_weight, _, need_probability = needed
    if not (need_x or need_weight or need_probability):
        return None, None, None
    work, g = _Work(x, weight, probability, geometry), g.contiguous()
    grad_x = torch.empty_like(work.x) if need_x else None
    grad_weight = torch.empty_like(work.weight) if need_weight else None
    grad_shares = None
    if need_probability:
        grad_shares = torch.zeros(work.threads, len(work.shares), dtype=torch.float64)
    elements, integers = work.scratch(*work.plan.backward)
    tensors = (work.shares, g, work.x, work.weight, grad_x, grad_weight, grad_shares, elements, integers)
    _call("backward", x.dtype, work.plan.conv, work.plan.terms, *map(_pointer, tensors), work.threads)
    if grad_shares is None:
        return grad_x, grad_weight, None
    return grad_x, grad_weight, (grad_shares.sum(0) @ work.plan.member).to(probability.dtype)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


_operator = as_operator("native", _forward, _backward)
