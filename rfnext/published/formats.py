"""The kinds of searched convs in published checkpoints: what each becomes here, and what its weights are called."""

import copy
import logging
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rfnext.convs.own_forward import own_methods
from rfnext.convs.padding import Conv, anchor_of, size_keeping_padding
from rfnext.convs.searchable import plain_class, unsearchable
from rfnext.convs.twin import generators_restored
from rfnext.dilation import LARGEST, Bounds, Dilation, expectation, searched_axis
from rfnext.published.structure_file import StructureFile
from rfnext.structure import named_convs

log = logging.getLogger(__name__)

OPERATOR, RFCONV, GLOBAL2LOCAL = "branch_weights", "sample_weights", "weights"
"""The entry that only a searched conv has: in mmcv's operator, in RFConv2d, in Global2Local's operator."""

_STATE_OF_RFCONV = (RFCONV, "rates", "num_rates", "counter", "current_search_step")

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Opened:
    """What a conv of the model becomes: dilation (the centre), padding before and after, kernel size; branches and
    their weights, one for each that is possible, where it has several."""

    conv: Conv
    dilation: Dilation
    padding: tuple[int, ...]
    kernel: tuple[int, ...]
    branches: Sequence[Dilation] = ()
    weights: Tensor | None = None


def wrapped(tensors: Tensors, entry: str) -> list[str]:
    """The names of the convs that have this entry."""
    names = [key.removesuffix(f".{entry}") for key in tensors if key.endswith(f".{entry}")]
    return names if entry != GLOBAL2LOCAL else [name for name in names if f"{name}.op_layer.weight" in tensors]


def operator_padding(conv: Conv, dilation: Dilation) -> tuple[int, ...]:
    """The padding that mmcv's tools give a conv at a dilation, whatever the conv's own is."""
    axes = zip(conv.kernel_size, conv.stride, dilation, strict=True)
    return tuple(((stride - 1) + d * (kernel - 1)) // 2 for kernel, stride, d in axes)


def single(model: nn.Module, file: StructureFile) -> dict[str, Opened]:
    """Plain convs at the dilations of a structure file: mode fixed_single_branch.

    Raises ValueError, naming the layer, if the file is of another network.
    """
    opened = {}
    for name, conv, dilation in file.structure.match(model):
        padding = operator_padding(conv, dilation)
        if conv.padding_mode != "zeros" and padding != conv.padding:
            raise ValueError(
                f"layer {name!r} has padding_mode={conv.padding_mode!r}, and the published tools change its dilation "
                "without its padding there; such a network has no equal here"
            )
        opened[name] = Opened(conv, dilation, padding, conv.kernel_size)
    for name, conv in named_convs(model).items():
        known = name in opened or file.skips(name)
        if isinstance(conv, nn.Conv2d) and any(map(searched_axis, conv.kernel_size)) and not known:
            raise ValueError(f"layer {name!r} has no entry in {file.path}; give the structure file of this network")
    return opened


def operators(model: nn.Module, tensors: Tensors, file: StructureFile) -> tuple[dict[str, Opened], Tensors]:
    """Convs under mmcv's operator, and the tensors by the names of the plain convs.

    Raises ValueError, naming the layer, if the structure file is of another search or the model another network.
    """
    _check_entries(tensors, OPERATOR, file)
    opened = {}
    for name, conv, centre in file.structure.match(model):
        check_branched(name, conv)
        weights = tensors[f"{name}.{OPERATOR}"]
        opened[name] = Opened(
            conv,
            centre,
            operator_padding(conv, centre),
            conv.kernel_size,
            file.branches(centre, conv.kernel_size),
            weights,
        )
    return opened, _unwrapped(tensors, opened, OPERATOR)


def local_operators(model: nn.Module, tensors: Tensors, file: StructureFile) -> tuple[dict[str, Opened], Tensors]:
    """Convs under Global2Local's operator, which all must have one branch; raises ValueError as `operators` does."""
    _check_entries(tensors, GLOBAL2LOCAL, file)
    opened = {}
    for name, conv, centre in file.structure.match(model):
        branches = file.branches(centre, conv.kernel_size)
        if len(branches) > 1:
            raise ValueError(
                f"layer {name!r} has {len(branches)} branches under Global2Local's operator, which passes each through "
                "a ReLU before it adds them up; a sum of such branches is no conv of mixed dilations and has no equal "
                "here. Train the plain network at the dilations of the structure, by rfnext.Structure.load(...).apply, "
                "or open its checkpoint"
            )
        opened[name] = Opened(conv, branches[0], operator_padding(conv, branches[0]), conv.kernel_size)
    return opened, _unwrapped(tensors, opened, GLOBAL2LOCAL)


def _check_entries(tensors: Tensors, entry: str, file: StructureFile) -> None:
    """Raise ValueError unless the file and the checkpoint have branches at the same layers, and as many."""
    names = wrapped(tensors, entry)
    fix = "give the structure file of the same search"
    if missing := [name for name in names if name not in file.structure]:
        raise ValueError(f"layer {missing[0]!r} has branches in it and no entry in {file.path}; {fix}")
    if surplus := [name for name in file.structure if name not in set(names)]:
        raise ValueError(f"layer {surplus[0]!r} has an entry in {file.path} and no branches in it; {fix}")
    for name in names:
        if tuple(tensors[f"{name}.{entry}"].shape) != (file.entries,):
            raise ValueError(
                f"layer {name!r} has branch weights of shape {tuple(tensors[f'{name}.{entry}'].shape)} in it, and "
                f"{file.path} is of a search with {file.entries} branches; {fix}"
            )


def _unwrapped(tensors: Tensors, opened: Mapping[str, Any], entry: str) -> Tensors:
    """Without the operators' own entries, and the rest by the names of the plain convs."""
    state = {}
    for key, tensor in tensors.items():
        before, operator, after = key.rpartition(".op_layer.")
        if operator and before in opened:
            state[f"{before}.{after}"] = tensor
        elif not (key.endswith(f".{entry}") and key.removesuffix(f".{entry}") in opened):
            state[key] = tensor
    return state


def rf_convs(model: nn.Module, tensors: Tensors) -> tuple[dict[str, Opened], Tensors]:
    """RFConv2d, also with its branches merged, and the tensors without its own entries.

    Raises ValueError, naming the layer, if the model is another network or an entry is none of RFConv2d.
    """
    convs = named_convs(model)
    opened = {}
    for name in wrapped(tensors, RFCONV):
        if not isinstance(conv := convs.get(name), nn.Conv2d):
            raise ValueError(f"layer {name!r} is an RFConv2d in it and no Conv2d in the model; build the same network")
        opened[name] = _rf_conv(name, conv, tensors)
    own = {f"{name}.{entry}" for name in opened for entry in _STATE_OF_RFCONV}
    return opened, {key: tensor for key, tensor in tensors.items() if key not in own}


def _rf_conv(name: str, conv: Conv, tensors: Tensors) -> Opened:
    rates, weights = _rates(name, conv, tensors)
    kernel = tuple(tensors[f"{name}.weight"].shape[2:]) if f"{name}.weight" in tensors else conv.kernel_size
    if len(rates) == 1:
        # The conv's own padding, grown with what its dilation or a merged kernel covers more than by design.
        own = size_keeping_padding(conv, tuple(conv.dilation))
        growth = [
            d * (new - 1) - before * (k - 1)
            for d, new, before, k in zip(rates[0], kernel, conv.dilation, conv.kernel_size, strict=True)
        ]
        if any(g % 2 for g in growth) or any(before != after for before, after in own):
            raise ValueError(f"layer {name!r} of kernel {kernel} cannot pad both sides alike; build the same network")
        padding = tuple(before + g // 2 for (before, _), g in zip(own, growth, strict=True))
        return Opened(conv, rates[0], padding, kernel)
    check_branched(name, conv)
    centre = expectation([1.0] * len(rates), rates, Bounds(), "paper")
    padding = [
        {d * (k - 1) // 2 - (d - c) * (k - 1) / 2 for d in branch}
        for *branch, c, k in zip(*rates, centre, conv.kernel_size, strict=True)
    ]
    if any(len(of_branches) > 1 for of_branches in padding):
        raise ValueError(f"layer {name!r} has branches that move its even kernel {kernel}; it has no equal here")
    return Opened(conv, centre, tuple(int(axis.pop()) for axis in padding), conv.kernel_size, rates, weights)


def _rates(name: str, conv: Conv, tensors: Tensors) -> tuple[list[Dilation], Tensor]:
    """The branches in use, and all weights."""
    rates, number, weights = (tensors.get(f"{name}.{entry}") for entry in ("rates", "num_rates", RFCONV))
    fix = "its RFConv2d is incomplete; fetch the file again"
    if rates is None or number is None or weights is None or (rates.dim(), weights.dim(), number.numel()) != (2, 1, 1):
        raise ValueError(f"layer {name!r} lacks its dilations; {fix}")
    if any(tensor.is_complex() for tensor in (rates, number, weights)) or not bool(weights.isfinite().all()):
        raise ValueError(f"layer {name!r} has dilations or weights that are no real numbers; {fix}")
    count = number.item()  # a real number, perhaps of floating point; NaN is in no range
    complete = 1 <= count <= min(len(rates), len(weights)) and rates.shape[1] == len(conv.kernel_size)
    used = rates[: int(count)] if complete else rates
    if not complete or not bool(((used >= 1) & (used <= LARGEST) & (used == used.round())).all()):
        shown = reprlib.repr(rates[:8].tolist())
        raise ValueError(f"layer {name!r} has {count:g} branches of dilations {shown}; {fix}")
    return [tuple(map(int, row)) for row in used.tolist()], weights


def check_branched(name: str, conv: Conv) -> None:
    """Raise ValueError unless the operators, which know a conv's weight alone, compute what the conv here will."""
    if reason := unsearchable(conv):
        raise ValueError(f"layer {name!r} cannot have branches: {reason}")
    if "last" in anchor_of(conv):
        raise ValueError(
            f"layer {name!r} is anchored at its last tap, and the published operators at the centre; build the network "
            "anew, and search it without an anchor"
        )
    if conv.padding_mode != "zeros":
        raise ValueError(
            f"layer {name!r} has padding_mode={conv.padding_mode!r}, and the published operators pad by zeros; build "
            "the network with padding_mode='zeros', which is what was trained"
        )
    if own_methods(plain_class(conv)) and not _is_plain(conv):
        raise ValueError(
            f"layer {name!r} is a {plain_class(conv).__name__}, whose forward() the published operators leave out; "
            "build the network with a Conv2d there, which is what was trained"
        )


def name_own_forwards(convs: Mapping[str, Conv]) -> None:
    """Log which plain convs compute more than a convolution by their weight: files hold their weights alone."""
    own = {name: conv for name, conv in convs.items() if own_methods(plain_class(conv)) and not _is_plain(conv)}
    if own:
        kinds = ", ".join(sorted({f"{kind.__module__}.{kind.__name__}" for kind in map(plain_class, own.values())}))
        log.warning(
            "%d convs, %s, have a forward() of their own (%s), which no file holds; they compute the same only in a "
            "network whose convs are of the same class",
            *(len(own), ", ".join(list(own)[:3]) + (", ..." if len(own) > 3 else ""), kinds),
        )


def _is_plain(conv: Conv) -> bool:
    """Whether a class's own forward() gives just the convolution of its input with its weight."""
    trial = copy.deepcopy(conv)
    size = [d * (k - 1) + s + 1 for d, k, s in zip(conv.dilation, conv.kernel_size, conv.stride, strict=True)]
    with torch.no_grad(), generators_restored(conv):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, conv.in_channels, *size, generator=generator).to(trial.weight)
        plain = cast(Any, trial)._conv_forward(x, trial.weight, trial.bias)
        try:
            given = trial.forward(x)
        except Exception:  # of any kind, as of code of the user: it takes more than a batch, or another one
            return False
        same = isinstance(given, Tensor) and given.shape == plain.shape
        return same and bool(torch.allclose(given, plain, equal_nan=True))
