"""The implementations of the searched convolution that are made of torch's own: `branches` and `dense`."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def remembered(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """What index arithmetic comes to, kept for the layers of a network, which ask in every step.

    torch.compile, which knows sizes as symbols, does it anew, and once.
    """
    kept = functools.lru_cache(maxsize=1024)(function)

    @functools.wraps(function)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        return (function if torch.compiler.is_compiling() else kept)(*args, **kwargs)

    return run


class Geometry(NamedTuple):
    """Checked, normalised arguments; plain integers only, so that it can be a cache key."""

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

    "reflect" and "circular" go on beyond the first period, as in `numpy.pad`.
    """
    if not any(before or after for before, after in padding):
        return x
    size = x.shape[2:]
    limit = {"reflect": -1, "circular": 0}.get(mode, math.inf)  # how much larger than the input F.pad allows it to be
    if all(max(sides) <= n + limit for sides, n in zip(padding, size, strict=True)):
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


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    geometry: Geometry,
) -> Tensor:
    """One conv with any padding; stride, groups and padding mode from `geometry`."""
    inner: tuple[int, ...] | int = 0
    if geometry.padding_mode == "zeros" and all(0 <= before == after for before, after in padding):
        inner = tuple(before for before, _ in padding)
    else:
        x = extend(x, padding, geometry.padding_mode)
    return CONV[len(dilation)](x, weight, bias, geometry.stride, inner, dilation, geometry.groups)


def by_branches(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """The reference: one conv per branch, as the definition reads."""
    total: Tensor | None = None
    for share, dilation, padding in zip(probability, geometry.dilations, geometry.padding, strict=True):
        y = share * conv(x, weight, bias, dilation, padding, geometry)
        total = y if total is None else total + y
    assert total is not None
    return total


class Grid(NamedTuple):
    """The coarsest grid that holds all taps of all branches: dilations 16 and 32 with 3 taps need 5 taps, not 65.

    position: per branch and tap the flat index in the grid. step: the dilation of the kernel on the grid.
    """

    size: tuple[int, ...]
    step: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    position: tuple[tuple[int, ...], ...]


@remembered
def dense_grid(geometry: Geometry) -> Grid:
    size, step, padding = [], [], []
    positions: list[list[int]] = [[0] for _ in geometry.dilations]
    for axis, (kernel, stride) in enumerate(zip(geometry.kernel, geometry.stride, strict=True)):
        shifts = [
            [k * dilation[axis] - sides[axis][0] for k in range(kernel)]
            for dilation, sides in zip(geometry.dilations, geometry.padding, strict=True)
        ]
        first, last = min(map(min, shifts)), max(map(max, shifts))
        step.append(math.gcd(*(s - first for branch in shifts for s in branch)) or 1)
        size.append((last - first) // step[axis] + 1)
        after = (geometry.size_out[axis] - 1) * stride + last + 1 - geometry.size_in[axis]
        # Up to stride - 1 more elements behind change nothing, and a symmetric padding saves a copy.
        padding.append((-first, -first if after <= -first < after + stride else after))
        positions = [
            [p * size[axis] + (s - first) // step[axis] for p in position for s in branch]
            for position, branch in zip(positions, shifts, strict=True)
        ]
    return Grid(tuple(size), tuple(step), tuple(padding), tuple(map(tuple, positions)))


def by_dense(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """Fold the branches into one kernel and convolve once; with a single branch, the plain conv."""
    grid = dense_grid(geometry)
    with torch.autocast(x.device.type, enabled=False):  # the reference rounds to low precision in the conv only
        if len(geometry.dilations) == 1:
            kernel = weight * probability
        else:
            position = torch.tensor(grid.position, device=x.device).unsqueeze(-1)
            cell = torch.arange(math.prod(grid.size), device=x.device)
            share = torch.where(position == cell, probability.view(-1, 1, 1), 0).sum(0).to(weight.dtype)
            kernel = (weight.flatten(2) @ share).view(*weight.shape[:2], *grid.size)
        bias = None if bias is None else bias * probability.sum()
    return conv(x, kernel, bias, grid.step, grid.padding, geometry)


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
    """Carry out a padding other than zeros once for all branches, which then crop what they do not read."""
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
