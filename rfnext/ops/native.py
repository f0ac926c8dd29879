"""The implementation `native` of the operator: kernels for CPUs, compiled on the machine that runs them.

What `taps` does by calls of torch, `native.c` does in one pass: it mixes the shifted inputs of a tile of positions in
the core's cache and multiplies them there. This saves the passes over memory and the calls per tap and branch. A step
takes three products, as that of a plain conv. Sums are taken in a fixed order for a fixed number of threads, and only x
is kept for the backward pass. Depthwise convs, which have no product to share, take one pass over all taps of all
branches in registers for each of y, dL/dx and dL/dW.

`rfnext.ops.native_build` compiles the file within two seconds when it is first needed on a machine. Without a C
compiler, "auto" leaves this implementation out.
"""

import ctypes
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rfnext.ops import kept_choices, native_build
from rfnext.ops.autograd import as_operator
from rfnext.ops.branches import by_branches
from rfnext.ops.geometry import Geometry, is_depthwise, is_thin, meets_input, shifts_of_taps
from rfnext.ops.native_build import failure, library
from rfnext.ops.taps import by_taps

_SUFFIX = {torch.float32: "float", torch.float64: "double"}


def is_for(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> bool:
    """Whether the kernels can be used here and were written for this layer.

    They take plain tensors on a CPU in float32 or float64, and convs that are depthwise and of stride 1, or not thin.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    depthwise = is_depthwise(weight, geometry.groups) and max(geometry.stride) == 1
    fits = dtype in _SUFFIX and x.dtype == weight.dtype and (depthwise or not is_thin(weight, geometry.groups))
    # Under torch.compile tensors are of another type, but plain when the compiled program runs.
    plain = torch.compiler.is_compiling() or all(_is_plain(t) for t in (x, weight, bias, probability) if t is not None)
    return fits and plain and x.device.type == "cpu" and failure() is None


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

    conv and terms: as the structs of these names in the source. member: (shares, branches), which branches sum up to
    which share; transposed: the same as (branches, shares). forward, backward: sizes of the scratch space, and the
    functions. threads: how many to ask for.
    """

    conv: ctypes.Array[ctypes.c_int64]
    terms: ctypes.Array[ctypes.c_int64]
    member: Tensor
    transposed: Tensor
    forward: "_Pass"
    backward: "_Pass"
    threads: int


class _Pass(NamedTuple):
    """A function of the library. size: of its scratch space, in elements; integers: where these begin, in bytes."""

    function: Callable[..., None]
    size: int
    integers: int


@functools.lru_cache(maxsize=1024)
def _plan(
    sizes: tuple[int, int, int],
    geometry: Geometry,
    dtype: torch.dtype,
    probability_dtype: torch.dtype,
    threads: int,
) -> _Plan:
    """sizes: batch, and channels in and out per group."""
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
    ones = [1] * len(rest)
    spatial = (*ones, *geometry.size_in, *ones, *geometry.size_out, *ones, *geometry.stride)
    taps = math.prod(geometry.kernel)
    conv = _integers((batch, geometry.groups, channel_in, channel_out, taps, len(terms), most, len(sharers), *spatial))
    flat = _integers([n for term in terms for n in term])
    member = torch.zeros(len(sharers), len(geometry.dilations), dtype=probability_dtype, device="cpu")
    for branches, place in sharers.items():
        member[place, list(branches)] = 1
    threads = library().most_threads(threads)
    forward, backward = _integers([0] * 3), _integers([0] * 3)
    _function("space", dtype)(conv, flat, forward, backward, threads)
    there, back = _pass("forward", dtype, [*forward], threads), _pass("backward", dtype, [*backward], threads)
    return _Plan(conv, flat, member, member.t().contiguous(), there, back, threads)


def _pass(name: str, dtype: torch.dtype, sizes: Sequence[int], threads: int) -> _Pass:
    """sizes: elements, elements per thread, integers per thread; both kinds come in whole cache lines."""
    integers = (sizes[0] + threads * sizes[1]) * dtype.itemsize
    return _Pass(_function(name, dtype), (integers + 8 * threads * sizes[2]) // dtype.itemsize, integers)


def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    return getattr(library(), f"{name}_{_SUFFIX[dtype]}")


def _integers(values: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


class _Work:
    """What both passes need: plan, shares, contiguous arguments."""

    def __init__(self, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry) -> None:
        sizes = x.shape[0], weight.shape[1], weight.shape[0] // geometry.groups
        self.plan = _plan(sizes, geometry, x.dtype, probability.dtype, torch.get_num_threads())
        self.x, self.weight = _in_order(x), _in_order(weight)
        # Sums of probabilities are taken as precisely as they are given.
        shares = torch.mv(self.plan.member, probability)
        self.shares = shares if shares.dtype == x.dtype else shares.to(x.dtype)

    def run(self, which: _Pass, *tensors: Tensor | None) -> None:
        """Call a function of the library for these tensors, in scratch space of its own."""
        scratch = torch.empty(which.size, dtype=self.x.dtype, device="cpu")
        start = scratch.data_ptr()
        pointers = [None if t is None else t.data_ptr() for t in tensors]
        which.function(self.plan.conv, self.plan.terms, *pointers, start, start + which.integers, self.plan.threads)


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    work = _Work(x, weight, probability, geometry)
    bias = None if bias is None else _in_order(bias if bias.dtype == x.dtype else bias.to(x.dtype))
    y = x.new_empty((x.shape[0], weight.shape[0], *geometry.size_out))
    work.run(work.plan.forward, work.shares, work.x, work.weight, bias, y)
    return y


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    need_x, need_weight, _, need_probability = needed
    if not (need_x or need_weight or need_probability):
        return None, None, None
    if not _is_plain(g):
        kind = f"{type(g).__name__} on {g.device}"
        raise ValueError(f'implementation="native" needs a plain tensor on the CPU as gradient, not {kind}')
    work, g = _Work(x, weight, probability, geometry), _in_order(g)
    grad_x = torch.empty_like(work.x) if need_x else None
    grad_weight = torch.empty_like(work.weight) if need_weight else None
    grad_shares, threads = None, work.plan.threads
    if need_probability:
        grad_shares = torch.zeros(threads * len(work.plan.member), dtype=torch.float64, device="cpu")
    work.run(work.plan.backward, work.shares, g, work.x, work.weight, grad_x, grad_weight, grad_shares)
    if grad_shares is None:
        return grad_x, grad_weight, None
    if threads > 1:
        grad_shares = grad_shares.view(threads, -1).sum(0)
    # In small layers a product of matrices takes longer than all else: torch.mv, not @.
    return grad_x, grad_weight, torch.mv(work.plan.transposed, grad_shares.to(probability.dtype))


def _in_order(tensor: Tensor) -> Tensor:
    return (tensor.resolve_neg() if tensor.is_neg() else tensor).contiguous()


operator = as_operator("native", _forward, _backward)
