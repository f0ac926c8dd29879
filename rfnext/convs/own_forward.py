"""What a conv class with a forward() of its own does with its input, found by calling that forward().

It is called on deep copies of the conv, in eval and in training mode, on a small input of random values, and once more
with one position of the input changed, the mark: where the input of the convolution differs, there the mark is. The
class's own convolutions are not computed: calls of one are intercepted, noted and answered with zeros of the right
size. Layers inside the conv are called as they are.

The conv stays as it is, with its layers, buffers and attributes, and so do the random number generators of torch and of
Python. What forward() changes outside the conv (a class attribute, a global variable, a file) cannot be restored. Two
convs of one class may differ (by a flag `causal`, say), so the result is not kept for the class.
"""

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from rfnext.convs.convolution_call import CONVOLUTIONS, Call
from rfnext.convs.padding import Anchor, Conv, anchor_of, kernel_to_search, sides_of
from rfnext.convs.redirected import Way, place_of, way_of
from rfnext.convs.twin import Searched, generators_restored, trial_size, twin_of, type_of, zeros_of
from rfnext.dilation import Dilation, searched_axis
from rfnext.ops.geometry import size_out

log = logging.getLogger(__name__)

_TORCH = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)


class _Trial(NamedTuple):
    """How forward() is called: at which dilation, on which size, in which mode.

    by_method: intercept `_conv_forward`, which a search overrides, and torch's convolutions beside it; else only these.
    """

    conv: Conv
    plain: type[nn.Module]
    dilation: Dilation
    size: tuple[int, ...]
    training: bool
    by_method: bool


class _Convolution(NamedTuple):
    """One that forward() asked for. Per axis, before: padding; place: of the mark in the input, None if it is unclear.

    It is unclear if no position or several of the input change with the mark: by a norm over positions, say.
    """

    input: Tensor
    kernel: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    size_out: tuple[int, ...]
    place: tuple[int, ...] | None = None

    @property
    def size_in(self) -> tuple[int, ...]:
        return tuple(self.input.shape[2:])


class _Tried(NamedTuple):
    """What forward() did: its convolutions, whether it convolves beside `_conv_forward`, and its output size.

    The size is None for an output of another kind, which cannot be compared: one with other axes, or no tensor.
    """

    convolutions: list[_Convolution]
    beside: bool
    size_out: tuple[int, ...] | None


class _Untried(Exception):
    """forward() cannot be called: on which input, and why."""


def own_methods(plain: type) -> set[str]:
    """Which of forward() and _conv_forward() a conv class does not take from torch's class."""
    own = itertools.takewhile(lambda cls: cls not in _TORCH, plain.__mro__)
    return {name for cls in own for name in ("forward", "_conv_forward") if name in vars(cls)}


def way_to_search(conv: Conv, plain: type[nn.Module]) -> Way:
    """How a conv of class `plain` is searched, or why not: by its `_conv_forward` or by `rfnext.convs.redirected`."""
    own = own_methods(plain)
    if "_conv_forward" in vars(conv):
        return Way(
            "its _conv_forward() was replaced on the conv itself, where a search cannot override it; undo that first"
        )
    if not own:
        return Way(None)
    try:
        if "_conv_forward" not in own:
            return Way(_why_not_by_method(conv, plain))
    except _Beside:
        pass
    return way_of(conv, plain)


class _Beside(Exception):
    """forward() convolves by itself, or several times."""


def _why_not_by_method(conv: Conv, plain: type[nn.Module]) -> str | None:
    """Why a search cannot override `_conv_forward`, None if it can; raises _Beside."""
    # Not the conv's own dilation: at 1, a class that pads by d - 1 pads nothing.
    dilation = tuple(
        d + 1 if searched_axis(k) else d for d, k in zip(conv.dilation, kernel_to_search(conv), strict=True)
    )
    for training in (False, True):
        trial = _Trial(conv, plain, dilation, trial_size(conv, dilation), training, by_method=True)
        try:
            tried = _try(trial)
            if not tried.convolutions and not tried.beside:
                return (
                    f"{plain.__name__} overrides forward(), and in {'training' if training else 'evaluation'} that "
                    "computes without torch's convolution, so that nothing would be searched; let it call "
                    "super().forward() if isinstance(self, rfnext.SearchConv)"
                )
            if len(tried.convolutions) != 1 or tried.beside:
                raise _Beside
            if _pads(trial, tried):
                return _pads_by_itself(plain)
            if "last" in anchor_of(conv) and _follows(trial, tried):
                return _pads_by_its_dilation(plain)
        except _Untried as error:
            return f"{plain.__name__} overrides forward(), which could not be tried on {error}"
    return None


def why_not_in_place(conv: Conv, plain: type[nn.Module], dilation: Dilation) -> str | None:
    """Why a conv of class `plain` would not keep its output size or its anchor's place at another dilation.

    None if it would. Other than for a search, a class may convolve in its own forward() here, and pad symmetrically by
    its dilation, as TensorFlow's "same" does. A forward() that cannot be tried is given the benefit of the doubt, with
    a warning in the log.
    """
    if way_to_search(conv, plain).reason is None:
        return None
    size = trial_size(conv, dilation)
    untried: _Untried | None = None
    for training in (False, True):
        trial = _Trial(conv, plain, tuple(conv.dilation), size, training, by_method=False)
        try:
            if reason := _why_moved(trial, dilation):
                return reason
        except _Untried as error:
            untried = error
    if untried:
        log.warning(
            "%s overrides forward(), which could not be tried on %s; whether it stays in place at dilation %s is not "
            "verified",
            *(plain.__name__, untried, dilation),
        )
    return None


def _why_moved(trial: _Trial, dilation: Dilation) -> str | None:
    """What `why_not_in_place` returns, for one mode; raises _Untried if forward() fails at the dilation of `trial`."""
    name = trial.plain.__name__
    before = _try(trial)
    try:
        after = _try(trial._replace(dilation=dilation))
    except _Untried as error:
        return f"{name} overrides forward(), which fails at dilation {dilation} on {error}"
    if not before.convolutions:
        return f"{name} overrides forward(), and whether it stays in place at other dilations is unknown"
    same_size = (before.size_out, len(before.convolutions)) == (after.size_out, len(after.convolutions))
    pairs = zip(before.convolutions, after.convolutions, strict=False)
    if not same_size or not all(_stays(*pair, anchor_of(trial.conv)) for pair in pairs):
        return (_pads_by_its_dilation if "last" in anchor_of(trial.conv) else _pads_by_itself)(trial.plain)
    return _pads_by_itself(trial.plain) if len(before.convolutions) == 1 and _pads(trial, before) else None


def _pads_by_itself(plain: type) -> str:
    return (
        f"{plain.__name__} overrides forward() and pads or crops there by itself, so that it would not stay in place "
        'at other dilations; leave the padding to the conv, or, if it is causal, give anchor="last"'
    )


def _pads_by_its_dilation(plain: type) -> str:
    return (
        f"{plain.__name__} overrides forward() and pads or crops there by its own dilation or padding, which change "
        'beside the padding that anchor="last" adds; let it pad by an amount that __init__() computes once'
    )


def _pads(trial: _Trial, tried: _Tried) -> bool:
    """Whether forward() pads, crops or moves the input of its one convolution, or pads or crops the output.

    A class that convolves by itself may pad its input, if it does so on both sides: TensorFlow's "same" may differ by
    one. Axes that are anchored at the last tap do not count: see `_follows`.
    """
    (convolution,) = tried.convolutions
    centred = [anchor == "centre" for anchor in anchor_of(trial.conv)]
    places = zip(centred, convolution.place or (), _middle(trial.size), trial.size, convolution.size_in, strict=False)
    for is_centred, place, marked, n, padded in places:
        before = place - marked
        if is_centred and abs(padded - n - 2 * before) > 1:
            return True
    if convolution.size_in == trial.size and tried.size_out in (None, convolution.size_out):
        return False
    # Sizes differ. Pooling and upsampling change them by a factor: by another amount on a larger input.
    larger = trial._replace(size=tuple(n + 16 * s for n, s in zip(trial.size, trial.conv.stride, strict=True)))
    tried_larger = _try(larger)
    if len(tried_larger.convolutions) != 1:
        raise _Untried(f"inputs of sizes {trial.size} and {larger.size}: they are treated differently")
    amounts, grown = _growth(trial, tried), _growth(larger, tried_larger)
    if not trial.by_method and convolution.place is not None:
        amounts, grown = amounts[1:], grown[1:]
    pairs = (zip(centred, *pair, strict=True) for pair in zip(amounts, grown, strict=True))
    return any(is_centred and x == y != 0 for pair in pairs for is_centred, x, y in pair)


def _follows(trial: _Trial, tried: _Tried) -> bool:
    """Whether what forward() pads or crops changes with the dilation, on an axis that is anchored at the last tap."""
    own = trial._replace(dilation=tuple(trial.conv.dilation))
    tried_own = _try(own)
    (convolution,) = tried.convolutions
    if len(tried_own.convolutions) != 1:
        raise _Untried(f"dilations {own.dilation} and {trial.dilation}: they are treated differently")
    (convolution_own,) = tried_own.convolutions
    amounts = [*_growth(trial, tried), convolution.place or (), *_growth(own, tried_own), convolution_own.place or ()]
    axes = [axis for axis, anchor in enumerate(anchor_of(trial.conv)) if anchor == "last"]
    moved = [[amount[axis] for axis in axes if amount] for amount in amounts]
    return moved[:3] != moved[3:]


def _growth(trial: _Trial, tried: _Tried) -> list[list[int]]:
    """By how much forward() enlarges the input and the output of its first convolution, per axis."""
    convolution = tried.convolutions[0]
    sizes = (trial.size, convolution.size_in), (convolution.size_out, tried.size_out or convolution.size_out)
    return [[after - before for before, after in zip(*pair, strict=True)] for pair in sizes]


def _stays(before: _Convolution, after: _Convolution, anchors: Sequence[Anchor]) -> bool:
    """Whether the anchor is in the same place at both dilations."""
    if before.place is None or after.place is None:
        if before.size_in != after.size_in:
            return False
        before, after = before._replace(place=(0,) * len(before.kernel)), after._replace(place=(0,) * len(after.kernel))
    return all(
        (1 if anchor == "last" else 2) * (p2 + m2 - p1 - m1) == (d2 - d1) * (k - 1)
        for p1, m1, p2, m2, d1, d2, k, anchor in zip(
            *(before.before, before.place or (), after.before, after.place or ()),
            *(before.dilation, after.dilation, before.kernel, anchors),
            strict=True,
        )
    )


def _middle(size: Sequence[int]) -> tuple[int, ...]:
    """Where the mark is put."""
    return tuple(n // 2 for n in size)


def _try(trial: _Trial) -> _Tried:
    """Call forward() of copies of the conv; raises _Untried if that fails."""
    # First with a weight that takes no memory. A class that changes its weight in place needs a real one, a norm over
    # pooled values two images.
    failed = _Untried()
    for batch, real_weight in ((1, False), (1, True), (2, True)):
        shape = batch, trial.conv.in_channels, *trial.size
        try:
            return _tried(trial, shape, real_weight)
        except Exception as error:  # of any kind: forward() may expect another input, or the conv cannot be copied
            first_line = str(error).partition("\n")[0]
            failed = _Untried(f"an input of shape {shape}: {type(error).__name__}: {first_line}")
    raise failed


def _tried(trial: _Trial, shape: tuple[int, ...], real_weight: bool) -> _Tried:
    dtype, device = type_of(trial.conv)
    generator = torch.Generator().manual_seed(0)
    channels = torch.randn((*shape[:2], *[1] * len(trial.size)), generator=generator, device="cpu")
    positions = torch.randn(trial.size, generator=generator, device="cpu")
    x = (channels + positions).to(device, dtype)
    marked = x.clone()
    marked[(..., *_middle(trial.size))] *= -3  # another sign and another size
    unmarked, tried = (_forward(trial, each, real_weight) for each in (x, marked))
    if len(unmarked.convolutions) == len(tried.convolutions):
        pairs = zip(unmarked.convolutions, tried.convolutions, strict=True)
        tried = tried._replace(convolutions=[b._replace(place=place_of(a.input, b.input)) for a, b in pairs])
    return tried


def _forward(trial: _Trial, x: Tensor, real_weight: bool) -> _Tried:
    """Call forward() of one copy of the conv; places are not known yet."""
    with generators_restored(trial.conv), torch.no_grad(), torch.device(x.device):
        # Once searched, a class may compute otherwise, if it knows SearchConv.
        bases = (*Searched.__subclasses__(), trial.plain) if trial.by_method else (trial.plain,)
        twin = twin_of(trial.conv, bases, trial.dilation, trial.training, zeros_of(trial.conv, real_weight))
        functions = _NotingFunctions(twin)
        noted = functions.noted
        if trial.by_method:
            noted = _note_method(twin)
        with functions:
            y = type(twin).forward(twin, x.clone())
        beside = trial.by_method and functions.beside
        first: Any = y[0] if isinstance(y, (tuple, list)) and y else y
        comparable = isinstance(first, Tensor) and first.dim() == x.dim()
        return _Tried(noted, beside, tuple(first.shape[2:]) if comparable else None)


def _note_method(twin: nn.Module) -> list[_Convolution]:
    """Make the twin's `_conv_forward` note its calls, in the list that is returned, and answer with zeros."""
    noted: list[_Convolution] = []

    def _conv_forward(self: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        noted.append(found := _note(input, self.kernel_size, self.stride, sides_of(self), self.dilation))
        return input.new_zeros(len(input), self.out_channels, *found.size_out)

    type(twin)._conv_forward = _conv_forward  # type: ignore[attr-defined]
    return noted


class _NotingFunctions(TorchFunctionMode):
    """Answers torch's convolutions instead of computing them, but for those that layers inside the twin ask for.

    beside: whether there was any, transposed ones included.
    """

    def __init__(self, twin: nn.Module) -> None:
        super().__init__()
        self.noted: list[_Convolution] = []
        self.beside = False
        self._weight = _pointer(cast(Tensor, twin.weight))
        self._inside = 0
        for module in itertools.islice(twin.modules(), 1, None):
            if isinstance(module, torch.jit.ScriptModule):  # takes no hooks; its convolutions are not seen from here
                continue
            module.register_forward_pre_hook(lambda *_: self._move(1), prepend=True)
            module.register_forward_hook(lambda *_: self._move(-1), always_call=True)

    def _move(self, step: int) -> None:
        self._inside += step

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func not in CONVOLUTIONS and func not in _TRANSPOSED:
            return func(*args, **(kwargs or {}))
        weight = args[1] if len(args) > 1 else (kwargs or {})["weight"]
        if self._inside and _pointer(weight) != self._weight:
            return func(*args, **(kwargs or {}))
        self.beside = True
        if func in _TRANSPOSED:
            return func(*args, **(kwargs or {}))
        call = Call.of(args, kwargs)
        self.noted.append(found := _note(call.input, call.weight.shape[2:], call.stride, call.sides, call.dilation))
        return call.input.new_zeros(len(call.input), len(weight), *found.size_out)


def _pointer(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _note(
    x: Tensor, kernel: Sequence[int], stride: Sequence[int], sides: Sequence[tuple[int, int]], dilation: Sequence[int]
) -> _Convolution:
    size = size_out(x.shape[2:], kernel, dilation, stride, sides)
    return _Convolution(x.clone(), tuple(kernel), tuple(dilation), tuple(before for before, _ in sides), size)
