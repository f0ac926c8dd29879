"""Peers: convs of another kind in place of the searched ones, for the rows that search no dilation."""

import itertools
import logging
import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from benchmarks.cell import Cell
from benchmarks.methods.candidates import Briefly, powers, rank
from benchmarks.methods.method import Found, Outcome
from benchmarks.methods.training import as_lists, build, fit, own_training, score
from benchmarks.running.pool import Pool
from rfnext import Conv, Dilation, Structure, Where
from rfnext.convs.padding import anchor_of, sides_of
from rfnext.convs.set_dilation import set_padding
from rfnext.dilation import searched_axis

log = logging.getLogger(__name__)

PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def kernel_enlargement(cell: Cell, pool: Pool, found: Found | None) -> Outcome:
    """No search: the hand-designed field at more taps, by larger kernels of grouped channels, for no more parameters.

    It tests whether sampling the field more densely gains as much as searched dilations do.
    """
    model = build(cell)
    enlarge_kernels(model, cell.task.where, cell.method.settings["groups"])
    return score(cell, model, trained=fit(cell, model, own_training(cell)))


def learnable_spacings(cell: Cell, pool: Pool, found: Found | None) -> Outcome:
    """DCLS: every tap learns its position; how fast is chosen on validation, at the budget of "trainings" trainings.

    The positions' learning rate is the task's times a factor. Positions lie at most "reach" from the centre, or the
    task's largest candidate dilation where that is less: what a hand design has farther out starts at that distance.
    """
    settings = cell.method.settings
    factors = settings["factors"]
    network = partial(spaced, reach=min(settings["reach"], powers(cell)[-1]))
    designed = Structure.read(build(cell), cell.task.where)
    epochs = max(1, cell.config.epochs * settings["trainings"] // len(factors))
    tried, cost = rank(cell, pool, Briefly(network, epochs, spacings), factors)
    best = max(tried, key=lambda one: one.value)
    model = network(cell, factors[tried.index(best)])
    trained = fit(cell, model, own_training(cell))
    history: list[dict[str, Any]] = [{"step": 0, "structure": as_lists(designed)}]
    for factor, one in zip(factors, tried, strict=True):
        learnt = as_lists(designed) | one.about
        history.append({"step": len(history), "factor": factor, "structure": learnt, "validation": one.validation})
    resumed = any(one.trained.resumed for one in tried)
    chosen = Found(best.trained.folder, cost, resumed, designed, history)
    outcome = score(cell, model, found=chosen, trained=trained)
    history.append({"step": len(history), "structure": as_lists(designed) | spacings(outcome.model)})
    return outcome


def spaced(cell: Cell, factor: float, *, reach: int) -> nn.Module:
    """The cell's network with taps that learn their positions."""
    model = build(cell)
    learn_spacings(model, cell.task.where, reach=reach, factor=factor)
    return model


def enlarge_kernels(model: nn.Module, where: Where, groups: int) -> None:
    """Give searched convs larger kernels of grouped channels, in place: the same field at more taps, no more weights.

    A conv is split into `groups` times as many groups, and its kernel grows to the largest odd size whose parameters
    do not exceed the old ones; its dilation shrinks so that the reach, (kernel - 1) x dilation, is the nearest
    possible; a conv that is anchored at its last tap keeps that in place. An axis whose reach is too short for the size
    keeps its kernel, and a conv keeps everything if no axis grows or its channels cannot be divided (a depthwise one's,
    say). Weights and biases are drawn anew, by torch's default from torch's global generator.

    Raises:
        ValueError: if not one conv can be enlarged; the message says why.
    """
    reasons = {}
    for name, conv, _ in Structure.read(model, where).match(model):
        kernel, dilation = enlarged(conv, groups)
        if conv.in_channels % (conv.groups * groups) or conv.out_channels % (conv.groups * groups):
            channels = f"{conv.in_channels} and {conv.out_channels} channels in {conv.groups} groups"
            reasons[name] = f"{channels} do not divide into {groups} times as many"
        elif kernel == conv.kernel_size:
            reasons[name] = f"kernel {kernel} at dilation {conv.dilation} covers fewer inputs than a larger kernel"
        elif "last" not in anchor_of(conv) and min(map(min, _sides(conv, kernel, dilation))) < 0:
            reasons[name] = f"padding {conv.padding} is less than the larger kernel crops"
        else:
            log.info("%s: kernel %s, dilation %s; was %s, %s", name, kernel, dilation, conv.kernel_size, conv.dilation)
            _become(conv, kernel, dilation, conv.groups * groups)
            continue
        log.info("%s is left as it is: %s", name, reasons[name])
    if len(reasons) == len(Structure.read(model, where)):
        raise ValueError(f"none of the {len(reasons)} searched convs can have a larger kernel. {_first(reasons)}")


def _first(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])


def enlarged(conv: Conv, groups: int) -> tuple[tuple[int, ...], Dilation]:
    """Kernel and dilation per axis of `enlarge_kernels`; those of the conv where no axis grows."""
    free = [searched_axis(k) for k in conv.kernel_size]
    fixed = math.prod(k for k, f in zip(conv.kernel_size, free, strict=True) if not f)
    size = 1
    while fixed * (size + 2) ** sum(free) <= groups * math.prod(conv.kernel_size):
        size += 2
    kernel, dilation = [], []
    for k, d, f in zip(conv.kernel_size, conv.dilation, free, strict=True):
        grows = f and size > k and (k - 1) * d >= size - 1
        kernel.append(size if grows else k)
        dilation.append(round((k - 1) * d / (size - 1)) if grows else d)
    return tuple(kernel), tuple(dilation)


def _sides(conv: Conv, kernel: tuple[int, ...], dilation: Dilation) -> list[tuple[int, int]]:
    """Padding (before, after) per axis at which `conv` with a larger kernel keeps its output size and anchor's place.

    Kernels grow by even numbers; negative padding crops.
    """
    sides = []
    axes = zip(kernel, dilation, conv.kernel_size, conv.dilation, sides_of(conv), anchor_of(conv), strict=True)
    for k, d, k0, d0, (before, after), anchor in axes:
        growth = (k - 1) * d - (k0 - 1) * d0
        sides.append((before + growth, after) if anchor == "last" else (before + growth // 2, after + growth // 2))
    return sides


def _become(conv: Conv, kernel: tuple[int, ...], dilation: Dilation, groups: int) -> None:
    fresh = PLAIN[len(kernel)](
        conv.in_channels, conv.out_channels, kernel, groups=groups, bias=conv.bias is not None
    ).to(conv.weight)
    sides = _sides(conv, kernel, dilation)
    conv.kernel_size, conv.dilation, conv.groups = kernel, dilation, groups
    set_padding(conv, sides)
    if parametrize.is_parametrized(conv, "weight"):
        with torch.no_grad():
            conv.weight = fresh.weight.detach()  # through the parametrisation, which stays (weight_norm)
    else:
        conv.weight = fresh.weight
    conv.bias = fresh.bias


def learn_spacings(model: nn.Module, where: Where, *, reach: int, factor: float) -> None:
    """Replace searched convs by DCLS's, whose taps have learnable positions (Khalfaoui-Hassani et al., ICLR 2023).

    Positions lie at most `reach` from the centre and interpolate linearly: the paper's, the package's version "v0"
    ("v1" gives no gradient at whole positions). The study of planted lags (benchmarks/studies/planted_truth.py) has
    the package's default instead, "gauss". Positions start, as the weights do, where the conv has them, and the network
    computes what it did, unless taps lie farther out than `reach`: those start at `reach`, beyond which none can be
    learnt. The package builds a dense kernel of 2 reach + 1 per axis, so the reach decides what a training costs.

    The parameter is the position divided by `factor`. Adam's steps do not depend on a gradient's scale, so positions
    move by `factor` times its learning rate, whatever groups a task's optimizer has; SGD's learning rate is multiplied
    by the square of it. Convs that DCLS has no module for are left as they are.

    Raises:
        ModuleNotFoundError: if DCLS is not installed.
        ValueError: if not one conv can be replaced; the message says why.
    """
    reasons = {}
    convs = list(Structure.read(model, where).match(model))
    for name, conv, dilation in convs:
        distance = [(k - 1) * d // 2 for k, d in zip(conv.kernel_size, dilation, strict=True)]
        if len(dilation) > 2:
            reasons[name] = "it has three axes"
        elif any(k % 2 == 0 for k in conv.kernel_size):
            reasons[name] = f"its kernel {conv.kernel_size} has an even axis, so no centre"
        elif "last" in anchor_of(conv):
            reasons[name] = "it is anchored at its last tap, and taps would move past it"
        elif parametrize.is_parametrized(conv):
            reasons[name] = "its weight is parametrised (weight_norm)"
        elif conv.padding != "same" and min(_wide_padding(conv, distance, reach)) < 0:
            reasons[name] = f"padding {conv.padding} is less than taps up to {reach} from the centre need"
        else:
            if max(distance) > reach:
                log.info("%s: taps at %s from the centre start at %d", name, distance, reach)
            _replace(model, conv, _spaced(conv, distance, reach, factor))
            continue
        log.info("%s is left as it is: %s", name, reasons[name])
    if len(reasons) == len(convs):
        raise ValueError(f"none of the {len(convs)} searched convs can have learnable spacings. {_first(reasons)}")


def spacings(model: nn.Module) -> dict[str, list[int]]:
    """Layer -> per axis, the dilation whose taps would lie as far from the centre on average as the learnt ones."""
    found = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "P"):
            distance = cast(Tensor, module.P).detach().abs().mean((1, 2, 3)).tolist()
            kernel = cast(tuple[int, ...], module.kernel_size)
            # Taps of an odd kernel k lie (k^2 - 1) / (4 k) dilations from the centre on average.
            found[name] = [
                max(1, round(4 * k * d / (k**2 - 1))) if k > 1 else 1 for k, d in zip(kernel, distance, strict=True)
            ]
    return found


def _wide_padding(conv: Conv, distance: list[int], reach: int) -> tuple[int, ...]:
    """Padding at which a kernel that covers `reach` keeps the output size of `conv`, whose taps cover `distance`."""
    if conv.padding == "same":
        return (reach,) * len(distance)
    before = (0,) * len(distance) if conv.padding == "valid" else conv.padding
    return tuple(int(p) + reach - r for p, r in zip(before, distance, strict=True))


def _spaced(conv: Conv, distance: list[int], reach: int, factor: float) -> nn.Module:
    try:
        from DCLS.construct import modules
    except ModuleNotFoundError:
        raise ModuleNotFoundError("learnable spacings need the package DCLS: pip install DCLS") from None
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Dcls2d's four lines, per conv, on a package that it can do without
    try:
        made: Any = modules.Dcls1d if len(distance) == 1 else modules.Dcls2d
        spaced = made(
            conv.in_channels,
            conv.out_channels,
            math.prod(conv.kernel_size),
            stride=conv.stride,
            padding=_wide_padding(conv, distance, reach),
            dilated_kernel_size=(2 * reach + 1,) * len(distance),
            groups=conv.groups,
            bias=conv.bias is not None,
            padding_mode=conv.padding_mode,
            version="v0",
        ).to(conv.weight)
    finally:
        logging.disable(disabled)
    taps = itertools.product(*(range(-r, r + 1, d) for r, d in zip(distance, conv.dilation, strict=True)))
    with torch.no_grad():
        spaced.weight.copy_(conv.weight.flatten(2))
        if conv.bias is not None:
            spaced.bias.copy_(conv.bias)
        # (axes, channel_out, channel_in / groups, taps)
        spaced.P.copy_(torch.tensor(list(taps)).T[:, None, None, :].clamp(-reach, reach).expand_as(spaced.P))
    for parameter in spaced.parameters():
        parameter.requires_grad_(conv.weight.requires_grad)
    spaced.kernel_size = conv.kernel_size
    parametrize.register_parametrization(spaced, "P", _Times(factor))
    spaced.register_forward_pre_hook(_stay_within_reach)
    return spaced.train(conv.training)


class _Times(nn.Module):
    """The parametrisation x = factor * parameter."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def right_inverse(self, x: Tensor) -> Tensor:
        return x / self.factor


def _stay_within_reach(module: Any, inputs: Any) -> None:
    """What DCLS's `clamp_parameters` does after each step: a tap outside of the kernel would get no gradient back."""
    (times,), (parameter,) = module.parametrizations.P, module.parametrizations.P.parameters()
    limit = (module.dilated_kernel_size[0] // 2) / times.factor
    with torch.no_grad():
        parameter.clamp_(-limit, limit)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in another's place, under all of its names."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # named_children() gives a shared one once
            if child is old:
                setattr(parent, name, new)
