"""The Triton kernels of the implementation `triton`, which `triton.py` launches.

All address images (batch, channel, height, width), 1-d inputs with a height of 1, by their strides. A position is
one of (batch, height, width) of the output, flattened. A tap of a branch reads position * MUL + shift if that lies
inside the input. The gradient of x is computed the other way round: from position - shift, where DIV, the stride,
divides it. Kernels take plain numbers only, hence their many parameters.
"""

# pyright: reportInvalidTypeForm=false
# In kernels tl.constexpr is an annotation; to a type checker tl is any object, since not every machine has Triton.

import importlib
from typing import Any

# Not a requirement of ours: torch comes with the release that it works with, or without one.
triton: Any = importlib.import_module("triton")
tl: Any = importlib.import_module("triton.language")


@triton.jit
def _place(position, height, width, MUL_H: tl.constexpr, MUL_W: tl.constexpr):
    item = position // (height * width)
    rest = position - item * (height * width)
    return item.to(tl.int64), (rest // width) * MUL_H, (rest % width) * MUL_W


@triton.jit
def _shifted(
    x, shift, item, row, column, inside, channel, channels, height, width,
    x_item, x_channel, x_row, x_column, DIV_H: tl.constexpr, DIV_W: tl.constexpr,
):  # fmt: skip
    """(channels, positions) of x in float32, zeros outside."""
    h = row + tl.load(shift)
    w = column + tl.load(shift + 1)
    inside = inside & (h >= 0) & (w >= 0)
    if DIV_H > 1:
        inside = inside & (h % DIV_H == 0)
        h = h // DIV_H
    if DIV_W > 1:
        inside = inside & (w % DIV_W == 0)
        w = w // DIV_W
    inside = inside & (h < height) & (w < width)
    place = item * x_item + h * x_row + w * x_column
    mask = (channel < channels)[:, None] & inside[None, :]
    return tl.load(x + channel[:, None] * x_channel + place[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _mixed(
    x, probability, shifts, item, row, column, inside, channel, channels, height, width,
    x_item, x_channel, x_row, x_column, DIV_H: tl.constexpr, DIV_W: tl.constexpr, BRANCHES: tl.constexpr,
):  # fmt: skip
    """Sum over branches of probability times shifted x, for one tap."""
    total = tl.load(probability) * _shifted(
        x, shifts, item, row, column, inside, channel, channels, height, width,
        x_item, x_channel, x_row, x_column, DIV_H, DIV_W,
    )  # fmt: skip
    for branch in tl.static_range(1, BRANCHES):
        total += tl.load(probability + branch) * _shifted(
            x, shifts + 2 * branch, item, row, column, inside, channel, channels, height, width,
            x_item, x_channel, x_row, x_column, DIV_H, DIV_W,
        )  # fmt: skip
    return total


@triton.jit
def dense_kernel(
    x, weight, bias, probability, shifts, y,
    positions, channel_in, channel_out, height_in, width_in, height_out, width_out, taps,
    x_item, x_channel, x_row, x_column, weight_tap, weight_out, weight_in, y_item, y_channel, y_row, y_column,
    MUL_H: tl.constexpr, MUL_W: tl.constexpr, DIV_H: tl.constexpr, DIV_W: tl.constexpr, BRANCHES: tl.constexpr,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_POSITION: tl.constexpr,
):  # fmt: skip
    """y = sum over taps of W_k times mixed x."""
    out = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    position = tl.program_id(0) * BLOCK_POSITION + tl.arange(0, BLOCK_POSITION)
    inside = position < positions
    item, row, column = _place(position, height_out, width_out, MUL_H, MUL_W)
    total = tl.zeros([BLOCK_OUT, BLOCK_POSITION], dtype=tl.float32)
    for tap in range(taps):
        for start in range(0, channel_in, BLOCK_IN):
            channel = start + tl.arange(0, BLOCK_IN)
            mixed = _mixed(
                x, probability, shifts + 2 * BRANCHES * tap, item, row, column, inside, channel, channel_in,
                height_in, width_in, x_item, x_channel, x_row, x_column, DIV_H, DIV_W, BRANCHES,
            )  # fmt: skip
            kernel = tl.load(
                weight + tap * weight_tap + out[:, None] * weight_out + channel[None, :] * weight_in,
                mask=(out < channel_out)[:, None] & (channel < channel_in)[None, :],
                other=0.0,
            )
            total = tl.dot(kernel, mixed.to(kernel.dtype), total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + out, mask=out < channel_out, other=0.0)[:, None]
    item, row, column = _place(position, height_out, width_out, 1, 1)
    place = item * y_item + row * y_row + column * y_column
    tl.store(
        y + out[:, None] * y_channel + place[None, :],
        total.to(y.dtype.element_ty),
        mask=(out < channel_out)[:, None] & inside[None, :],
    )


@triton.jit
def dense_weight_kernel(
    g, x, probability, shifts, slices,
    positions, slice_positions, channel_in, channel_out, height_in, width_in, height_out, width_out, taps,
    x_item, x_channel, x_row, x_column, g_item, g_channel, g_row, g_column,
    MUL_H: tl.constexpr, MUL_W: tl.constexpr, BRANCHES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_POSITION: tl.constexpr,
):  # fmt: skip
    """slices (slice, tap, channel_out, channel_in): g times mixed x, summed over a slice of the positions."""
    tiles_in = tl.cdiv(channel_in, BLOCK_IN)
    out = (tl.program_id(0) // tiles_in) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    channel = (tl.program_id(0) % tiles_in) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    tap = tl.program_id(1)
    first = tl.program_id(2) * slice_positions
    end = tl.minimum(first + slice_positions, positions)
    total = tl.zeros([BLOCK_OUT, BLOCK_IN], dtype=tl.float32)
    for start in range(first, end, BLOCK_POSITION):
        position = start + tl.arange(0, BLOCK_POSITION)
        inside = position < end
        item, row, column = _place(position, height_out, width_out, 1, 1)
        place = item * g_item + row * g_row + column * g_column
        gradient = tl.load(
            g + out[:, None] * g_channel + place[None, :],
            mask=(out < channel_out)[:, None] & inside[None, :],
            other=0.0,
        )
        mixed = _mixed(
            x, probability, shifts + 2 * BRANCHES * tap, item, row * MUL_H, column * MUL_W, inside, channel,
            channel_in, height_in, width_in, x_item, x_channel, x_row, x_column, 1, 1, BRANCHES,
        )  # fmt: skip
        total = tl.dot(gradient, tl.trans(mixed.to(gradient.dtype)), total, input_precision=PRECISION)
    matrix = (tl.program_id(2) * taps + tap).to(tl.int64) * channel_out
    tl.store(
        slices + (matrix + out)[:, None] * channel_in + channel[None, :],
        total,
        mask=(out < channel_out)[:, None] & (channel < channel_in)[None, :],
    )


@triton.jit
def dense_probability_kernel(
    g, x, weight, shifts, parts,
    positions, channel_in, channel_out, height_in, width_in, height_out, width_out, taps,
    x_item, x_channel, x_row, x_column, weight_tap, weight_out, weight_in, g_item, g_channel, g_row, g_column,
    MUL_H: tl.constexpr, MUL_W: tl.constexpr, BRANCHES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_OUT: tl.constexpr, BLOCK_IN: tl.constexpr, BLOCK_POSITION: tl.constexpr, BLOCK_BRANCH: tl.constexpr,
):  # fmt: skip
    """parts (program, branch): sum over taps of <W_k^T g, shifted x>, for a tile of x's channels and positions."""
    channel = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    position = tl.program_id(0) * BLOCK_POSITION + tl.arange(0, BLOCK_POSITION)
    inside = position < positions
    item, row, column = _place(position, height_out, width_out, 1, 1)
    place = item * g_item + row * g_row + column * g_column
    row, column = row * MUL_H, column * MUL_W
    index = tl.arange(0, BLOCK_BRANCH)
    sums = tl.zeros([BLOCK_BRANCH], dtype=tl.float32)
    for tap in range(taps):
        u = tl.zeros([BLOCK_IN, BLOCK_POSITION], dtype=tl.float32)
        for start in range(0, channel_out, BLOCK_OUT):
            out = start + tl.arange(0, BLOCK_OUT)
            gradient = tl.load(
                g + out[:, None] * g_channel + place[None, :],
                mask=(out < channel_out)[:, None] & inside[None, :],
                other=0.0,
            )
            kernel = tl.load(
                weight + tap * weight_tap + out[None, :] * weight_out + channel[:, None] * weight_in,
                mask=(out < channel_out)[None, :] & (channel < channel_in)[:, None],
                other=0.0,
            )
            u = tl.dot(kernel, gradient, u, input_precision=PRECISION)
        for branch in tl.static_range(BRANCHES):
            shifted = _shifted(
                x, shifts + 2 * (BRANCHES * tap + branch), item, row, column, inside, channel, channel_in,
                height_in, width_in, x_item, x_channel, x_row, x_column, 1, 1,
            )  # fmt: skip
            sums += tl.where(index == branch, tl.sum(tl.sum(u * shifted, axis=1), axis=0), 0.0)
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(parts + program * BRANCHES + index, sums, mask=index < BRANCHES)


@triton.jit
def depthwise_kernel(
    x, weight, bias, probability, shifts, y,
    positions, channels, height_in, width_in, height_out, width_out, taps,
    x_item, x_channel, x_row, x_column, y_item, y_channel, y_row, y_column,
    MUL_H: tl.constexpr, MUL_W: tl.constexpr, DIV_H: tl.constexpr, DIV_W: tl.constexpr, BRANCHES: tl.constexpr,
    HAS_BIAS: tl.constexpr, BLOCK_CHANNEL: tl.constexpr, BLOCK_POSITION: tl.constexpr,
):  # fmt: skip
    """y = sum over taps of w_k times mixed x, channel by channel; weight (tap, channel)."""
    channel = tl.program_id(1) * BLOCK_CHANNEL + tl.arange(0, BLOCK_CHANNEL)
    position = tl.program_id(0) * BLOCK_POSITION + tl.arange(0, BLOCK_POSITION)
    inside = position < positions
    item, row, column = _place(position, height_out, width_out, MUL_H, MUL_W)
    total = tl.zeros([BLOCK_CHANNEL, BLOCK_POSITION], dtype=tl.float32)
    for tap in range(taps):
        kernel = tl.load(weight + tap * channels + channel, mask=channel < channels, other=0.0).to(tl.float32)
        total += kernel[:, None] * _mixed(
            x, probability, shifts + 2 * BRANCHES * tap, item, row, column, inside, channel, channels,
            height_in, width_in, x_item, x_channel, x_row, x_column, DIV_H, DIV_W, BRANCHES,
        )  # fmt: skip
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=channel < channels, other=0.0)[:, None]
    item, row, column = _place(position, height_out, width_out, 1, 1)
    place = item * y_item + row * y_row + column * y_column
    tl.store(
        y + channel[:, None] * y_channel + place[None, :],
        total.to(y.dtype.element_ty),
        mask=(channel < channels)[:, None] & inside[None, :],
    )


@triton.jit
def depthwise_gradient_kernel(
    g, x, shifts, slices,
    positions, channels, height_in, width_in, height_out, width_out, shift_count,
    x_item, x_channel, x_row, x_column, g_item, g_channel, g_row, g_column,
    MUL_H: tl.constexpr, MUL_W: tl.constexpr, BLOCK_CHANNEL: tl.constexpr, BLOCK_POSITION: tl.constexpr,
):  # fmt: skip
    """slices (slice, shift, channel): g times shifted x, summed over a slice of the positions."""
    channel = tl.program_id(1) * BLOCK_CHANNEL + tl.arange(0, BLOCK_CHANNEL)
    position = tl.program_id(0) * BLOCK_POSITION + tl.arange(0, BLOCK_POSITION)
    inside = position < positions
    item, row, column = _place(position, height_out, width_out, 1, 1)
    place = item * g_item + row * g_row + column * g_column
    gradient = tl.load(
        g + channel[:, None] * g_channel + place[None, :],
        mask=(channel < channels)[:, None] & inside[None, :],
        other=0.0,
    ).to(tl.float32)
    for number in range(shift_count):
        shifted = _shifted(
            x, shifts + 2 * number, item, row * MUL_H, column * MUL_W, inside, channel, channels,
            height_in, width_in, x_item, x_channel, x_row, x_column, 1, 1,
        )  # fmt: skip
        line = (tl.program_id(0) * shift_count + number).to(tl.int64) * channels
        tl.store(slices + line + channel, tl.sum(gradient * shifted, axis=1), mask=channel < channels)


INTERPRETED = not isinstance(_place, triton.JITFunction)
"""Whether the kernels run on the CPU, in numpy: TRITON_INTERPRET=1."""
