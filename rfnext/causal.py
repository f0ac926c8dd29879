"""Whether a network is causal, and whether it stays what it is at other dilations: found by calling it."""

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from rfnext.convs.padding import Conv, anchor_of, kernel_to_search, padding_attributes, size_keeping_padding
from rfnext.convs.set_dilation import pads_by_dilation
from rfnext.convs.twin import Copying, Searched, generators_restored, trial_size, type_of
from rfnext.dilation import searched_axis

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
    attributes: dict[str, Any] = {"dilation": dilation}
    if not pads_by_dilation(conv):
        attributes |= padding_attributes(conv, size_keeping_padding(conv, dilation))
    before = {name: getattr(conv, name) for name in attributes}
    vars(conv).update(attributes)
    try:
        yield
    finally:
        vars(conv).update(before)


FOLLOWED = (
    "the module around it pads or crops by its dilation or padding, which change, so that sizes would; let it do so by "
    "an amount that __init__() computes once"
)


def followed(model: nn.Module, convs: Mapping[str, Conv]) -> list[str]:
    """The convs whose parent would feed them an input of another size, or give another, at another of their dilations.

    It pads by `conv.dilation`, say. A copy of the parent is called in eval mode, on a small random input. A parent that
    does not take one such tensor is not tried, nor are sharded, lazy, compiled and scripted modules.
    """
    names = {id(conv): name for name, conv in convs.items()}
    found = []
    for parent in model.modules():
        if not _is_container(parent):
            own = {names[id(child)]: cast(Conv, child) for child in _children(parent) if id(child) in names}
            if own and _can_be_tried(parent):
                found += _followed_by(parent, own)
    return list(dict.fromkeys(found))  # a conv may have several parents


def _is_container(module: nn.Module) -> bool:
    """Whether it pads nothing itself; the module that holds it may, for the convs in it."""
    forward = getattr(type(module), "forward", None)  # scripted modules have none
    return forward in (nn.Sequential.forward, nn.Module.forward)


def _children(parent: nn.Module) -> Iterator[nn.Module]:
    """Those of a module and of the containers in it."""
    for child in parent.children():
        if _is_container(child):
            yield from _children(child)
        else:
            yield child


def check_parents(model: nn.Module, convs: Mapping[str, Conv]) -> None:
    """Raise ValueError, naming the layers, if `followed` finds any."""
    if names := followed(model, convs):
        raise ValueError(f"layer {', '.join(map(repr, names))}: {FOLLOWED}")


def _can_be_tried(parent: nn.Module) -> bool:
    strange = (Searched, torch.jit.ScriptModule)
    # "_orig_mod": torch.compile would compile it for this one call.
    return not any(isinstance(part, strange) or "_orig_mod" in part._modules for part in parent.modules()) and all(
        type(tensor) in (nn.Parameter, Tensor) and not tensor.is_meta
        for tensor in (*parent.parameters(), *parent.buffers())
    )


@torch.no_grad()
def _followed_by(parent: nn.Module, own: Mapping[str, Conv]) -> list[str]:
    memo: dict[int, Any] = {id(parameter): parameter for parameter in parent.parameters()}  # shared, not copied
    try:
        with Copying():
            twin = copy.deepcopy(parent, memo).eval()
        x = _input_of(twin, own.values())
    except Exception:  # of any kind: a module may refuse copies, a dtype random numbers
        return []
    for module in twin.modules():
        module._forward_hooks.clear()  # those of a user may count the calls
    convs = {name: cast(Conv, memo[id(conv)]) for name, conv in own.items()}
    with generators_restored(next(iter(own.values()))):
        before, all_moved = _sizes(twin, convs.values(), x), _sizes(twin, convs.values(), x, convs.values())
        if not _differ(before, all_moved):
            return []
        return [n for n, conv in convs.items() if _differ(before, _sizes(twin, convs.values(), x, [conv]))]


def _input_of(parent: nn.Module, convs: Iterable[Conv]) -> Tensor:
    """What the parent may take: as its first conv, and of a size for all."""
    first = next(module for module in parent.modules() if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)))
    sizes = [trial_size(conv, tuple(d + 1 for d in conv.dilation)) for conv in convs]
    size = [max(axis) for axis in zip(*sizes, strict=False)]
    dtype, device = type_of(first)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, first.in_channels, *size, generator=generator, device="cpu").to(device, dtype)


def _sizes(parent: nn.Module, convs: Iterable[Conv], x: Tensor, moved: Iterable[Conv] = ()) -> list[torch.Size]:
    """Of the inputs of the convs, as far as they are called, and of the output; some at a larger dilation."""
    sizes: list[torch.Size] = []
    with contextlib.ExitStack() as stack:
        for conv in moved:
            stack.enter_context(_moved(conv, 1))
        for conv in convs:
            handle = conv.register_forward_pre_hook(lambda _, args: sizes.append(args[0].shape))
            stack.callback(handle.remove)
        try:
            output = parent.forward(x)
            sizes += [output.shape] if isinstance(output, Tensor) else []
        except Exception:  # of any kind: it takes something else, or sizes no longer fit each other
            pass
    return sizes


def _differ(before: list[torch.Size], after: list[torch.Size]) -> bool:
    return any(a != b for a, b in zip(before, after, strict=False))
