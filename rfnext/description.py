"""What a state_dict does not say of a network: the shape of its convs, in plain values that any file can hold.

A state_dict of a network with a structure, with branches, or with these merged fits the network as designed only after
its convs are the same: else it does not load, or loads as another function.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rfnext.convs.conv import SearchConv
from rfnext.convs.padding import Conv, anchor_of, set_anchor, sides_of
from rfnext.convs.set_dilation import set_checked_dilation, set_padding
from rfnext.convs.take_over import take_over
from rfnext.merging import remove_parametrization
from rfnext.plain_checkpoint import name_missing_branches
from rfnext.structure import named_convs

Description = dict[str, dict[str, Any]]
"""By the name of every conv: what `describe` says of it."""


def describe(model: nn.Module) -> Description:
    """Kernel, dilation, padding, anchor and branches of every conv; numbers, strings, lists and None only."""
    return {name: _describe(conv) for name, conv in named_convs(model).items()}


def _describe(conv: Conv) -> dict[str, Any]:
    sides = [before if before == after else [before, after] for before, after in sides_of(conv)]
    return {
        "kernel": list(conv.kernel_size),
        "groups": conv.groups,
        "dilation": list(conv.dilation),
        "padding": conv.padding if isinstance(conv.padding, str) else sides,
        "anchor": list(anchor) if "last" in (anchor := anchor_of(conv)) else None,
        "parametrised": parametrize.is_parametrized(conv, "weight"),
        "branches": [conv.branch_weight.numel(), conv.rule] if isinstance(conv, SearchConv) else None,
    }


def restore(model: nn.Module, description: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Give a network as designed the convs of a description, and load the state_dict that belongs to it.

    Args:
        model: built as the described network was before its search; changed in place.
        description: what `describe` said of the network.
        state: its state_dict.

    Raises:
        ValueError: naming the layer, if the network has other convs than the described one, or if the state_dict does
            not fit. The model may be changed then.
    """
    convs = named_convs(model)
    if missing := sorted(description.keys() ^ convs.keys()):
        raise ValueError(f"layer {missing[0]!r} is in only one of the network and its description")
    for name, conv in convs.items():
        try:
            _restore(conv, description[name], _stored_weight(name, state))
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    name_missing_branches(model)
    _load(model, state)


def _stored_weight(name: str, state: Mapping[str, Tensor]) -> Tensor | None:
    """The tensor of a conv that has its weight's shape; of a parametrised one (weight_norm), the last original."""
    within = f"{name}.parametrizations.weight.original"
    return next((state[key] for key in (f"{name}.weight", f"{within}1", within) if key in state), None)


def _restore(conv: Conv, described: Mapping[str, Any], weight: Tensor | None) -> None:
    kernel, dilation = tuple(described["kernel"]), tuple(described["dilation"])
    if parametrize.is_parametrized(conv, "weight") and not described["parametrised"]:
        remove_parametrization(conv)  # merging has done the same
    if kernel != conv.kernel_size or described["groups"] != conv.groups:
        # Taken from the weight: a description could claim a size that fills the memory.
        if weight is None or tuple(weight.shape[2:]) != kernel:
            raise ValueError(f"kernel {kernel} is not that of its weight")
        groups, out = described["groups"], conv.out_channels
        if not isinstance(groups, int) or groups < 1 or out % groups or weight.shape[1] * groups != conv.in_channels:
            raise ValueError(f"{groups!r} groups do not fit its weight")
        empty = torch.empty_like(weight)
        if parametrize.is_parametrized(conv, "weight"):
            conv.weight = empty  # through the parametrisation, which stays
        else:
            conv.weight = nn.Parameter(empty, requires_grad=conv.weight.requires_grad)
        conv.kernel_size, conv.groups = kernel, described["groups"]
    padding = described["padding"]
    anchor = described.get("anchor")  # files of before have none
    set_anchor(conv, "centre" if anchor is None else tuple(anchor))
    conv.dilation, conv.padding = dilation, padding if isinstance(padding, str) else (0,) * len(kernel)
    if not isinstance(padding, str):
        set_padding(conv, [(p, p) if isinstance(p, int) else (p[0], p[1]) for p in padding])
    set_checked_dilation(conv, dilation)  # checks it, and updates torch's second copy of the padding
    if described["branches"] is not None:
        entries, rule = described["branches"]
        take_over(conv, [dilation], entries=entries, rule=rule)


def load_into(model: nn.Module, description: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Load a state_dict into a network that has the described convs already; branches and their centres may differ.

    Raises:
        ValueError: naming the first layer that is another one, or if the state_dict does not fit; nothing is changed
            then, but where torch itself loads in part.
    """
    found = describe(model)
    if other := sorted(description.keys() ^ found.keys()):
        raise ValueError(f"layer {other[0]!r} is in only one of the network and the file")
    for name, conv in found.items():
        for key, value in conv.items():
            if conv["branches"] is not None and key in ("dilation", "padding"):
                continue  # come with the state_dict
            if description[name].get(key) != value:
                given = description[name].get(key)
                raise ValueError(f"layer {name!r} has {key} {value} in the network and {given} in the file")
    _load(model, state)


def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    for key in model.state_dict():
        if key.rpartition(".")[2] == "branch_weight" and key not in state:
            raise ValueError(f"{key!r} is missing: it is the checkpoint of a network without these branches")
    try:
        model.load_state_dict(cast(Any, state))
    except (RuntimeError, TypeError, AttributeError) as error:
        # torch lists every key on a line of its own; the first few are enough.
        raise ValueError(f"the weights are of another network: {' '.join(str(error).splitlines()[:3])[:400]}") from None
