"""The operator of a searched convolution: one kernel at several dilations, summed with probabilities."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

Padding = Sequence[Sequence[int | tuple[int, int]]]
"""Per branch and per axis: a symmetric int or (before, after). Negative numbers crop."""

Implementation = Literal["auto", "branches"]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class _Geometry(NamedTuple):
    """Checked, normalised arguments; plain integers only, so that it can be a cache key."""

    kernel: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[tuple[int, int], ...], ...]
    groups: int
    padding_mode: str
    size_in: tuple[int, ...]
    size_out: tuple[int, ...]


def mixed_dilation_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    dilations: Sequence[Sequence[int]],
    *,
    stride: int | Sequence[int] = 1,
    padding: Padding | None = None,
    groups: int = 1,
    padding_mode: str = "zeros",
    implementation: str = "auto",
) -> Tensor:
    """Weighted sum over branches of one convolution evaluated at several dilations.

    Computes sum_i probability[i] * conv(pad(x, padding[i]), weight, bias, dilation=dilations[i]); the bias
    therefore counts probability.sum() times.

    Args:
        x: (batch, channel_in, *size_in) or (channel_in, *size_in), with one to three spatial axes.
        weight: (channel_out, channel_in // groups, *kernel).
        bias: (channel_out,) or None.
        probability: (branches,), the share of each branch; need not sum to one.
        dilations: one tuple per branch with one positive integer per spatial axis.
        stride: one integer for all axes or one per axis.
        padding: per branch and axis, a symmetric int or (before, after), negative to crop. None keeps the size
            (at stride 1): dilation * (kernel - 1) / 2 on both sides.
        groups: as in `torch.nn.Conv2d`.
        padding_mode: "zeros", "reflect", "replicate" or "circular", as in `torch.nn.Conv2d`; paddings as large
            as the input or larger continue the reflection or the wrap (`numpy.pad`) where torch would refuse.
        implementation: how, not what; every choice returns the same values up to rounding.

    Returns:
        (batch, channel_out, *size_out), unbatched like x, in the dtype of the plain conv (autocast included).

    Raises:
        ValueError: an argument does not fit the others; the message names it and says what would.
    """
    geometry = _check(
        x, weight, bias, probability, dilations, stride, padding, groups, padding_mode, implementation
    )
    unbatched = x.dim() == weight.dim() - 1
    if unbatched:
        x = x.unsqueeze(0)
    y = _branches(x, weight, bias, probability, geometry)
    return y.squeeze(0) if unbatched else y


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    probability: Tensor,
    dilations: Sequence[Sequence[int]],
    stride: int | Sequence[int],
    padding: Padding | None,
    groups: int,
    padding_mode: str,
    implementation: str,
) -> _Geometry:
    """Validate every argument once, for all implementations."""
    if implementation not in get_args(Implementation):
        raise ValueError(
            f"unknown implementation {implementation!r}; known are {', '.join(get_args(Implementation))}"
        )
    if padding_mode not in _PADDING_MODES:
        raise ValueError(f"unknown padding_mode {padding_mode!r}; known are {', '.join(_PADDING_MODES)}")
    rank = weight.dim() - 2
    if rank not in _CONV:
        raise ValueError(
            f"weight must be (channel_out, channel_in // groups, *kernel) with 1 to 3 kernel axes, "
            f"got shape {tuple(weight.shape)}"
        )
    if x.dim() not in (rank + 1, rank + 2):
        raise ValueError(
            f"x must be (batch, channel, *size) or (channel, *size) with {rank} spatial axes to fit weight "
            f"{tuple(weight.shape)}, got shape {tuple(x.shape)}"
        )
    channel_in, channel_out = x.shape[-rank - 1], weight.shape[0]
    if groups < 1 or channel_out % groups or channel_in != weight.shape[1] * groups:
        raise ValueError(
            f"x has {channel_in} channels; weight {tuple(weight.shape)} with groups={groups} needs "
            f"{weight.shape[1] * groups} and a channel_out divisible by groups"
        )
    if bias is not None and bias.shape != (channel_out,):
        raise ValueError(f"bias must have shape ({channel_out},), got {tuple(bias.shape)}")
    if len(dilations) == 0:
        raise ValueError("dilations is empty; give one tuple per branch")
    if probability.shape != (len(dilations),):
        raise ValueError(
            f"probability must have one entry per branch, shape ({len(dilations)},), got {tuple(probability.shape)}"
        )
    for branch, dilation in enumerate(dilations):
        if len(dilation) != rank or any(d < 1 for d in dilation):
            raise ValueError(
                f"dilation of branch {branch} must be {rank} positive integers, one per spatial axis, "
                f"got {tuple(dilation)}"
            )
    strides = (stride,) * rank if isinstance(stride, int) else tuple(stride)
    if len(strides) != rank or any(s < 1 for s in strides):
        raise ValueError(f"stride must be a positive integer or {rank} of them, got {stride}")
    kernel, size_in = tuple(weight.shape[2:]), tuple(x.shape[-rank:])
    paddings = _paddings(padding, kernel, dilations)
    sizes = [
        tuple(
            (n + before + after - d * (k - 1) - 1) // s + 1
            for n, k, d, s, (before, after) in zip(size_in, kernel, dilation, strides, pads, strict=True)
        )
        for dilation, pads in zip(dilations, paddings, strict=True)
    ]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(
            f"branches must have one output size, got {sizes} for dilations {[tuple(d) for d in dilations]}; "
            "give each branch the padding that keeps its size"
        )
    if min(sizes[0]) < 1:
        raise ValueError(
            f"kernel {kernel} does not fit the padded input {size_in}: the output size is {sizes[0]}"
        )
    return _Geometry(
        kernel, tuple(tuple(d) for d in dilations), strides, paddings, groups, padding_mode, size_in, sizes[0]
    )


def _paddings(
    padding: Padding | None, kernel: tuple[int, ...], dilations: Sequence[Sequence[int]]
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Every padding as (before, after), per branch and axis."""
    if padding is None:
        for branch, dilation in enumerate(dilations):
            for axis, (k, d) in enumerate(zip(kernel, dilation, strict=True)):
                if d * (k - 1) % 2:
                    raise ValueError(
                        f"no symmetric padding keeps the size on axis {axis} of branch {branch}: dilation {d} x "
                        f"(kernel {k} - 1) is odd; give padding=(before, after) there"
                    )
        return tuple(
            tuple((d * (k - 1) // 2, d * (k - 1) // 2) for k, d in zip(kernel, dilation, strict=True))
            for dilation in dilations
        )
    if len(padding) != len(dilations) or any(len(pads) != len(kernel) for pads in padding):
        raise ValueError(
            f"padding must hold {len(dilations)} branches of {len(kernel)} axes each, got {[list(p) for p in padding]}"
        )
    return tuple(tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in pads) for pads in padding)


def _extend(x: Tensor, padding: Sequence[tuple[int, int]], mode: str) -> Tensor:
    """Window of the input's infinite extension: x (batch, channel, *size) -> each size plus before plus after."""
    if not any(before or after for before, after in padding):
        return x
    flat = [p for before, after in reversed(padding) for p in (before, after)]
    if mode == "zeros":
        return F.pad(x, flat)
    limit = {"reflect": -1, "circular": 0}.get(mode)
    size = x.shape[2:]
    if limit is None or all(max(pads) <= n + limit for pads, n in zip(padding, size, strict=True)):
        x = F.pad(x, [max(p, 0) for p in flat], mode=mode)
        for axis, pads in enumerate(padding, start=2):
            before, after = (max(-p, 0) for p in pads)
            if before or after:
                x = x.narrow(axis, before, x.shape[axis] - before - after)
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


def _branches(
    x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: _Geometry
) -> Tensor:
    """The reference: one conv per branch, as the definition reads."""
    conv = _CONV[len(geometry.kernel)]
    total: Tensor | None = None
    for branch, (dilation, padding) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
        if geometry.padding_mode == "zeros" and all(0 <= before == after for before, after in padding):
            padded, inner = x, tuple(before for before, _ in padding)
        else:
            padded, inner = _extend(x, padding, geometry.padding_mode), 0
        y = conv(padded, weight, bias, geometry.stride, inner, dilation, geometry.groups)
        total = probability[branch] * y if total is None else total + probability[branch] * y
    assert total is not None
    return total
