"""Convs of any network by the kernels of searched ones, where these are faster: without a search.

A plain conv is a searched one with a single branch. On CPUs, many depthwise convs train several times as fast
by these kernels as by torch's; most other convs do not. As in a search, a conv is not replaced: its class
changes, and back.
"""

import functools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.parameter import UninitializedParameter

from rfnext.convs.padding import Conv, sides_of, write_as_torch
from rfnext.convs.quantisation import RefusesQuantisation
from rfnext.convs.searchable import Layers, chosen, everything, is_conv
from rfnext.ops.branches import is_recorded
from rfnext.ops.mixed_dilation_conv import Given, geometry_of
from rfnext.ops.repeated import CALLS, Repeated, keep, kept, single_operator_of, situation

_CONVS = nn.Conv1d, nn.Conv2d, nn.Conv3d
_DTYPES = torch.float32, torch.float64


def accelerate(model: nn.Module, where: Layers = everything) -> list[str]:
    """Let convs compute by this library's kernels where these take at most 0.8 of torch's time.

    On CPUs, in float32 and float64. For the first layer of each kind a forward and backward pass is timed, as for
    searched convs (`rfnext.pin_implementation`); what is not faster stays torch's, and under `rfnext.reproducible` only
    depthwise convs of stride 1 change. Outputs and gradients equal torch's up to rounding. Parameters, state_dict and
    hooks stay as they are, so it may be called before or after the optimizer is built or a checkpoint loaded.
    torch.compile, export, tracing, dispatch modes (torch's flop counter is one), forward-mode differentiation, autocast
    and other types see torch's convs; torch.jit.script needs `decelerate` first.

    Args:
        model: changed in place; `decelerate` undoes it.
        where: which convs, as in a search.

    Returns:
        The names of the convs. Left out are: searched ones, parametrised or pruned ones, lazy ones before their first
        input, classes with a forward() of their own, and other padding modes than zeros.

    Raises:
        ValueError: if a glob of `where` matches no conv.
    """
    convs = chosen({name: m for name, m in model.named_modules() if is_conv(m)}, where)
    taken = {name: conv for name, conv in convs.items() if _is_plain(conv)}
    for conv in taken.values():
        conv.__class__ = _class(type(conv))  # type: ignore[assignment]
    return list(taken)


def decelerate(model: nn.Module) -> None:
    """Make all convs of the model that `accelerate` has changed torch's again. A search does so for what it takes."""
    for module in model.modules():
        if isinstance(module, Accelerated) and "plain_class" in vars(type(module)):
            vars(module).pop(CALLS, None)
            module.__class__ = type(module).plain_class  # type: ignore[assignment]


def _is_plain(conv: Conv) -> bool:
    kind = next(kind for kind in _CONVS if isinstance(conv, kind))
    own = type(conv)
    torchs = own.forward is kind.forward and own._conv_forward is kind._conv_forward and own.__call__ is kind.__call__
    weight = conv._parameters.get("weight")  # None if it is computed: parametrised, pruned
    kept = weight is not None and not isinstance(weight, UninitializedParameter)
    return torchs and kept and conv.padding_mode == "zeros" and not hasattr(conv, "parametrizations")


def _is_torchs() -> bool:
    """Whether torch's conv is to compute: something looks at what is called, or our functions cannot do it."""
    return (
        torch.compiler.is_compiling()
        or is_recorded()
        or torch._C._len_torch_dispatch_stack() > 0
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    )


class Accelerated(RefusesQuantisation, nn.Module):
    """What an accelerated conv inherits from, before its own class."""

    plain_class: type[nn.Module]
    before_quantising = "call rfnext.decelerate(model) first"

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not _is_torchs():
            call = self._call(input, weight, bias)
            if call is not None and call.operator is not None:
                return call.operator(input, weight, bias, _one(input.dtype), call.geometry)
        return cast(Any, super())._conv_forward(input, weight, bias)

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(
            f"torch.jit.script cannot compile an accelerated conv: {self!r}: call rfnext.decelerate(model) first"
        )

    def _call(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Repeated | None:
        """The arguments of a call and what computes it; None where it is torch's."""
        conv, now = cast(Conv, self), situation(input, weight, bias, weight)
        if now is None or input.dim() != weight.dim() or conv.padding_mode != "zeros":
            return None
        if input.dtype not in _DTYPES or weight.dtype != input.dtype:
            return None
        bias_shape = None if bias is None else bias.shape
        key = input.shape, now, weight.shape, bias_shape, conv.dilation, conv.padding, conv.stride, conv.groups
        if (known := kept(vars(self), key)) is not None:
            return known
        write_as_torch(conv)
        shapes = tuple(input.shape), tuple(weight.shape), None if bias is None else tuple(bias.shape)
        sides, dilations = (tuple(sides_of(conv)),), (tuple(conv.dilation),)
        try:
            geometry = geometry_of(Given(*shapes, (1,), dilations, tuple(conv.stride), sides, conv.groups, "zeros"))
        except ValueError:  # torch says what is wrong
            return None
        operator = single_operator_of(input, weight, bias, _one(input.dtype), geometry)
        call = Repeated(key, geometry, operator)
        keep(vars(self), call)
        return call

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made at run time, so pickle cannot find it by name; it can make it again.
        state = {name: value for name, value in cast(Any, self.__getstate__()).items() if name != CALLS}
        return _remake, (type(self).plain_class,), state


@functools.cache
def _one(dtype: torch.dtype) -> Tensor:
    """The share of the single branch."""
    with torch.inference_mode(False):  # it is kept, and what is made in that mode cannot be trained with
        return torch.ones(1, dtype=dtype, device="cpu")


@functools.cache
def _class(plain: type[nn.Module]) -> type[nn.Module]:
    # torch.fx takes a conv as one node if its class is of torch's modules.
    names = {"plain_class": plain, "__module__": plain.__module__}
    return type(f"Accelerated{plain.__name__}", (Accelerated, plain), names)


def _remake(plain: type[nn.Module]) -> nn.Module:
    cls = _class(plain)
    return cls.__new__(cls)
