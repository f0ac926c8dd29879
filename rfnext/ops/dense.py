"""The implementation `dense` of the operator: all branches as one larger kernel, convolved once."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from rfnext.ops.branches import conv
from rfnext.ops.geometry import Geometry, remembered


class Grid(NamedTuple):
    """The coarsest grid that holds all taps of all branches: with 3 taps, dilations 16 and 32 need 5 taps, not 65.

    position: per branch and tap the flat index in the grid. step: the dilation of the kernel on the grid.
    """

    size: tuple[int, ...]
    step: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    position: tuple[tuple[int, ...], ...]


@remembered
def dense_grid(geometry: Geometry) -> Grid:
    """The grid of the kernel into which all branches are folded."""
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
    """x (batch, channel_in, *size_in) -> (batch, channel_out, *size_out); with a single branch, the plain conv."""
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
