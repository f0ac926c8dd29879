"""The kernel by which a conv class with a forward() of its own convolves, when all branches become one.

Such a class may hand another weight to the convolution than the one that it keeps: standardised, binary, masked,
quantised, or with a low-rank addition. Merging sums the branches of the weight that is handed on, and that need not be
what the class makes of the sum: the mean of a larger kernel is another. So both are computed, on copies of the conv
with its own values, and compared.
"""

import contextlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from rfnext.convs.convolution_call import Call
from rfnext.convs.own_forward import own_methods
from rfnext.convs.padding import Conv, padding_attributes, sides_of
from rfnext.convs.redirected import Redirected, Redirecting
from rfnext.convs.set_dilation import pads_by_dilation
from rfnext.convs.twin import Searched, generators_restored, trial_size, twin_of, type_of
from rfnext.dilation import Dilation
from rfnext.ops.geometry import extend, size_out


class Kernel(NamedTuple):
    """weight of shape (channel_out, channel_in / groups, *kernel); dilation and padding (before, after) per axis."""

    weight: Tensor
    dilation: Dilation
    padding: list[tuple[int, int]]


Fold = Callable[[Tensor], Kernel]
"""Makes one kernel of a weight by summing the branches of a conv."""


class Effective(NamedTuple):
    """What a merged conv computes with. plain: whether as torch's own conv, since its class would change the kernel."""

    kernel: Kernel
    bias: Tensor | None
    plain: bool


class _Handed(NamedTuple):
    """What forward() was given, handed to `_conv_forward` or torch's convolution, was answered there, and returned.

    sides: by which the input is padded then, (before, after) per axis.
    """

    given: Tensor
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    sides: Sequence[tuple[int, int]]
    answer: Tensor
    returned: Any


def effective(conv: Conv, plain: type[nn.Module], weight: Tensor, fold: Fold) -> Effective:
    """The kernel and bias of a searched conv of class `plain`, merged so that it computes what its branches do.

    Args:
        weight: what the conv keeps, computed from its parametrisations if it has any.
        fold: sums the branches.

    Raises:
        ValueError: if the class makes another weight of the merged one and also changes its input or its output, so
            that torch's conv cannot take its place; if the class cannot be tried, on the meta device for instance; if
            forward() was replaced on the conv itself.
    """
    if "forward" in vars(conv):
        raise ValueError(
            "its forward() was replaced on the conv itself (by accelerate's hooks, for instance), and what that makes "
            "of the merged kernel is not known; undo that first"
        )
    own = Effective(fold(weight), conv.bias, plain=False)
    if not own_methods(plain):
        return own
    if weight.is_meta:
        raise ValueError(f"{plain.__name__} overrides forward(), which is tried on values; load the weights first")
    branches: list[_Handed] = []
    # In float64 small differences are seen; a class that computes in its own type alone is tried in that.
    for dtype in dict.fromkeys((torch.float64, weight.dtype)):
        try:
            kept = weight.detach().to(dtype)
        except TypeError:  # mps has no float64
            continue
        centre = Kernel(kept, tuple(conv.dilation), [])
        bases = (*Searched.__subclasses__(), plain)
        modes = [_handed(conv, bases, centre, training) for training in (False, True)]
        branches = [handed for handed in modes if handed is not None]
        if len(branches) == len(modes):
            break
    else:
        raise ValueError(f"{plain.__name__} overrides forward(), which could not be tried, to see whether it merges")
    merged = [_handed(conv, (plain,), fold(kept), training) for training in (False, True)]
    if all(_same(conv, a, b, fold) for a, b in zip(branches, merged, strict=True)):
        return own
    if not all(_leaves_all_but_weight(conv, handed) for handed in branches):
        raise ValueError(
            f"{plain.__name__} makes another weight of the merged kernel than of its branches, and torch's conv cannot "
            "take its place, since it changes its input or output, too; express what it does to the weight as a "
            "parametrisation (torch.nn.utils.parametrize), which merge() folds in, or keep the branches"
        )
    again = _handed(conv, bases, centre, training=False, seed=1)
    if again is None or not _equal(again.weight, branches[0].weight) or not _equal(again.bias, branches[0].bias):
        raise ValueError(
            f"{plain.__name__} makes another weight of the merged kernel than of its branches, and one that depends on "
            "the input or on chance, so that no plain conv computes the same; keep the branches"
        )
    kernel, bias = fold(branches[0].weight), branches[0].bias
    return Effective(
        kernel._replace(weight=kernel.weight.to(weight)), None if bias is None else bias.to(weight), plain=True
    )


def _handed(conv: Conv, bases: tuple[type, ...], kernel: Kernel, training: bool, seed: int = 0) -> _Handed | None:
    """What a copy of the conv does with that kernel; None if it fails or does not call `_conv_forward` just once."""
    noted: list[_Handed] = []
    try:
        with generators_restored(conv), torch.no_grad(), torch.device(type_of(conv)[1]):
            torch.manual_seed(seed)
            random.seed(seed)
            returned = _call(conv, bases, kernel, training, noted)
    except Exception:  # of any kind: a mask of the old kernel's shape, say
        return None
    return noted[0]._replace(returned=returned) if len(noted) == 1 else None


def _call(conv: Conv, bases: tuple[type, ...], kernel: Kernel, training: bool, noted: list[_Handed]) -> Any:
    """Call forward() of a copy of the conv, whose convolution is noted and answered with random values."""
    centre, dtype, device = tuple(conv.dilation), kernel.weight.dtype, type_of(conv)[1]
    x = torch.randn(2, conv.in_channels, *trial_size(conv, centre), device="cpu").to(device, dtype)

    def note(call: Call) -> Tensor:
        size = size_out(call.input.shape[2:], call.weight.shape[2:], call.dilation, call.stride, call.sides)
        shape = len(call.input), conv.out_channels, *size
        answer = torch.linspace(-1, 2, math.prod(shape)).view(shape).to(device, dtype)
        input, weight, bias = (None if t is None else t.clone() for t in call[:3])
        noted.append(_Handed(x, cast(Tensor, input), cast(Tensor, weight), bias, call.sides, answer, None))
        return answer.clone()

    def by_method(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return note(Call(input, weight, bias, self.stride, sides_of(self), self.dilation, self.groups))

    bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()
    values = {"weight": kernel.weight.clone(), "bias": bias.to(dtype, copy=True)}
    twin = twin_of(conv, bases, centre, training, values).to(dtype)
    if kernel.padding:
        twin.__dict__.update(kernel_size=tuple(kernel.weight.shape[2:]), dilation=kernel.dilation)
        if not pads_by_dilation(conv):
            twin.__dict__.update(padding_attributes(conv, kernel.padding))
    redirected = isinstance(conv, Redirecting)
    cast(Any, type(twin))._conv_forward = bases[-1]._conv_forward if redirected else by_method  # type: ignore[attr-defined]
    with Redirected(cast(Conv, twin), note) if redirected else contextlib.nullcontext():
        return type(twin).forward(twin, x.clone())


def _same(conv: Conv, branches: _Handed, merged: _Handed | None, fold: Fold) -> bool:
    """Whether the class treats the merged kernel as its branches together."""
    if merged is None:
        return False
    folded = fold(branches.weight)
    triples = zip(branches.sides, folded.padding, sides_of(conv), strict=True)
    sides = [(b + new_b - old_b, a + new_a - old_a) for (b, a), (new_b, new_a), (old_b, old_a) in triples]
    pairs = [
        (extend(branches.input, sides, "zeros"), extend(merged.input, merged.sides, "zeros")),
        (folded.weight, merged.weight),
        (branches.bias, merged.bias),
        *zip(_tensors(branches.returned), _tensors(merged.returned), strict=True),
    ]
    return all(a is b if a is None or b is None else _close(a, b) for a, b in pairs)


def _tensors(returned: Any) -> list[Tensor]:
    return [t for t in (returned if isinstance(returned, (tuple, list)) else [returned]) if isinstance(t, Tensor)]


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    tolerance = 1e-9 if a.dtype == torch.float64 else 100 * torch.finfo(a.dtype).eps
    return bool(((a - b).abs() <= tolerance * a.abs().max()).all())


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _leaves_all_but_weight(conv: Conv, handed: _Handed) -> bool:
    """Whether forward() hands on its input and returns its answer as they are."""
    returned = handed.returned
    return (
        torch.equal(handed.given, handed.input)
        and list(handed.sides) == sides_of(conv)
        and isinstance(returned, Tensor)
        and torch.equal(returned, handed.answer)
    )
