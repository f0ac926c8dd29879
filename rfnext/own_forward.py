"""What a conv class with a forward() of its own does with its input, found by calling that forward() once.

It is called on a copy of the conv, in eval mode, on a small input that is zero but for one marked element. No
convolution is computed: calls of one are intercepted, noted and answered with zeros of the right size. The conv, its
parametrisations and the random number generators stay as they are. Two convs of one class may differ (by a flag
`causal`, say), so the result is not kept for the class.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rfnext.dilation import Dilation, searched_axis
from rfnext.ops.branches import CONV
from rfnext.ops.geometry import size_out
from rfnext.padding import Conv, size_keeping_padding

_TORCH = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def own_methods(plain: type) -> set[str]:
    """Which of forward() and _conv_forward() a conv class does not take from torch's class."""
    own = itertools.takewhile(lambda cls: cls not in _TORCH, plain.__mro__)
    return {name for cls in own for name in ("forward", "_conv_forward") if name in vars(cls)}


def why_unsearchable(conv: Conv, plain: type[nn.Module]) -> str | None:
    """Why a search cannot override `_conv_forward` of a conv of class `plain`, or None if it can."""
    own = own_methods(plain)
    lost = (
        f"{plain.__name__} overrides {'_conv_forward()' if '_conv_forward' in own else 'forward()'}, and its own "
        "computation would be lost; express it as a parametrisation of the weight (torch.nn.utils.parametrize) instead"
    )
    if "_conv_forward" in own:
        return lost
    if not own:
        return None
    # Not the conv's own dilation: at 1, a class that pads by d - 1 pads nothing.
    dilation = tuple(d + 1 if searched_axis(k) else d for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
    tried = _call(conv, plain, dilation, _size(conv, dilation), by_method=True)
    if tried is None or len(tried.convolutions) != 1:
        return lost
    (convolution,) = tried.convolutions
    if (convolution.size_in, convolution.place) != (tried.size_in, tried.place):
        return _pads_by_itself(plain)
    return None if convolution.size_out == tried.size_out else _pads_by_itself(plain)


def why_not_in_place(conv: Conv, plain: type[nn.Module], dilation: Dilation) -> str | None:
    """Why a conv of class `plain` would not keep its output size or its centre tap's place at another dilation.

    None if it would. Other than for a search, a class may convolve in its own forward() here, and pad symmetrically by
    its dilation, as TensorFlow's "same" does.
    """
    if not own_methods(plain) or why_unsearchable(conv, plain) is None:
        return None
    size = _size(conv, dilation)
    before, after = (_call(conv, plain, d, size, by_method=False) for d in (tuple(conv.dilation), dilation))
    if before is None or after is None or not before.convolutions:
        return f"{plain.__name__} overrides forward(), and whether it stays in place at other dilations is unknown"
    same_size = (before.size_out, len(before.convolutions)) == (after.size_out, len(after.convolutions))
    if same_size and all(map(_stays, before.convolutions, after.convolutions)):
        return None
    return _pads_by_itself(plain)


def _pads_by_itself(plain: type) -> str:
    return (
        f"{plain.__name__} overrides forward() and pads or crops there by itself, so that it would not stay in place "
        "at other dilations; leave the padding to the conv, or, if it is causal, see the docstring of rfnext.conv"
    )


class _Convolution(NamedTuple):
    """One that forward() asked for. Per axis, place: of the marked element in the input; before: padding."""

    size_in: tuple[int, ...]
    place: tuple[int, ...]
    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    size_out: tuple[int, ...]


class _Tried(NamedTuple):
    """A call of forward(). Per axis: size of its input, place of the marked element, size of its output."""

    size_in: tuple[int, ...]
    place: tuple[int, ...]
    convolutions: list[_Convolution]
    size_out: tuple[int, ...]


def _stays(before: _Convolution, after: _Convolution) -> bool:
    """Whether the kernel's centre is in the same place at both dilations."""
    return all(
        2 * (p2 + m2 - p1 - m1) == (d2 - d1) * (k - 1)
        for p1, m1, p2, m2, d1, d2, k in zip(
            *(before.before, before.place, after.before, after.place),
            *(before.dilation, after.dilation, before.kernel),
            strict=True,
        )
    )


def _size(conv: Conv, dilation: Dilation) -> tuple[int, ...]:
    """Of an input on which forward() can be tried at the conv's own and another dilation.

    Larger than what a causal conv pads: reflecting takes less than the input's size.
    """
    return tuple(
        max(d, new) * (k - 1) + s + 2
        for d, new, k, s in zip(conv.dilation, dilation, conv.kernel_size, conv.stride, strict=True)
    )


def _call(
    conv: Conv, plain: type[nn.Module], dilation: Dilation, size: tuple[int, ...], by_method: bool
) -> _Tried | None:
    """Call forward() of a copy of the conv at another dilation; None if that fails.

    by_method: intercept `_conv_forward`, which a search overrides, instead of torch's convolutions.
    """
    # First with a weight that takes no memory. A class that changes its weight in place needs a real one.
    for real_weight in (False, True):
        try:
            return _tried(conv, plain, dilation, size, by_method, real_weight)
        except Exception:  # of any kind: forward() may expect another input
            continue
    return None


def _tried(
    conv: Conv, plain: type[nn.Module], dilation: Dilation, size: tuple[int, ...], by_method: bool, real_weight: bool
) -> _Tried:
    like = next(itertools.chain(conv.parameters(), conv.buffers()), torch.empty(()))
    device = torch.device("cpu") if like.is_meta else like.device
    place = tuple(n // 2 for n in size)
    noted: list[_Convolution] = []
    with _leaving_no_trace(conv, device), torch.device(device):
        x = torch.zeros(1, conv.in_channels, *size, dtype=like.dtype)
        x[(slice(None), slice(None), *place)] = 1
        shape = conv.out_channels, conv.in_channels // conv.groups, *conv.kernel_size
        weight = torch.zeros((), dtype=like.dtype).expand(shape)
        twin = _twin(conv, plain, dilation, weight.clone() if real_weight else weight)
        if by_method:
            _note_method(twin, noted)
        with contextlib.nullcontext() if by_method else _NotingFunctions(noted):
            y = twin.forward(x)
        return _Tried(size, place, noted, tuple(y.shape[2:]))


@contextlib.contextmanager
def _leaving_no_trace(conv: Conv, device: torch.device) -> Iterator[None]:
    training = [(module, module.training) for module in conv.modules()]
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            for module, _ in training:
                module.training = False
            yield
        finally:
            for module, was in training:
                module.training = was


def _twin(conv: Conv, plain: type[nn.Module], dilation: Dilation, weight: Tensor) -> nn.Module:
    """A shallow copy of the conv at another dilation, of a class of its own, with this weight and a bias of zero.

    Not with its own weight: reading a parametrised one computes it.
    """
    bias = None
    if conv._parameters.get("bias", conv) is not None:  # no entry: it is parametrised
        bias = weight.new_zeros(conv.out_channels)
    values = {"weight": property(lambda _: weight), "bias": property(lambda _: bias)}
    kind = type(plain.__name__, (plain,), values)
    twin = cast(nn.Module, object.__new__(kind))
    buffers = {name: None if buffer is None else buffer.clone() for name, buffer in conv._buffers.items()}
    twin.__dict__.update(vars(conv), _buffers=buffers, _parameters=dict(conv._parameters))
    sides = size_keeping_padding(conv, dilation)
    padding = conv.padding if conv.padding == "same" else tuple(before for before, _ in sides)
    twin.__dict__.update(dilation=dilation, padding=padding)
    twin.__dict__["_reversed_padding_repeated_twice"] = [side for pair in reversed(sides) for side in pair]
    return twin


def _note_method(twin: nn.Module, noted: list[_Convolution]) -> None:
    """Make the twin's `_conv_forward` note its calls and return zeros."""

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        noted.append(found := _note(input, self.kernel_size, self.stride, self.padding, self.dilation))
        return input.new_zeros(len(input), self.out_channels, *found.size_out)

    type(twin)._conv_forward = _conv_forward  # type: ignore[attr-defined]


class _NotingFunctions(TorchFunctionMode):
    """Answers torch's convolutions instead of computing them."""

    def __init__(self, noted: list[_Convolution]) -> None:
        super().__init__()
        self.noted = noted

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func not in CONV.values():
            return func(*args, **(kwargs or {}))
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given: dict[str, Any] = {"stride": 1, "padding": 0, "dilation": 1} | dict(zip(names, args, strict=False))
        given |= kwargs or {}
        input, weight = given["input"], given["weight"]
        self.noted.append(found := _note(input, weight.shape[2:], given["stride"], given["padding"], given["dilation"]))
        return input.new_zeros(len(input), len(weight), *found.size_out)


def _note(x: Tensor, kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> _Convolution:
    kernel, size = tuple(kernel), tuple(x.shape[2:])
    stride, dilation = _per_axis(stride, kernel), _per_axis(dilation, kernel)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = [(total // 2, total - total // 2) for total in totals]
    else:
        sides = [(p, p) for p in _per_axis(0 if padding == "valid" else padding, kernel)]
    marked = int(x.float().abs().amax((0, 1)).argmax())
    place = tuple(marked // math.prod(size[axis + 1 :]) % n for axis, n in enumerate(size))
    before = tuple(before for before, _ in sides)
    return _Convolution(size, place, kernel, dilation, before, size_out(size, kernel, dilation, stride, sides))


def _per_axis(value: Any, kernel: Sequence[int]) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values if len(values) == len(kernel) else values * len(kernel)
