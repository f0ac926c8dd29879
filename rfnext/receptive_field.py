"""The receptive field of a network, theoretical and effective, and the multiply-adds of a forward pass."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from rfnext.causal import evaluating
from rfnext.convs.conv import SearchConv
from rfnext.convs.padding import Conv, size_keeping_padding
from rfnext.convs.redirected import Redirecting
from rfnext.ops.mixed_dilation_conv import mixed_dilation_conv

Forward = Callable[[Tensor], Tensor]


def _check_input(x: Tensor) -> None:
    if not x.is_floating_point():
        raise TypeError(f"the input is {x.dtype}; receptive fields need one that is floating-point, such as images")


def _centre(output: Any, position: tuple[int, ...] | None) -> Tensor:
    """(batch, channel) values of the output at one position, by default the middle."""
    if not isinstance(output, Tensor):
        keys = f" with the keys {', '.join(map(repr, output))}" if isinstance(output, Mapping) else ""
        part = repr(next(iter(output))) if isinstance(output, Mapping) and output else "0"
        raise TypeError(
            f"the model gives a {type(output).__name__}{keys}, not one tensor; give a function that picks one, as in "
            f"model.eval() and then lambda x: model(x)[{part}]"
        )
    if position is None:
        position = tuple(size // 2 for size in output.shape[2:])
    sizes = tuple(output.shape[2:])
    if len(position) != len(sizes) or not all(-n <= p < n for p, n in zip(position, sizes, strict=True)):
        raise ValueError(f"position {position} does not fit an output of shape {tuple(output.shape)}")
    return output[(slice(None), slice(None), *position)]


@torch.no_grad()
def theoretical_receptive_field(
    model: Forward, x: Tensor, position: tuple[int, ...] | None = None
) -> list[tuple[int, int]]:
    """First and last input position, per spatial axis, that can influence one position of the output.

    Found by experiment, so for any network: everything before (after) some position is set to NaN, and the bound is
    where NaN first reaches the output, by bisection. NaN passes through every operation that depends on its input,
    whatever the weights. The field is cut off at the borders of `x`: take an input larger than the field. Operations
    that use all of the input (global pooling, attention, instance normalisation) make it the whole input.

    Args:
        model: maps (batch, channel, *size) to (batch, channel_out, *size_out); evaluated in eval mode.
        x: an example input of shape (batch, channel, *size); its values do not matter, they must be finite.
        position: of the output, one index per spatial axis; the middle if None.

    Raises:
        ValueError: if the output at `position` is NaN already, or does not depend on an axis of the input; if the
            output has no such position.
        TypeError: if the output is not one tensor (a dict of them, say), or the input not floating-point.
    """
    _check_input(x)
    with evaluating(model):

        def reached(axis: int, where: slice) -> bool:
            index: list[slice] = [slice(None)] * x.dim()
            index[axis] = where
            poisoned = x.clone()
            poisoned[tuple(index)] = torch.nan
            return bool(_centre(model(poisoned), position).isnan().any())

        if bool(_centre(model(x), position).isnan().any()):
            raise ValueError("the output is NaN for a finite input; its receptive field cannot be found")
        bounds = []
        for axis in range(2, x.dim()):
            size = x.shape[axis]
            if not reached(axis, slice(0, size)):
                raise ValueError(f"the output does not depend on axis {axis - 2} of the input")
            first = _bisect(size, lambda count, axis=axis: reached(axis, slice(0, count))) - 1
            last = size - _bisect(size, lambda count, axis=axis, size=size: reached(axis, slice(size - count, size)))
            bounds.append((first, last))
        return bounds


def _bisect(size: int, holds: Callable[[int], bool]) -> int:
    """The smallest count in 1..size for which `holds`, which stays true from there on."""
    low, high = 1, size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def effective_receptive_field(model: Forward, x: Tensor, position: tuple[int, ...] | None = None) -> Tensor:
    """Share of each input position in the gradient of one output position, shape (*size), summing to 1.

    |d output / d input|, summed over channels and averaged over the batch (Luo et al., "Understanding the Effective
    Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016, section 3). Average over several real inputs
    for a smooth picture. Arguments as in `theoretical_receptive_field`; here the values of `x` matter.

    Raises ValueError if the gradient is zero everywhere, and else as `theoretical_receptive_field` does.
    """
    _check_input(x)
    with evaluating(model), torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(_centre(model(x), position).sum(), x)
    field = gradient.abs().sum(1).mean(0)
    total = field.sum()
    if not total > 0:
        raise ValueError("the output has no gradient at this input; try another input or position")
    return field / total


@torch.no_grad()
def multiply_adds(model: nn.Module, *inputs: Tensor) -> int:
    """Multiply-adds of one forward pass in eval mode, as torch's flop counter counts convs and matrix products.

    A searched conv counts as the plain conv at its centre's dilation, whatever implementation computes it: all branches
    share one kernel, with which the mixed input is multiplied once. Mixing, a few multiply-adds per input element and
    tap, is not counted, as additions and activations are not. So a searched network, a multi-branch one and the plain
    network of the same structure have equal counts; a merged one has those of its larger kernels.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it imports Triton

    with evaluating(model), _as_centres(model), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return counter.get_total_flops() // 2


@contextmanager
def _as_centres(model: nn.Module) -> Iterator[None]:
    """Within the block, searched convs compute by torch's conv at their centres."""
    convs = {module for module in model.modules() if isinstance(module, SearchConv)}

    def at_centre(conv: SearchConv) -> Callable[..., Tensor]:
        plain = cast(Conv, conv)
        sides = size_keeping_padding(plain, tuple(plain.dilation))

        def _conv_forward(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            centre = torch.ones(1, device=input.device), [tuple(plain.dilation)]
            mode = "zeros" if plain.padding_mode == "constant" else plain.padding_mode
            settings: Any = {"stride": plain.stride, "groups": plain.groups, "padding_mode": mode}
            return mixed_dilation_conv(
                input, weight, bias, *centre, padding=[sides], implementation="branches", **settings
            )

        return _conv_forward

    for conv in convs:
        redirected = isinstance(conv, Redirecting)
        vars(conv)["forward" if redirected else "_conv_forward"] = conv.as_plain if redirected else at_centre(conv)
    try:
        yield
    finally:
        for conv in convs:
            del vars(conv)["forward" if isinstance(conv, Redirecting) else "_conv_forward"]
