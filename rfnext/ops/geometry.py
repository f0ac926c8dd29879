"""The index arithmetic of the operator: sizes, paddings, and which input elements each tap of each branch reads."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

FEW_CHANNELS = 8
"""Channels per group below which the product of a tap has too few terms to be worth sharing."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def remembered(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Keep the results of a function of integers: every layer of a network needs the same ones in every step.

    Under torch.compile sizes are symbols, so nothing is kept there; it calls the function once per graph.
    """
    kept = functools.lru_cache(maxsize=1024)(function)

    @functools.wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return (function if torch.compiler.is_compiling() else kept)(*args, **kwargs)

    return run


class Geometry(NamedTuple):
    """Checked, normalised arguments of one call; plain integers only, so that it can be a key.

    Per axis: kernel, stride, size_in, size_out. Per branch and axis: dilations and padding (before, after).
    """

    kernel: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[tuple[int, int], ...], ...]
    groups: int
    padding_mode: str
    size_in: tuple[int, ...]
    size_out: tuple[int, ...]


def size_out(
    size_in: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> tuple[int, ...]:
    """Output size of a conv, per axis."""
    return tuple(
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, d, s, (before, after) in zip(size_in, kernel, dilation, stride, padding, strict=True)
    )


def extend(x: Tensor, padding: Sequence[tuple[int, int]], mode: str) -> Tensor:
    """Window of the input's infinite extension: x (batch, channel, *size) -> each size plus before plus after.

    Negative sides crop. "reflect" and "circular" continue beyond the first period, as in `numpy.pad`.
    """
    if not any(before or after for before, after in padding):
        return x
    size = x.shape[2:]
    limit = {"reflect": -1, "circular": 0}.get(mode, math.inf)  # how much larger than the input F.pad allows it to be
    if limit == math.inf or all(max(sides) <= n + limit for sides, n in zip(padding, size, strict=True)):
        grow = [max(side, 0) for sides in reversed(padding) for side in sides]
        x = F.pad(x, grow, mode="constant" if mode == "zeros" else mode) if any(grow) else x
        for axis, (before, after) in enumerate(padding, start=2):
            if before < 0 or after < 0:
                x = x.narrow(axis, max(-before, 0), x.shape[axis] - max(-before, 0) - max(-after, 0))
        return x
    for axis, ((before, after), n) in enumerate(zip(padding, size, strict=True), start=2):
        position = torch.arange(-before, n + after, device=x.device)
        if mode == "circular":
            index = position % n
        else:
            period = max(2 * (n - 1), 1)
            index = position % period
            index = torch.minimum(index, period - index) if n > 1 else index
        x = x.index_select(axis, index)
    return x


def merge_equal(probability: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
    """Merge branches that read the same elements: equal ones, and those that differ where the kernel has one tap."""
    equal, merged_geometry = _equal_branches(geometry)
    if len(equal) == len(geometry.dilations):
        return probability, geometry
    each = probability.unbind()
    return torch.stack([torch.stack([each[i] for i in same]).sum() for same in equal]), merged_geometry


@remembered
def _equal_branches(geometry: Geometry) -> tuple[list[list[int]], Geometry]:
    branches: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for branch, (dilation, padding) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
        reads = zip(dilation, padding, geometry.kernel, strict=True)
        branches.setdefault(tuple((before, d if k > 1 else 1) for d, (before, _), k in reads), []).append(branch)
    equal = list(branches.values())
    if len(equal) == len(geometry.dilations):
        return equal, geometry
    firsts = [same[0] for same in equal]
    return equal, geometry._replace(
        dilations=tuple(geometry.dilations[i] for i in firsts), padding=tuple(geometry.padding[i] for i in firsts)
    )


def crop_extended(x: Tensor, geometry: Geometry) -> tuple[Tensor, Geometry]:
    """Carry out a padding other than zeros once, as widely as any branch needs it.

    Returns the extended input and the geometry on it: zero padding, negative where a branch reads less.
    """
    before = [max(p[a][0] for p in geometry.padding) for a in range(len(geometry.kernel))]
    after = [
        max(
            (n_out - 1) * stride + d[a] * (k - 1) - p[a][0] + 1 - n
            for d, p in zip(geometry.dilations, geometry.padding, strict=True)
        )
        for a, (n, n_out, stride, k) in enumerate(
            zip(geometry.size_in, geometry.size_out, geometry.stride, geometry.kernel, strict=True)
        )
    ]
    x = extend(x, list(zip(before, after, strict=True)), geometry.padding_mode)
    return x, geometry._replace(
        padding_mode="zeros",
        size_in=tuple(x.shape[2:]),
        padding=tuple(
            tuple((p_before - b, p_after - a) for (p_before, p_after), b, a in zip(p, before, after, strict=True))
            for p in geometry.padding
        ),
    )


def shifts_of_taps(geometry: Geometry) -> Iterator[tuple[int, dict[tuple[int, ...], tuple[int, ...]]]]:
    """Per tap: its index in the flattened kernel, and the branches that read each shift of the input (one per axis)."""
    for index, tap in enumerate(itertools.product(*map(range, geometry.kernel))):
        readers: dict[tuple[int, ...], tuple[int, ...]] = {}
        for branch, (dilation, padding) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
            shift = tuple(k * d - before for k, d, (before, _) in zip(tap, dilation, padding, strict=True))
            readers[shift] = (*readers.get(shift, ()), branch)
        yield index, readers


def meets_input(shift: tuple[int, ...], geometry: Geometry) -> bool:
    """Whether a tap at this shift reads anything but padding."""
    axes = zip(shift, geometry.stride, geometry.size_in, geometry.size_out, strict=True)
    return all(span(*axis) is not None for axis in axes)


def span(shift: int, stride: int, size_in: int, size_out: int) -> tuple[slice, slice] | None:
    """What a tap reads along one axis, and the outputs that this is for; None if it reads nothing but padding."""
    first = max(0, -(shift // stride))
    last = min(size_out - 1, (size_in - 1 - shift) // stride)
    if last < first:
        return None
    return slice(first * stride + shift, last * stride + shift + 1, stride), slice(first, last + 1, 1)


def is_thin(weight: Tensor, groups: int) -> bool:
    """Whether the product of a tap has too few terms to be worth sharing."""
    return min(weight.shape[1], weight.shape[0] // groups) < FEW_CHANNELS


def is_depthwise(weight: Tensor, groups: int) -> bool:
    """Whether every channel has a kernel of its own, with one output channel each."""
    return weight.shape[1] == 1 and weight.shape[0] == groups
