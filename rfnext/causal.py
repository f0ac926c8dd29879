"""Whether a network is causal, and whether it stays what it is at other dilations: found by calling it."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rfnext.dilation import searched_axis
from rfnext.padding import Conv, anchor_of, kernel_to_search, padding_attributes, size_keeping_padding

_STARTS = (1 / 4, 1 / 2, 3 / 4)
"""From where on, as a share of the input's size, the input is changed."""


@contextlib.contextmanager
def evaluating(model: Callable[..., Any]) -> Iterator[None]:
    """A network in eval mode; its modules are in the modes of before after it."""
    before = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    if isinstance(model, nn.Module):
        model.eval()
    try:
        yield
    finally:
        for module, training in before:  # not model.train(): parts of it may have been frozen
            module.training = training


@torch.no_grad()
def is_causal(model: Callable[[Tensor], Tensor], input: Tensor, axis: int = -1) -> bool:
    """Whether the output of a network depends on no later input along an axis, as far as an example shows.

    Late inputs are changed, from three positions on, and the outputs before are compared, bit by bit: a layer may be
    scaled by as little as 1e-6. An output of another size than the input is taken to run at another rate: of n_out
    outputs for n_in inputs, number j may depend on the inputs before (j + 1) n_in / n_out. So a network whose convs pad
    nothing, and whose output is shorter for that, is not called causal, nor is one of fewer than 4 outputs, which show
    nothing.

    Args:
        model: maps (batch, channel, *size) to a tensor with the same axes; called 4 times, in eval mode if it is a
            module. A function that draws random numbers is not called causal.
        input: an example, of finite values, longer along the axis than the network's receptive field.
        axis: of input and output.

    Raises:
        TypeError: if the input is not of float32 or float64, or the output not a tensor of as many axes.
    """
    if input.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"the input is {input.dtype}; whether a network is causal is tried in float32 or float64")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(input.shape, generator=generator, device="cpu").to(input)
    other = input + (1 + input.std()) * noise
    n = input.shape[axis]
    # Of cuDNN's algorithms, those by transforms round where they do not read.
    with evaluating(model), torch.backends.cudnn.flags(enabled=False):
        expected = _called(model, input)
        if min(n, expected.shape[axis]) < 4:
            return False
        for start in {int(n * share) for share in _STARTS}:
            early, late = input.narrow(axis, 0, start), other.narrow(axis, start, n - start)
            found = _called(model, torch.cat([early, late], axis))
            count = start * expected.shape[axis] // n
            if not torch.equal(found.narrow(axis, 0, count), expected.narrow(axis, 0, count)):
                return False
    return True


def _called(model: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    output: Any = model(input)
    if not isinstance(output, Tensor) or output.dim() != input.dim():
        found = f"of {output.dim()} axes" if isinstance(output, Tensor) else f"that is a {type(output).__name__}"
        raise TypeError(
            f"the model gives an output {found}, not a tensor of the input's {input.dim()} axes; try the part of the "
            "network that holds the convs, by its own input"
        )
    return output


@torch.no_grad()
def check_by_example(model: nn.Module, convs: Mapping[str, Conv], example: Tensor) -> None:
    """Raise ValueError, naming the layers, if an output loses its size or its causality at another of their dilations.

    Every conv gets a larger dilation and its old one back, one after the other.
    """
    axes = range(2, example.dim())
    with evaluating(model):
        size = _called(model, example).shape
        causal = [axis for axis in axes if is_causal(model, example, axis)]
        # At a lower rate than the input's, an output may depend on some later inputs as it is.
        step = max(math.ceil(example.shape[axis] / size[axis]) for axis in axes)
        resized, acausal = [], []
        for name, conv in convs.items():
            with _moved(conv, step):
                if _size(model, example) != size:
                    resized.append(name)
                elif not all(is_causal(model, example, axis) for axis in causal):
                    acausal.append(name)
    if resized:
        raise ValueError(
            f"the output has another size than {tuple(size)} at other dilations of {', '.join(resized)}: the module "
            "around the conv pads or crops by the conv's dilation or padding, which change; let it do so by an amount "
            "that __init__() computes once, or leave the layer out of `where`"
        )
    if acausal:
        anchors = {anchor for name in acausal for anchor in anchor_of(convs[name])}
        mend = (
            'give anchor="last", which keeps the last tap in place'
            if anchors == {"centre"}
            else "find the axis of time and anchor it at the last tap; see `anchor`"
        )
        raise ValueError(
            "the network is causal, and would depend on later inputs at other dilations of "
            f"{', '.join(acausal)}: {mend}"
        )


def _size(model: nn.Module, example: Tensor) -> torch.Size | None:
    try:
        return _called(model, example).shape
    except Exception:  # of any kind, where sizes no longer fit each other
        return None


@contextlib.contextmanager
def _moved(conv: Conv, step: int) -> Iterator[None]:
    """A conv at a dilation that is larger by `step` on every axis that is searched."""
    kernel = kernel_to_search(conv)
    dilation = tuple(d + step if searched_axis(k) else d for d, k in zip(conv.dilation, kernel, strict=True))
    attributes = {**padding_attributes(conv, size_keeping_padding(conv, dilation)), "dilation": dilation}
    before = {name: getattr(conv, name) for name in attributes}
    vars(conv).update(attributes)
    try:
        yield
    finally:
        vars(conv).update(before)
