"""What a search would do with a network, found out before anything is touched."""

import bisect
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from rfnext.causal import evaluating
from rfnext.convs.conv import SearchConv
from rfnext.convs.padding import AnchorOf, Conv, anchored, can_pad, kernel_to_search
from rfnext.convs.searchable import Layers, everything
from rfnext.convs.twin import Copying
from rfnext.dilation import Dilation, brief, searched_axis
from rfnext.search.local import LocalSearch
from rfnext.search.local_config import LocalConfig
from rfnext.search.one_shot import OneShotConfig, OneShotSearch
from rfnext.search.picking import nothing_to_search, pick
from rfnext.structure import named_convs
from rfnext.table import aligned

Example = Tensor | Sequence[Any] | Mapping[str, Any]
"""An input of a network: its one tensor, its arguments in order, or its arguments by name."""

_STEPS, _MOST_STEPS = 3, 50
_SECONDS = 1.0  # after which _STEPS are enough: short ones vary more


@dataclass(frozen=True)
class LayerPlan:
    """One conv of a network, and what a search would do with it.

    layer, kernel, dilation, stride: of the conv, per axis.
    branches: the dilations that it would get; none if it is passed over.
    passed_over: why it is not searched, None if it is.
    size: of the largest feature map that it reads, per axis; None without an example, or if it is not called.
    multiply_adds: of one forward pass of the example, as in `rfnext.receptive_field.multiply_adds`; None as for size.
    largest: the largest useful dilation: at a larger one every tap but the anchor reads padding, or torch cannot pad
        (padding_mode "reflect", "circular"). None as for size, and by padding_mode "replicate".
    """

    layer: str
    kernel: tuple[int, ...]
    dilation: Dilation
    stride: tuple[int, ...]
    branches: Sequence[Dilation] = ()
    passed_over: str | None = None
    size: tuple[int, ...] | None = None
    multiply_adds: int | None = None
    largest: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a search would do with a network; its `str` is a table.

    layers: all convs.
    step, searched_step: seconds of a training step of the example, forward and backward in eval mode, before the search
        and in it; both are timed in turns, and the least of each counts. None without an example, or where the output
        has no gradient.
    """

    layers: Sequence[LayerPlan]
    step: float | None
    searched_step: float | None

    @property
    def searched(self) -> list[LayerPlan]:
        """The convs that would be searched."""
        return [layer for layer in self.layers if layer.passed_over is None]

    def __str__(self) -> str:
        """The table, and below it what was passed over, and the cost."""
        searched = self.searched
        rows = [
            [
                *(layer.layer or "(the model)", brief(layer.kernel), brief(layer.dilation)),
                " ".join(map(brief, layer.branches)),
                "" if layer.size is None else "x".join(map(str, layer.size)),
                "" if layer.largest is None else str(layer.largest),
                "" if layer.multiply_adds is None else f"{layer.multiply_adds / 1e6:,.1f}",
            ]
            for layer in searched
        ]
        header = ["layer", "kernel", "dilation", "branches", "input", "largest", "M multiply-adds"]
        parts = [f"{len(searched)} of {len(self.layers)} convs are searched", aligned(header, rows, right=(5, 6))]
        if beyond := [layer for layer in searched if layer.largest and max(map(max, layer.branches)) > layer.largest]:
            parts.append(
                f"{len(beyond)} layers have branches above their largest useful dilation: {_named(beyond)}; every tap "
                "but one reads padding there, or torch cannot pad by as much (reflect, circular): give smaller bounds "
                "(candidates), or leave them out by `where`"
            )
        reasons: dict[str, list[LayerPlan]] = {}
        for layer in self.layers:
            if layer.passed_over is not None:
                reasons.setdefault(layer.passed_over, []).append(layer)
        parts += [f"passed over, {len(layers)} ({_named(layers)}): {why}" for why, layers in reasons.items()]
        if self.step and self.searched_step:
            ratio = self.searched_step / self.step
            times = f"{self.step * 1e3:.1f} ms before, {self.searched_step * 1e3:.1f} ms in the search"
            parts.append(f"a step of the example (forward and backward): {times}, {ratio:.2f} times")
        return "\n".join(parts)


def plan(
    model: nn.Module,
    where: Layers = everything,
    config: LocalConfig | OneShotConfig | None = None,
    example_input: Example | None = None,
    anchor: AnchorOf = None,
) -> Plan:
    """What a search would do with a network: which convs it takes, from which branches, and what a step costs.

        print(rfnext.plan(model, "layer4", rfnext.LocalConfig(), torch.randn(1, 3, 224, 224)))

    Nothing of the model is changed. With an example, sizes and multiply-adds are read from a forward pass in eval mode,
    and the cost of a step is measured on two copies of the model, which takes some seconds.

    Args:
        model: any network that is not searched yet.
        where: as in `LocalSearch`.
        anchor: as in `LocalSearch`.
        config: of the search; a `LocalConfig()` if None.
        example_input: a tensor, or the arguments of the model as a sequence or by name; on the model's device.

    Raises:
        ValueError: if no conv is left to search; the message says why each was passed over. If the model is searched
            already: `print(search)` shows that search.
        TypeError: if the config or `where` is something else.
    """
    config = LocalConfig() if config is None else config
    if not isinstance(config, (LocalConfig, OneShotConfig)):
        raise TypeError(f"plan takes a LocalConfig or a OneShotConfig, got a {type(config).__name__}")
    convs = named_convs(model)
    if any(isinstance(conv, SearchConv) for conv in convs.values()):
        raise ValueError("the model is searched already; print the search instead, or plan with a fresh model")
    picked, reasons = pick(model, where, anchor)
    if not picked:
        raise ValueError(nothing_to_search(model, reasons))
    calls = {} if example_input is None else _calls(model, convs, example_input)
    layers = []
    with anchored(picked, anchor, restored=True):
        for name, conv in convs.items():
            size, products = calls.get(name, (None, None))
            branches = config.dilations_of(tuple(conv.dilation), kernel_to_search(conv)) if name in picked else ()
            own = tuple(conv.kernel_size), tuple(conv.dilation), tuple(conv.stride)
            layers.append(LayerPlan(name, *own, branches, reasons.get(name), size, products, _largest(conv, size)))
    times = (None, None) if example_input is None else _step_times(model, list(picked), config, example_input, anchor)
    return Plan(layers, *times)


def _largest(conv: Conv, size: tuple[int, ...] | None) -> int | None:
    kernel = kernel_to_search(conv)
    axes = [n for n, k in zip(size or (), kernel, strict=False) if searched_axis(k)]
    if size is None or not axes or conv.padding_mode == "replicate":
        return None

    def too_large(largest: int) -> bool:
        dilation = (largest if searched_axis(k) else d for k, d in zip(kernel, conv.dilation, strict=True))
        return not can_pad(conv, tuple(dilation), size)

    return 1 + bisect.bisect_left(range(2, min(axes)), True, key=too_large)


def _named(layers: Sequence[LayerPlan]) -> str:
    names = [layer.layer or "the model itself" for layer in layers]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _call(model: nn.Module, example: Example) -> Any:
    if isinstance(example, Tensor):
        return model(example)
    return model(**example) if isinstance(example, Mapping) else model(*example)


@torch.no_grad()
def _calls(model: nn.Module, convs: Mapping[str, Conv], example: Example) -> dict[str, tuple[tuple[int, ...], int]]:
    """Of the convs that a forward pass calls: the largest size of an input per axis, and the multiply-adds."""
    found: dict[str, tuple[tuple[int, ...], int]] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(conv: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Any) -> None:
            plain = cast(Conv, conv)
            x = args[0] if args else next(iter(kwargs.values()))
            size = tuple(x.shape[-len(plain.kernel_size) :])
            y = output if isinstance(output, Tensor) else output[0]
            products = y.numel() * plain.in_channels // plain.groups * prod(plain.kernel_size)
            largest, total = found.get(name, (size, 0))
            found[name] = tuple(map(max, largest, size)), total + products

        return note

    with evaluating(model), ExitStack() as stack:
        for name, conv in convs.items():
            stack.callback(conv.register_forward_hook(hook(name), with_kwargs=True).remove)
        _call(model, example)
    return found


def _step_times(
    model: nn.Module, picked: Sequence[str], config: LocalConfig | OneShotConfig, example: Example, anchor: AnchorOf
) -> tuple[float | None, float | None]:
    """Seconds of a step of copies of the model before a search and in it; None if its output has no gradient.

    The least of some steps in turns, since on a busy machine most wait for others; after one each that chooses
    implementations.
    """
    with Copying():
        plain, searched = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    if _time(plain, example) is None:
        return None, None
    names = set(picked)
    search = LocalSearch if isinstance(config, LocalConfig) else OneShotSearch
    search(searched, cast(Any, config), where=lambda name, _: name in names, anchor=anchor)
    _time(searched, example)
    times: list[tuple[float | None, float | None]] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < _STEPS or (len(times) < _MOST_STEPS and time.perf_counter() < end):
        times.append((_time(plain, example), _time(searched, example)))
    before, within = (min(t for t in column if t is not None) for column in zip(*times, strict=True))
    return before, within


def _time(model: nn.Module, example: Example) -> float | None:
    """Seconds of a step; None if the output has no gradient."""
    _synchronise(model)
    start = time.perf_counter()
    with torch.enable_grad():
        outputs = [y for y in _tensors(_call(model, example)) if y.requires_grad]
    if not outputs:
        return None
    torch.autograd.backward([y.float().square().mean() for y in outputs])
    _synchronise(model)
    taken = time.perf_counter() - start
    model.zero_grad()
    return taken


def _synchronise(model: nn.Module) -> None:
    if any(parameter.is_cuda for parameter in model.parameters()):
        torch.cuda.synchronize()


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors of an output, whatever holds them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
