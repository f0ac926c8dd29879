"""The implementation `triton` of the operator: GPU kernels that mix the shifted inputs in registers.

On a GPU the mixed input of the identity that `rfnext.ops` derives must not be written to memory: writing and reading it
once per tap takes longer than the products in low precision. So the kernels are implicit matrix products: a tile of the
mixed input is summed up from b shifted loads, most of which hit the cache, right before it is multiplied. A plain conv
takes three products. Here a step takes four, whatever the number of branches, and no memory but the slices:

    y         one product: W_k times mixed x
    dL/dx     one product: the same kernel with W_k^T, mirrored shifts, and g in the place of x
    dL/dW     one product: g times mixed x, in slices of the positions that torch adds up
    dL/dp     one product: u_k = W_k^T g anew, multiplied into each branch's shifted x and summed on the spot

Getting dL/dp from the u_k of the input gradient, as `taps` does, would save the fourth product, but u_k would have
to be written to memory.

Depthwise convs take one pass over all taps of all branches: for y, for dL/dx, and for the products of g with each shift
of x, from which dL/dW and dL/dp follow.

Shifts are data, not code, so a round of a search compiles nothing anew. Sums are taken in float32, in an order that is
the same in every run. The kernels themselves are in `triton_kernels.py`. Importing either file needs the package
triton, which CUDA builds of torch come with.
"""

import contextlib
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rfnext.ops.autograd import as_operator, autocast_dtype, with_bias
from rfnext.ops.branches import by_branches
from rfnext.ops.geometry import Geometry, is_depthwise
from rfnext.ops.layout import channels_are_last, empty
from rfnext.ops.triton_kernels import (
    INTERPRETED,
    dense_kernel,
    dense_probability_kernel,
    dense_weight_kernel,
    depthwise_gradient_kernel,
    depthwise_kernel,
    triton,
)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def refusal(x: Tensor, weight: Tensor, geometry: Geometry) -> str | None:
    """Why the kernels cannot compute this layer, or None if they can."""
    if not (x.is_cuda or INTERPRETED):
        return f"it needs a CUDA device, x is on {x.device}"
    dtype = autocast_dtype(x)
    if dtype not in _DTYPES:
        return f"it computes in float32, bfloat16 or float16, not in {dtype}"
    if INTERPRETED and dtype == torch.bfloat16 and geometry.groups == 1:
        return "Triton's interpreter has no products in bfloat16"
    if len(geometry.kernel) > 2:
        return "it computes over one and two spatial axes, not three"
    if geometry.groups > 1 and not is_depthwise(weight, geometry.groups):
        return (
            f"it computes groups=1 and depthwise convs, not groups={geometry.groups} with weight {tuple(weight.shape)}"
        )
    return None


def by_triton(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """x (batch, channel_in, *size_in) -> (batch, channel_out, *size_out), stored in memory like x.

    Raises:
        ValueError: if `refusal` has a reason.
    """
    if reason := refusal(x, weight, geometry):
        raise ValueError(f'implementation="triton" cannot compute this layer: {reason}; "auto" takes what can')
    if x.shape[0] == 0:
        return by_branches(x, weight, bias, probability, geometry)
    return _operator(x, weight, bias, probability, geometry)


def _image(t: Tensor) -> Tensor:
    """View (batch, channel, *size) as (batch, channel, height, width)."""
    return t.unsqueeze(2) if t.dim() == 3 else t


def _pair(values: Sequence[int]) -> tuple[int, int]:
    height, width = values if len(values) == 2 else (1, *values)
    return height, width


@functools.lru_cache(maxsize=4096)
def _shift_table(
    kernel: tuple[int, ...],
    dilations: tuple[tuple[int, ...], ...],
    padding: tuple[tuple[tuple[int, int], ...], ...],
    sign: int,
    device: torch.device,
) -> Tensor:
    """sign * (tap * dilation - padding before), (tap, branch, 2) in int32."""
    table = [
        [
            [0] * (2 - len(kernel))
            + [sign * (k * d - before) for k, d, (before, _) in zip(tap, dilation, sides, strict=True)]
            for dilation, sides in zip(dilations, padding, strict=True)
        ]
        for tap in itertools.product(*map(range, kernel))
    ]
    return torch.tensor(table, dtype=torch.int32, device=device)


def _shifts(geometry: Geometry, sign: int, device: torch.device) -> Tensor:
    return _shift_table(geometry.kernel, geometry.dilations, geometry.padding, sign, device)


def _on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _precision() -> str:
    """That of the plain conv in float32: TensorFloat-32 or not."""
    conv = getattr(torch.backends.cudnn, "conv", None)  # torch < 2.9 has one switch for all of cuDNN
    tf32 = torch.backends.cudnn.allow_tf32 if conv is None else conv.fp32_precision == "tf32"
    return "tf32" if tf32 else "ieee"


# Sizes of tiles were chosen without a GPU, by what the compiler makes of them for compute capabilities 8.0 and 9.0: no
# spilled registers for 3 branches, at most 32 KiB of shared memory. num_stages=1, since every stage of the software
# pipeline holds the shifted tiles of all branches, which soon takes more shared memory than there is.


def _block(channels: int, most: int) -> int:
    """A power of two for tl.dot, which takes no less than 16."""
    return min(most, max(16, triton.next_power_of_2(channels)))


def _summed(x: Tensor) -> int:
    """How many terms of a sum one tl.dot takes."""
    return 16 if x.dtype == torch.float32 else 32


def _depthwise_blocks(x: Tensor) -> tuple[int, int]:
    """Channels and positions of a tile, long along whichever lies together in memory."""
    return (64, 16) if channels_are_last(x) else (4, 256)


class _Reads(NamedTuple):
    """Which inputs an output reads, per tap and branch: (position * mul + shift) / div, where div divides it."""

    shifts: Tensor
    mul: tuple[int, int]
    div: tuple[int, int]


def _product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    y: Tensor,
    reads: _Reads,
) -> None:
    """y (batch, out, ...) = weight (tap, out, in) times mixed x (batch, in, ...)."""
    (batch, channel_in, *size_in), (_, channel_out, *size_out) = _image(x).shape, _image(y).shape
    positions = batch * math.prod(size_out)
    block_out, block_position = _block(channel_out, 128), 64
    dense_kernel[triton.cdiv(positions, block_position), triton.cdiv(channel_out, block_out)](
        x, weight, bias, probability, reads.shifts, y,
        positions, channel_in, channel_out, *size_in, *size_out, len(weight),
        *_image(x).stride(), *weight.stride(), *_image(y).stride(),
        *reads.mul, *reads.div, len(probability), bias is not None, _precision(), block_out, _summed(x), block_position,
        num_warps=8 if block_out > 64 else 4, num_stages=1,
    )  # fmt: skip


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    y = empty(x, (x.shape[0], weight.shape[0], *geometry.size_out), channels_are_last(x))
    reads = _Reads(_shifts(geometry, 1, x.device), _pair(geometry.stride), (1, 1))
    with _on_device(x):
        if is_depthwise(weight, geometry.groups):
            _depthwise(x, _by_tap(weight)[:, :, 0].contiguous(), bias, probability, y, reads)
        else:
            _product(x, _by_tap(weight), bias, probability.float(), y, reads)
    return y


def _by_tap(weight: Tensor) -> Tensor:
    """(out, in, *kernel) -> (tap, out, in)."""
    return weight.flatten(2).permute(2, 0, 1).contiguous()


def _depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    y: Tensor,
    reads: _Reads,
) -> None:
    """y (batch, channel, ...) = sum over taps of weight (tap, channel) times mixed x (batch, channel, ...)."""
    (batch, channels, *size_in), size_out = _image(x).shape, _image(y).shape[2:]
    positions = batch * math.prod(size_out)
    block_channel, block_position = _depthwise_blocks(x)
    depthwise_kernel[triton.cdiv(positions, block_position), triton.cdiv(channels, block_channel)](
        x, weight, bias, probability.float(), reads.shifts, y,
        positions, channels, *size_in, *size_out, len(weight),
        *_image(x).stride(), *_image(y).stride(),
        *reads.mul, *reads.div, len(probability), bias is not None, block_channel, block_position,
    )  # fmt: skip


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    need_x, need_weight, _, need_probability = needed
    kernel, share = _by_tap(weight), probability.float()
    depthwise = is_depthwise(weight, geometry.groups)
    grad_x = grad_weight = grad_probability = None
    with _on_device(x):
        if need_x:
            grad_x = empty(x, x.shape, channels_are_last(x))
            rest = share, grad_x, _Reads(_shifts(geometry, -1, x.device), (1, 1), _pair(geometry.stride))
            if depthwise:
                _depthwise(g, kernel[:, :, 0].contiguous(), None, *rest)
            else:
                _product(g, kernel.transpose(1, 2), None, *rest)
        if depthwise and (need_weight or need_probability):
            each = _depthwise_gradients(g, x, geometry)
            grad_weight = torch.einsum("tbc,b->ct", each, share).view(weight.shape).to(weight.dtype)
            grad_probability = torch.einsum("tbc,tc->b", each, kernel[:, :, 0].float())
        elif need_weight:
            grad_weight = _weight_gradient(g, x, share, geometry).permute(1, 2, 0).reshape(weight.shape)
            grad_weight = grad_weight.to(weight.dtype)
        if need_probability and not depthwise:
            grad_probability = _probability_gradient(g, x, kernel, geometry)
    return grad_x, grad_weight, None if grad_probability is None else grad_probability.to(probability.dtype)


def _weight_gradient(g: Tensor, x: Tensor, share: Tensor, geometry: Geometry) -> Tensor:
    """(tap, channel_out, channel_in) in float32."""
    (batch, channel_out, *size_out), (_, channel_in, *size_in) = _image(g).shape, _image(x).shape
    shifts, positions = _shifts(geometry, 1, x.device), batch * math.prod(size_out)
    block_out, block_in, block_position = _block(channel_out, 64), _block(channel_in, 64), _summed(x)
    tiles, taps = triton.cdiv(channel_out, block_out) * triton.cdiv(channel_in, block_in), len(shifts)
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
    # Enough slices to give every processor a few programs, none so short that adding them up would be the work.
    count = min(triton.cdiv(4 * processors, tiles * taps), triton.cdiv(positions, 512))
    length = triton.cdiv(triton.cdiv(positions, count), block_position) * block_position
    count = triton.cdiv(positions, length)
    slices = x.new_empty(count, taps, channel_out, channel_in, dtype=torch.float32)
    dense_weight_kernel[tiles, taps, count](
        g, x, share, shifts, slices,
        positions, length, channel_in, channel_out, *size_in, *size_out, taps,
        *_image(x).stride(), *_image(g).stride(),
        *_pair(geometry.stride), len(share), _precision(), block_out, block_in, block_position,
        num_warps=4, num_stages=1,
    )  # fmt: skip
    return slices.sum(0)


def _probability_gradient(g: Tensor, x: Tensor, kernel: Tensor, geometry: Geometry) -> Tensor:
    """(branch,) in float32."""
    (batch, channel_out, *size_out), (_, channel_in, *size_in) = _image(g).shape, _image(x).shape
    shifts, positions = _shifts(geometry, 1, x.device), batch * math.prod(size_out)
    block_in, block_position = _block(channel_in, 64), 64
    grid = triton.cdiv(positions, block_position), triton.cdiv(channel_in, block_in)
    branches = len(geometry.dilations)
    parts = x.new_empty(grid[0] * grid[1], branches, dtype=torch.float32)
    dense_probability_kernel[grid](
        g, x, kernel, shifts, parts,
        positions, channel_in, channel_out, *size_in, *size_out, len(kernel),
        *_image(x).stride(), *kernel.stride(), *_image(g).stride(),
        *_pair(geometry.stride), branches, _precision(), _summed(x), block_in, block_position,
        triton.next_power_of_2(branches), num_warps=4, num_stages=1,
    )  # fmt: skip
    return parts.sum(0)


def _depthwise_gradients(g: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """<g, shifted x> per (tap, branch, channel) in float32."""
    (batch, channels, *size_out), size_in = _image(g).shape, _image(x).shape[2:]
    shifts, positions = _shifts(geometry, 1, x.device), batch * math.prod(size_out)
    taps, branches, _ = shifts.shape
    block_channel, block_position = _depthwise_blocks(x)
    count = triton.cdiv(positions, 4 * block_position)
    slices = x.new_empty(count, taps, branches, channels, dtype=torch.float32)
    depthwise_gradient_kernel[count, triton.cdiv(channels, block_channel)](
        g, x, shifts, slices,
        positions, channels, *size_in, *size_out, taps * branches,
        *_image(x).stride(), *_image(g).stride(),
        *_pair(geometry.stride), block_channel, 4 * block_position,
    )  # fmt: skip
    return slices.sum(0)


_operator = as_operator("triton", with_bias(_forward, _backward))
