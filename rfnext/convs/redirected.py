"""Convs that convolve in a forward() of their own: the call of torch's convolution there goes to the operator.

Such a class transforms its weight (weight standardisation) or pads (TensorFlow's "same") and then calls
torch.nn.functional.conv2d. While forward() of a searched one runs, that call is answered by the sum over the branches.
forward() pads as the centre's dilation needs it; from there each branch's padding grows or shrinks as that of other
convs does. Whether this is what the class itself does at another dilation is tried on copies of the conv: what torch's
convolution is given there must equal it in every element.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rfnext.convs.convolution_call import CONVOLUTIONS, Call
from rfnext.convs.padding import Conv, anchor_of, grown, kernel_to_search
from rfnext.convs.twin import Searched, generators_restored, trial_size, twin_of, type_of, zeros_of
from rfnext.dilation import Dilation, searched_axis
from rfnext.ops.geometry import extend, size_out
from rfnext.ops.mixed_dilation_conv import mixed_dilation_conv

_PADDING = ("padding", "padding_mode", "_reversed_padding_repeated_twice")


class Redirected(TorchFunctionMode):
    """Inside, torch's convolution with a kernel of this conv's shape, at its dilation, is answered by a function.

    calls: how many there were.
    """

    def __init__(self, conv: Conv, answer: Callable[[Call], Tensor]) -> None:
        super().__init__()
        self.calls = 0
        self._answer = answer
        self._shape = conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size
        self._dilation = tuple(conv.dilation)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func not in CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        call = Call.of(args, kwargs)
        if tuple(call.weight.shape) != self._shape or call.dilation != self._dilation:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self._answer(call)


def moved_sides(conv: Conv, call: Call, dilation: Dilation) -> list[tuple[int, int]]:
    """Padding (before, after) per axis by which a call keeps its output size and the conv's anchor at another dilation.

    Negative numbers crop.
    """
    return grown(call.sides, conv.kernel_size, call.dilation, dilation, anchor_of(conv))


class Redirecting:
    """What a searched conv inherits from, before `SearchConv`, if its class convolves in a forward() of its own."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The class's own forward(), in which the branches take the place of its convolution."""
        conv = cast(Any, self)
        if args and isinstance(args[0], Tensor):
            conv.note_input(args[0])
        with Redirected(conv, self._answer) as redirected:
            output = self.as_plain(*args, **kwargs)
        if redirected.calls != 1:
            raise RuntimeError(
                f"{conv.plain_class.__name__} asked torch for {redirected.calls} convolutions by its kernel in one "
                "forward(), and for one where it was tried before the search; leave it out by `where`"
            )
        return output

    def as_plain(self, *args: Any, **kwargs: Any) -> Any:
        """What the plain conv computes, at the centre's dilation."""
        return cast(Any, super()).forward(*args, **kwargs)

    def _answer(self, call: Call) -> Tensor:
        conv = cast(Any, self)
        return mixed_dilation_conv(
            call.input,
            call.weight,
            call.bias,
            conv.probability,
            conv.dilations,
            stride=call.stride,
            padding=[moved_sides(conv, call, dilation) for dilation in conv.dilations],
            groups=call.groups,
            implementation=conv.implementation,
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return cast(Any, self).plain_class._conv_forward(self, input, weight, bias)


class Way(NamedTuple):
    """How a conv class is searched.

    reason: why it is not, None if it is. redirected: by `Redirected`. pads: its forward() pads by its dilation, so that
    the conv's padding must stay.
    """

    reason: str | None
    redirected: bool = False
    pads: bool = False


class _Handed(NamedTuple):
    """What forward() handed to its one convolution, and the shapes that it returned."""

    call: Call
    returned: list[torch.Size]


class _Trial(NamedTuple):
    conv: Conv
    plain: type[nn.Module]
    training: bool
    pads: bool
    size: tuple[int, ...]


def way_of(conv: Conv, plain: type[nn.Module]) -> Way:
    """Whether and how a search can take the convolution that a conv of class `plain` asks for in its forward()."""
    name = plain.__name__
    lost = (
        f"{name} overrides forward(), and its own computation would be lost: it does not ask torch for one convolution "
        "by its kernel at its dilation; express it as a parametrisation of the weight (torch.nn.utils.parametrize)"
    )
    reason = lost
    for pads in (True, False):
        try:
            modes = [_fit(conv, plain, training, pads) for training in (False, True)]
        except _NotOne:
            return Way(lost)
        except Exception as error:  # of any kind: forward() may expect another input
            reason = f"{name} overrides forward(), which could not be tried: {str(error).partition(chr(10))[0]}"
            continue
        if all(modes):
            return Way(None, True, pads)
        reason = (
            f"{name} overrides forward() and pads or crops there by itself, in another way than its dilation needs to "
            'stay in place; leave the padding to the conv, or, if it is causal, give anchor="last"'
        )
    return Way(reason)


class _NotOne(Exception):
    """forward() does not ask for just one convolution of its own."""


def _fit(conv: Conv, plain: type[nn.Module], training: bool, pads: bool) -> bool:
    """Whether branches around one dilation compute what the class itself does at another, in both directions."""
    own = tuple(conv.dilation)
    larger = tuple(d + searched_axis(k) for d, k in zip(own, kernel_to_search(conv), strict=True))
    trial = _Trial(conv, plain, training, pads, trial_size(conv, larger))
    return _is_centred(trial, own) and all(_equal(trial, *pair) for pair in ((own, larger), (larger, own)))


def _equal(trial: _Trial, centre: Dilation, dilation: Dilation) -> bool:
    searched, itself = _as_searched(trial, centre), _handed(trial, (trial.plain,), dilation)
    sides = moved_sides(trial.conv, searched.call, dilation)
    return searched.returned == itself.returned and torch.equal(
        extend(searched.call.input, sides, "zeros"), extend(itself.call.input, itself.call.sides, "zeros")
    )


def _is_centred(trial: _Trial, dilation: Dilation) -> bool:
    """Whether the input is padded on both sides alike, up to the one that TensorFlow's "same" may differ by.

    Else the class may be causal. Axes that are anchored at the last tap do not count.
    """
    unmarked, marked = (_as_searched(trial, dilation, marked).call.input for marked in (False, True))
    place, anchors = place_of(unmarked, marked), anchor_of(trial.conv)
    if place is None:
        return tuple(unmarked.shape[2:]) == trial.size
    axes = zip(unmarked.shape[2:], trial.size, place, anchors, strict=True)
    return all(anchor == "last" or abs(padded - n - 2 * (at - n // 2)) <= 1 for padded, n, at, anchor in axes)


def place_of(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    """The one position in which two inputs of a convolution differ; None if there is none or several."""
    if a.shape != b.shape:
        return None
    differ = ((a != b) & ~(a.isnan() & b.isnan())).flatten(0, 1).any(0).nonzero()
    return tuple(differ[0].tolist()) if len(differ) == 1 else None


def _as_searched(trial: _Trial, dilation: Dilation, marked: bool = False) -> _Handed:
    # Once searched, a class may compute otherwise, if it knows SearchConv.
    return _handed(trial, (*Searched.__subclasses__(), trial.plain), dilation, marked)


def _handed(trial: _Trial, bases: tuple[type, ...], dilation: Dilation, marked: bool = False) -> _Handed:
    """Call forward() of a copy of the conv on random values, one of them changed if `marked`."""
    conv, calls = trial.conv, list[Call]()
    dtype, device = type_of(conv)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, conv.in_channels, *trial.size), generator=generator, device="cpu").to(device, dtype)
    if marked:
        x[(..., *(n // 2 for n in trial.size))] *= -3

    def answer(call: Call) -> Tensor:
        calls.append(call._replace(input=call.input.clone()))
        size = size_out(call.input.shape[2:], conv.kernel_size, call.dilation, call.stride, call.sides)
        return call.input.new_zeros(len(call.input), conv.out_channels, *size)

    with generators_restored(conv), torch.no_grad(), torch.device(device):
        twin = twin_of(conv, bases, dilation, trial.training, zeros_of(conv, real_weight=True))
        if trial.pads:
            vars(twin).update({name: vars(conv)[name] for name in _PADDING})
        cast(Any, type(twin))._conv_forward = cast(Any, trial.plain)._conv_forward
        with Redirected(cast(Conv, twin), answer):
            returned = type(twin).forward(twin, x)
    if len(calls) != 1:
        raise _NotOne
    parts = returned if isinstance(returned, (tuple, list)) else [returned]
    return _Handed(calls[0], [part.shape for part in parts if isinstance(part, Tensor)])
