"""The operator of a searched convolution: one kernel at several dilations, summed with probabilities.

This is the public function and the checks of its arguments. `rfnext.ops` derives the identity behind it.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rfnext.ops.branches import CONV, by_branches, is_recorded
from rfnext.ops.choice import IMPLEMENTATIONS, choose
from rfnext.ops.geometry import Geometry, merge_equal, remembered, size_out
from rfnext.ops.pins import check_implementation

Padding = Sequence[Sequence[int | tuple[int, int]]]
"""Per branch and per axis: a symmetric int or (before, after). Negative numbers crop."""

_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


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

    Computes sum_i probability[i] * conv(pad(x, padding[i]), weight, bias, dilation=dilations[i]). The bias therefore
    counts probability.sum() times. `rfnext.ops` derives why this costs little more than a plain conv.

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
        implementation: how it is computed, see `rfnext.ops.pins.Implementation`; every choice returns the same values
            up to rounding. Where torch.jit.trace, torch.export, torch.onnx or make_fx records a graph it is "branches",
            which consists of torch's own operators, and sizes are not checked.

    Returns:
        (batch, channel_out, *size_out), unbatched like x, in the dtype of the plain conv (autocast included).

    Raises:
        ValueError: an argument does not fit the others, or "native" or "triton" cannot compute this; the message
            names what does not fit and says what would.
    """
    check_implementation(implementation)
    given = Given(
        tuple(x.shape),
        tuple(weight.shape),
        None if bias is None else tuple(bias.shape),
        tuple(probability.shape),
        _plain(dilations, 2, _integer, "dilations must hold a tuple per branch, of one integer per spatial axis"),
        _plain(stride, isinstance(stride, Sequence), _integer, "stride must be an integer or a tuple of one per axis"),
        _plain(padding, 2, _side, "padding must hold a tuple per branch, of an integer or (before, after) per axis")
        if padding is not None
        else None,
        _plain(groups, 0, _integer, "groups must be an integer"),
        padding_mode,
    )
    if not is_recorded():
        return computed(x, weight, bias, probability, geometry_of(given), implementation)
    unbatched = x.dim() == weight.dim() - 1
    y = by_branches(x.unsqueeze(0) if unbatched else x, weight, bias, probability, _unchecked_geometry(given))
    return y.squeeze(0) if unbatched else y


def computed(
    x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry, implementation: str
) -> Tensor:
    """What `mixed_dilation_conv` computes where no graph is recorded, of arguments that `geometry_of` has checked."""
    unbatched = x.dim() == weight.dim() - 1
    if unbatched:
        x = x.unsqueeze(0)
    if implementation == "auto":
        implementation = choose(x, weight, bias, probability, geometry)
    if implementation != "branches":
        probability, geometry = merge_equal(probability, geometry)
        if len(geometry.dilations) == 1:
            implementation = "dense"  # which then is the plain conv
    y = IMPLEMENTATIONS[implementation](x, weight, bias, probability, geometry)
    return y.squeeze(0) if unbatched else y


class Given(NamedTuple):
    """The arguments of a call, the tensors by their shapes."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: tuple[int, ...] | None
    probability: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    stride: int | tuple[int, ...]
    padding: Padding | None
    groups: int
    padding_mode: str


def _plain(given: Any, depth: int, leaf: Callable[[Any], Any], rule: str) -> Any:
    """Sequences of this depth as tuples of what `leaf` makes; ValueError, starting with the rule, if they are not.

    `remembered` takes 1, 1.0 and True for equal. So nothing but integers may get there, or a wrong call would spoil the
    right ones after it.
    """
    try:
        return _nested(given, depth, leaf)
    except (TypeError, ValueError):
        raise ValueError(f"{rule}; got {given!r}") from None


def _nested(given: Any, depth: int, leaf: Callable[[Any], Any]) -> Any:
    return tuple([_nested(one, depth - 1, leaf) for one in given]) if depth else leaf(given)


def _integer(given: Any) -> int:
    return given if type(given) is int else int(operator.index(given))


def _side(padding: Any) -> int | tuple[int, int]:
    if not isinstance(padding, Sequence):
        return _integer(padding)
    before, after = padding
    return _integer(before), _integer(after)


def _unchecked_geometry(given: Given) -> Geometry:
    """The arguments where a graph is recorded: sizes are no numbers there, and checking them would fix them."""
    kernel = given.weight[2:]
    strides = (given.stride,) * len(kernel) if isinstance(given.stride, int) else tuple(given.stride)
    paddings = _paddings(given.padding, kernel, given.dilations)
    return Geometry(kernel, given.dilations, strides, paddings, given.groups, given.padding_mode, (), ())


@remembered
def geometry_of(given: Given) -> Geometry:
    """The checked arguments; raises ValueError for the first one that does not fit the others."""
    _check_tensors(given)
    rank = len(given.weight) - 2
    _check_branches(given, rank)
    stride, dilations = given.stride, given.dilations
    strides = (stride,) * rank if isinstance(stride, int) else tuple(stride)
    if len(strides) != rank or any(s < 1 for s in strides):
        raise ValueError(f"stride must be a positive integer or {rank} of them, got {stride}")
    kernel, size_in = given.weight[2:], given.x[-rank:]
    paddings = _paddings(given.padding, kernel, dilations)
    sizes = [
        size_out(size_in, kernel, dilation, strides, sides) for dilation, sides in zip(dilations, paddings, strict=True)
    ]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(
            f"branches must have one output size, got {sizes} for dilations {list(dilations)}; "
            "give each branch the padding that keeps its size"
        )
    if min(sizes[0]) < 1:
        raise ValueError(f"kernel {kernel} does not fit the padded input {size_in}: the output size is {sizes[0]}")
    return Geometry(kernel, dilations, strides, paddings, given.groups, given.padding_mode, size_in, sizes[0])


def _check_tensors(given: Given) -> None:
    x, weight, bias, groups = given.x, given.weight, given.bias, given.groups
    if given.padding_mode not in _PADDING_MODES:
        raise ValueError(f"unknown padding_mode {given.padding_mode!r}; known are {', '.join(_PADDING_MODES)}")
    rank = len(weight) - 2
    if rank not in CONV:
        raise ValueError(
            f"weight must be (channel_out, channel_in // groups, *kernel) with 1 to 3 kernel axes, got shape {weight}"
        )
    if len(x) not in (rank + 1, rank + 2):
        raise ValueError(
            f"x must be (batch, channel, *size) or (channel, *size) with {rank} spatial axes to fit weight "
            f"{weight}, got shape {x}"
        )
    channel_in, channel_out = x[-rank - 1], weight[0]
    if groups < 1 or channel_out % groups or channel_in != weight[1] * groups:
        raise ValueError(
            f"x has {channel_in} channels; weight {weight} with groups={groups} needs "
            f"{weight[1] * groups} and a channel_out divisible by groups"
        )
    if bias is not None and bias != (channel_out,):
        raise ValueError(f"bias must have shape ({channel_out},), got {bias}")


def _check_branches(given: Given, rank: int) -> None:
    probability, dilations = given.probability, given.dilations
    if len(dilations) == 0:
        raise ValueError("dilations is empty; give one tuple per branch")
    if probability != (len(dilations),):
        raise ValueError(f"probability must have one entry per branch, shape ({len(dilations)},), got {probability}")
    for branch, dilation in enumerate(dilations):
        if len(dilation) != rank or any(d < 1 for d in dilation):
            raise ValueError(
                f"dilation of branch {branch} must be {rank} positive integers, one per spatial axis, got {dilation}"
            )


def _paddings(
    padding: Padding | None, kernel: tuple[int, ...], dilations: Sequence[Sequence[int]]
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Every padding as (before, after), per branch and axis."""
    if padding is None:
        return tuple(_symmetric(branch, kernel, dilation) for branch, dilation in enumerate(dilations))
    if len(padding) != len(dilations) or any(len(pads) != len(kernel) for pads in padding):
        raise ValueError(
            f"padding must hold {len(dilations)} branches of {len(kernel)} axes each, got {[list(p) for p in padding]}"
        )
    return tuple(tuple((p, p) if isinstance(p, int) else (p[0], p[1]) for p in pads) for pads in padding)


def _symmetric(branch: int, kernel: tuple[int, ...], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The padding that keeps the size at stride 1, per axis."""
    for axis, (k, d) in enumerate(zip(kernel, dilation, strict=True)):
        if d * (k - 1) % 2:
            raise ValueError(
                f"no symmetric padding keeps the size on axis {axis} of branch {branch}: dilation {d} x "
                f"(kernel {k} - 1) is odd; give padding=(before, after) there"
            )
    return tuple((d * (k - 1) // 2, d * (k - 1) // 2) for k, d in zip(kernel, dilation, strict=True))
