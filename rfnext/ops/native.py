"""The implementation `native` of the operator: kernels for CPUs, compiled on the machine that runs them.

What `taps` does by calls of torch, `native.c` does in one pass: it mixes the shifted inputs of a tile of positions in
the core's cache and multiplies them there. This saves the passes over memory and the calls per tap and branch. A step
takes three products, as that of a plain conv. Bias and gradients of the probabilities are computed there, too: in small
layers each call of torch takes longer than the products. Sums are taken in a fixed order for a fixed number of threads,
and only x is kept for the backward pass. Depthwise convs, which have no product to share, take one pass over all taps
of all branches in registers for each of y, dL/dx and dL/dW; in torch.channels_last, without a copy in another layout.

`rfnext.ops.native_build` compiles the file within three seconds when it is first needed on a machine. Without a C
compiler, "auto" leaves this implementation out.
"""

import ctypes
import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfnext.ops import kept_choices, native_build
from rfnext.ops.autograd import Gradients, Passes, as_operator, autocast_dtype
from rfnext.ops.branches import by_branches
from rfnext.ops.geometry import FEW_CHANNELS, Geometry, is_depthwise, is_thin, meets_input, shifts_of_taps
from rfnext.ops.layout import channels_are_last, empty, laid_out
from rfnext.ops.native_build import failure, library
from rfnext.ops.taps import by_taps

_SUFFIX = {torch.float32: "float", torch.float64: "double"}


def is_for(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> bool:
    """Whether the kernels can be used here and were written for this layer.

    They take plain tensors on a CPU in float32 or float64, and convs that are depthwise and of stride 1, or not thin.
    """
    depthwise = is_depthwise(weight, geometry.groups) and max(geometry.stride) == 1
    of_dtype = autocast_dtype(x) in _SUFFIX and x.dtype == weight.dtype
    fits = of_dtype and (depthwise or not is_thin(weight, geometry.groups))
    # Under torch.compile tensors are of another type, but plain when the compiled program runs.
    plain = torch.compiler.is_compiling() or (
        all(_is_plain(t) for t in (x, weight, bias, probability) if t is not None) and not memory_is_fake()
    )
    return fits and plain and x.device.type == "cpu" and failure() is None


def memory_is_fake() -> bool:
    """Whether new tensors have none: within torch's FakeTensorMode."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


def _is_plain(tensor: Tensor) -> bool:
    """Whether its elements lie where its pointer says."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor._is_zerotensor()
    )


def by_native(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """x (batch, channel_in, *size_in) -> (batch, channel_out, *size_out), stored in memory like x.

    A layer on a CPU that `is_for` refuses is computed as by "taps".

    Raises:
        ValueError: if x is not on a CPU, or the kernels cannot be compiled.
    """
    reason = failure() if x.device.type == "cpu" else f"it computes on CPUs, x is on {x.device}"
    if reason is not None:
        raise ValueError(f'implementation="native" cannot compute this layer: {reason}; "auto" takes what can')
    if x.shape[0] == 0:
        return by_branches(x, weight, bias, probability, geometry)
    run = operator if is_for(x, weight, bias, probability, geometry) else by_taps
    return run(x, weight, bias, probability, geometry)


def forget() -> None:
    """Drop the loaded library and what was planned for it: the next call compiles it, or finds it, anew.

    For after a compiler was installed, or RFNEXT_CACHE or CC has changed.
    """
    native_build.forget()
    kept_choices.path.cache_clear()
    _plan.cache_clear()


class _Plan(NamedTuple):
    """The arguments of a layer.

    layer: addresses of the structs conv and terms of the source, and of members: per share, of how many branches it is
    the sum, and of which. arrays: what lies there. forward, backward: the functions. threads: how many to ask for.
    """

    layer: tuple[int, ...]
    arrays: tuple[ctypes.Array[ctypes.c_int64], ...]
    forward: "_Pass"
    backward: "_Pass"
    threads: int


KEPT = 2**26
"""Bytes of scratch space that a thread keeps between calls: what goes back to the system is cleared at the next call,
page by page."""

_held = threading.local()


class _Pass(NamedTuple):
    """A function of the library.

    size: of its scratch space, in elements. integers, doubles: where these begin there, in bytes.
    """

    function: Callable[..., None]
    size: int
    integers: int
    doubles: int


@functools.lru_cache(maxsize=1024)
def _plan(sizes: tuple[int, int, int], geometry: Geometry, last: bool, dtype: torch.dtype, threads: int) -> _Plan:
    """sizes: batch, and channels in and out per group. last: whether channels lie last in memory."""
    batch, channel_in, channel_out = sizes
    sharers: dict[tuple[int, ...], int] = {}
    terms: list[tuple[int, ...]] = []
    most = 1
    rest = [0] * (3 - len(geometry.kernel))
    for index, readers in shifts_of_taps(geometry):
        most = max(most, len(readers))
        for shift, branches in readers.items():
            if meets_input(shift, geometry):
                terms.append((index, sharers.setdefault(branches, len(sharers)), *rest, *shift))
    if last:
        terms.sort(key=lambda term: term[2:])  # those that read the same row follow each other
    ones = [1] * len(rest)
    spatial = (*ones, *geometry.size_in, *ones, *geometry.size_out, *ones, *geometry.stride)
    taps, numbers = math.prod(geometry.kernel), (len(terms), most, len(sharers), len(geometry.dilations))
    conv = _integers((batch, geometry.groups, channel_in, channel_out, taps, *numbers, last, *spatial))
    flat = _integers([n for term in terms for n in term])
    members = _integers([n for branches in sharers for n in (len(branches), *branches)])
    forward, backward = _integers([0] * 4), _integers([0] * 4)
    threads = _function("space", dtype)(conv, flat, forward, backward, threads)
    there, back = _pass("forward", dtype, [*forward], threads), _pass("backward", dtype, [*backward], threads)
    arrays = conv, flat, members
    return _Plan((*map(ctypes.addressof, arrays),), arrays, there, back, threads)


def _pass(name: str, dtype: torch.dtype, sizes: Sequence[int], threads: int) -> _Pass:
    """sizes: elements, elements per thread, integers per thread, doubles; the first three in whole cache lines."""
    integers = (sizes[0] + threads * sizes[1]) * dtype.itemsize
    doubles = integers + 8 * threads * sizes[2]
    return _Pass(_function(name, dtype), (doubles + 8 * sizes[3]) // dtype.itemsize, integers, doubles)


def _function(name: str, dtype: torch.dtype) -> Callable[..., Any]:
    return getattr(library(), f"{name}_{_SUFFIX[dtype]}")


def _integers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def _plan_of(x: Tensor, weight: Tensor, geometry: Geometry, last: bool) -> _Plan:
    sizes = x.shape[0], weight.shape[1], weight.shape[0] // geometry.groups
    return _plan(sizes, geometry, last, x.dtype, torch.get_num_threads())


def _reads_last(x: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    """Whether x and y are read and written with their channels last in memory, by vectors of channels."""
    if x.is_contiguous() or geometry.groups < FEW_CHANNELS or max(geometry.stride) > 1:
        return False
    return is_depthwise(weight, geometry.groups) and channels_are_last(x)


def _probabilities(shares: Tensor, temperature: float | None) -> ctypes.Array[ctypes.c_double]:
    """In double precision, whatever that of the shares; for temperature see `as_operator`."""
    values = shares.tolist()
    if temperature is not None:
        largest = max(values)
        values = [math.exp((value - largest) / temperature) for value in values]
        total = sum(values)
        values = [value / total for value in values]
    return (ctypes.c_double * len(values))(*values)


def _call(plan: _Plan, which: _Pass, dtype: torch.dtype, numbers: tuple[Any, ...], *tensors: Tensor | None) -> None:
    """Call a function of the library, in scratch space of its own, which the thread keeps for its next call."""
    size = which.size * dtype.itemsize
    scratch = _held.__dict__.pop("scratch", None)  # nobody else's while it is in use
    if scratch is None or scratch.numel() < size:
        scratch = torch.empty(size, dtype=torch.uint8, device="cpu")
    start, pointers = scratch.data_ptr(), [None if t is None else t.data_ptr() for t in tensors]
    parts = start, start + which.integers, start + which.doubles
    which.function(*plan.layer, *numbers, *pointers, *parts, plan.threads)
    if scratch.numel() <= KEPT:
        _held.scratch = scratch


def _run(
    x: Tensor, weight: Tensor, bias: Tensor | None, shares: Tensor, geometry: Geometry, temperature: float | None
) -> tuple[Tensor, Any]:
    last = _reads_last(x, weight, geometry)
    plan, probability = _plan_of(x, weight, geometry, last), _probabilities(shares, temperature)
    y = empty(x, (x.shape[0], weight.shape[0], *geometry.size_out), last)
    _call(plan, plan.forward, x.dtype, (probability,), *_as_read(x, weight, bias, last), y)
    return laid_out(y, channels_are_last(x)), probability


def _run_backward(
    g: Tensor,
    tensors: Sequence[Any],
    probability: ctypes.Array[ctypes.c_double] | None,
    geometry: Geometry,
    temperature: float | None,
    needed: Sequence[bool],
) -> Gradients:
    if not _is_plain(g) or memory_is_fake():
        kind = f"{type(g).__name__} on {g.device}{' in FakeTensorMode' if memory_is_fake() else ''}"
        raise ValueError(f'implementation="native" needs a plain tensor on the CPU as gradient, not {kind}')
    x, weight, bias, shares = tensors
    for tensor in (x, weight, bias):  # hooks on saved tensors may return others
        if tensor is not None and not (tensor.is_cpu and tensor.dtype == g.dtype):
            kind = f"of {tensor.dtype} on {tensor.device}, for a gradient of {g.dtype}"
            raise ValueError(f'implementation="native" needs the saved tensors as they were, not {kind}')
    if probability is None:
        probability = _probabilities(shares, temperature)
    last = _reads_last(x, weight, geometry)
    plan, read = _plan_of(x, weight, geometry, last), _as_read(x, weight, bias, last)
    grad_x, grad_weight, grad_bias = (
        torch.empty_like(t) if need and t is not None else None for t, need in zip(read, needed, strict=False)
    )
    grad_shares, wide = None, shares.dtype != torch.float32
    if needed[3]:
        grad_shares = torch.empty(len(shares), dtype=torch.float64 if wide else torch.float32, device="cpu")
    grads = grad_x, grad_weight, grad_bias, grad_shares
    _call(plan, plan.backward, x.dtype, (probability, temperature or 0, wide), _in_order(g, last), *read, *grads)
    return (
        None if grad_x is None else laid_out(grad_x, channels_are_last(x)),
        *(grad_weight, grad_bias, None if grad_shares is None else grad_shares.to(shares.dtype)),
    )


def _as_read(x: Tensor, weight: Tensor, bias: Tensor | None, last: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """x, weight and bias as the library reads them."""
    return _in_order(x, last), _in_order(weight), None if bias is None else _in_order(bias)


def _in_order(tensor: Tensor, last: bool = False) -> Tensor:
    tensor = tensor.resolve_neg() if tensor.is_neg() else tensor
    if last:
        return laid_out(tensor, True)
    many = tensor.dim() > 2 and tensor.numel() >= _MANY * tensor.shape[0]
    return laid_out(tensor, False) if many and channels_are_last(tensor) else tensor.contiguous()


_MANY = 3600
"""Elements of a matrix from which on torch transposes it block by block."""


operator = as_operator("native", Passes(_run, _run_backward))
