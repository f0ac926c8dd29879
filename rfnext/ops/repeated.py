"""Calls that repeat: what a searched conv keeps from one call to the next.

In small convs it takes longer to check the arguments and to ask which implementation computes them than to compute.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from rfnext.ops import choice, native, native_build, pins, taps
from rfnext.ops.autograd import Exact
from rfnext.ops.geometry import Geometry, merge_equal
from rfnext.ops.layout import order

_PLAIN = (Tensor, nn.Parameter)

CALLS = "rfnext_calls"
"""Attribute of a conv: its last calls that differ, roughly the newest first."""

_MOST = 8  # that are kept: of the sizes of a network's inputs, in training and evaluation


class Repeated(NamedTuple):
    """A call. key: what is equal in all that are the same. operator: computes it; None: `computed` does."""

    key: tuple[object, ...]
    geometry: Geometry
    operator: Exact | None


def kept(own: dict[str, Any], key: tuple[object, ...]) -> Repeated | None:
    """The call of this key that a conv has kept in its `vars`; None if it has not."""
    calls = own.get(CALLS, ())
    for place, call in enumerate(calls):
        if call.key == key:
            if place >= _MOST // 2:  # before others push it out; not always, since this takes time
                own[CALLS] = (call, *calls[:place], *calls[place + 1 :])
            return call
    return None


def keep(own: dict[str, Any], call: Repeated) -> None:
    """Add a call to those that a conv has kept in its `vars`."""
    own[CALLS] = (call, *own.get(CALLS, ())[: _MOST - 1])  # a new tuple: other threads may read the old one


def situation(x: Tensor, weight: Tensor, bias: Tensor | None, branch_weight: Tensor) -> tuple[object, ...] | None:
    """What the choice of an implementation depends on, beside shapes and geometry; None: on more than is here."""
    plain = torch.strided, True, False
    if (
        type(x) not in _PLAIN
        or type(weight) not in _PLAIN
        or (x.layout, x.is_cpu, x._is_zerotensor()) != plain
        or (weight.layout, weight.is_cpu, weight._is_zerotensor()) != plain
        or (bias is not None and (type(bias), bias.is_cpu) != (nn.Parameter, True))
        or (type(branch_weight), branch_weight.is_cpu) != (nn.Parameter, True)
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or native.memory_is_fake()
    ):
        return None
    return (
        *(x.dtype, x.requires_grad, order(x), weight.dtype, weight.requires_grad),
        *((None, None) if bias is None else (bias.dtype, bias.requires_grad)),
        *(branch_weight.dtype, branch_weight.requires_grad, torch.is_grad_enabled(), torch.get_num_threads()),
        torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu"),
        *(torch.are_deterministic_algorithms_enabled(), pins.pinned(), choice.forgotten, native_build.forgotten),
    )


def operator_of(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry
) -> Exact | None:
    """The operator by which implementation `name` computes a call of this `situation`; None if it has none.

    Then, too, if branches are equal, samples are missing, or the call is an error.
    """
    if x.dim() != weight.dim() or x.shape[0] == 0 or merge_equal(probability, geometry)[1] is not geometry:
        return None
    if name == "auto":
        name = choice.choose(x, weight, bias, probability, geometry)
    if name == "native" and native.is_for(x, weight, bias, probability, geometry):
        return native.operator
    return taps.operator if name == "taps" else None


def single_operator_of(
    x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry
) -> Exact | None:
    """The operator that computes a plain conv, as the only branch, of this `situation`; None if torch's conv is to.

    It is the fastest by measurement, or by what is pinned; under `reproducible` the kernels for depthwise convs.
    """
    if x.shape[0] == 0:
        return None
    name = choice.choose_single(x, weight, bias, probability, geometry)
    if name == "native" and native.is_for(x, weight, bias, probability, geometry):
        return native.operator
    return taps.operator if name == "taps" else None
