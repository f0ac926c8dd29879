"""A copy of a conv on which its class's forward() can be called, without a trace on the conv.

A deep copy of everything but the weight, which may be large, and the bias. What is outside the conv (a class attribute,
a global variable, a file, torch's hooks for all modules) is not copied.
"""

import contextlib
import copy
import itertools
import random
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.overrides import TorchFunctionMode

from rfnext.convs.padding import Conv, padding_attributes, size_keeping_padding
from rfnext.dilation import Dilation


class Searched:
    """What `rfnext.SearchConv` derives from, so that files below `conv.py` can make a twin that passes for searched."""


@contextlib.contextmanager
def generators_restored(conv: Conv) -> Iterator[None]:
    """Restore the random number generators of Python and torch, on the CPU and on the devices that the conv is on."""
    state = random.getstate()
    tensors = itertools.chain(conv.parameters(), conv.buffers())
    devices = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        for device in devices:
            stack.enter_context(torch.random.fork_rng([device], device_type=device.type))
        try:
            yield
        finally:
            random.setstate(state)


def type_of(conv: Conv) -> tuple[torch.dtype, torch.device]:
    """dtype and device of a conv's weight; "cpu" for one on the meta device."""
    originals = conv.parametrizations.weight.parameters() if _is_parametrised(conv, "weight") else ()  # type: ignore
    weight = _stored(conv, "weight")
    found = itertools.chain([] if weight is None else [weight], originals, conv.parameters(), conv.buffers())
    like = next(found, torch.empty(()))
    return like.dtype, torch.device("cpu") if like.is_meta else like.device


def _stored(conv: Conv, name: str) -> Tensor | None:
    """A conv's weight or bias, wherever it is kept; None if it is computed: reading a parametrised one would do so."""
    for kept in (conv._parameters, conv._buffers, vars(conv)):
        if isinstance(kept.get(name), Tensor):
            return kept[name]
    return None


def _is_parametrised(conv: Conv, name: str) -> bool:
    return name in conv._modules.get("parametrizations", ())  # type: ignore[operator]


def zeros_of(conv: Conv, real_weight: bool) -> dict[str, Tensor]:
    """A weight and a bias of zero for a twin. real_weight: the weight takes memory, so that it can be written to."""
    dtype, device = type_of(conv)
    shape = conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size
    weight = torch.zeros((), dtype=dtype, device=device).expand(shape)
    return {"weight": weight.clone() if real_weight else weight, "bias": weight.new_zeros(conv.out_channels)}


def twin_of(
    conv: Conv, bases: tuple[type, ...], dilation: Dilation, training: bool, values: Mapping[str, Tensor]
) -> nn.Module:
    """A deep copy of the conv at another dilation, of a class of its own, with other values as its weight and bias.

    bases: what its class derives from. values: the tensors called "weight" and "bias"; the copy takes them as they are.

    Its hooks, and those of its layers, are left out: they do not belong to what forward() computes, and may refer to
    anything. Only hooks that are methods of their own module remain: by these, lazy layers are initialised.
    """
    computed = {name: property(lambda _, v=v: v) for name, v in values.items() if _is_parametrised(conv, name)}
    twin = cast(nn.Module, object.__new__(type(bases[-1].__name__, bases, computed)))

    memo: dict[int, Any] = {id(conv): twin}
    for name, value in values.items():
        if (own := _stored(conv, name)) is not None:
            memo[id(own)] = nn.Parameter(value, own.requires_grad) if isinstance(own, nn.Parameter) else value
        if _is_parametrised(conv, name):
            for original in conv.parametrizations[name].parameters():  # type: ignore[operator,union-attr,index]
                memo[id(original)] = nn.Parameter(original.new_zeros(()).expand(original.shape), False)
    modules = list(conv.modules())
    for module in modules:
        hooks = {name: v for name, v in vars(module).items() if name.endswith("_hooks") and isinstance(v, dict)}
        memo |= {id(v): type(v)() for v in hooks.values()}
    # A forward() that was replaced on the conv itself is none of the class.
    left_out = ("forward", "_conv_forward", "_compiled_call_impl")
    with Copying():
        twin.__dict__.update(copy.deepcopy({k: v for k, v in vars(conv).items() if k not in left_out}, memo))
    for module in modules:
        for key, hook in module._forward_pre_hooks.items():
            if getattr(hook, "__self__", None) is module and id(module) in memo:
                new = memo[id(module)]
                new._forward_pre_hooks[key] = types.MethodType(cast(types.MethodType, hook).__func__, new)
    _set_dilation(twin, conv, dilation)
    for module in twin.modules():
        module.training = training  # not by train(), which a class may override
    return twin


def _set_dilation(twin: nn.Module, conv: Conv, dilation: Dilation) -> None:
    twin.__dict__.update(padding_attributes(conv, size_keeping_padding(conv, dilation)), dilation=dilation)


def trial_size(conv: Conv, dilation: Dilation) -> tuple[int, ...]:
    """Of an input on which forward() can be tried at the conv's own and another dilation.

    Larger than what a causal conv pads: reflecting takes less than the input's size. A multiple of 4, since forward()
    may halve it.
    """
    return tuple(
        (max(d, new) * (k - 1) + s + 5) // 4 * 4
        for d, new, k, s in zip(conv.dilation, dilation, conv.kernel_size, conv.stride, strict=True)
    )


class Copying(TorchFunctionMode):
    """Inside, deepcopy also copies tensors that have a graph or are lazy, and makes those on the meta device real."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and _is_special(args[0]):
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = _copy(tensor)
            return memo[id(tensor)]
        if func is Tensor.clone and args[0].is_meta:  # of a parameter
            return _real(args[0])
        return func(*args, **(kwargs or {}))


def _is_special(tensor: Tensor) -> bool:
    return isinstance(tensor, UninitializedBuffer) or not tensor.is_leaf or tensor.is_meta


def _copy(tensor: Tensor) -> Tensor:
    if isinstance(tensor, UninitializedBuffer):
        return cast(Any, type(tensor))(False, tensor.device, tensor.dtype)
    return _real(tensor) if tensor.is_meta else tensor.detach().clone()


def _real(tensor: Tensor) -> Tensor:
    """Ones, by which one can divide, or for integers zeros, which are the index of something."""
    value = int(tensor.is_floating_point() or tensor.is_complex())
    return torch.full(tensor.shape, value, dtype=tensor.dtype, device="cpu")
