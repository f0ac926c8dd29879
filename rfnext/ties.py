"""Tied convs: those that must have one dilation, since their kernels are added to each other."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from rfnext.convs.conv import SearchConv
from rfnext.convs.deployment import deployment_methods
from rfnext.convs.padding import Conv, anchor_of
from rfnext.dilation import Dilation
from rfnext.structure import canonical, named_convs

log = logging.getLogger(__name__)

Tie = Sequence[Sequence[str]]
"""Groups of layer names; the convs of a group get one dilation."""


def tied(model: nn.Module, picked: Mapping[str, Conv], tie: Tie) -> list[list[str]]:
    """The groups of `picked` convs that get one dilation: those of `tie`, and those that are found.

    Found are convs of equal input, output and stride in a block that can become one conv (`reparameterize()` and the
    like), and LoRA's conv beside the one that it adapts. A layer in two groups joins them.

    Raises:
        ValueError: naming a layer of `tie` that is not among the picked.
        TypeError: if `tie` is not made of groups of names.
    """
    if isinstance(tie, str) or any(isinstance(group, str) for group in tie):
        raise TypeError(f"tie is {tie!r}, not groups of layer names; [['a.conv1', 'a.conv2']], for example")
    for name in (name for group in tie for name in group):
        if canonical(name) not in picked:
            raise ValueError(f"layer {name!r} of tie is not among those that are searched")
    groups = [[canonical(name) for name in group] for group in tie]
    for group in _found(model):
        inside = [name for name in group if name in picked]
        if len(inside) > 1:
            log.info("%s: tied, since their kernels are added to each other", ", ".join(inside))
            groups.append(inside)
        if 0 < len(inside) < len(group):
            log.warning(
                "%s is searched and %s is not: their kernels can no longer be added to each other",
                ", ".join(inside),
                ", ".join(name for name in group if name not in picked),
            )
    return _joined(groups)


def check_ties(
    groups: Iterable[Sequence[str]], convs: Mapping[str, Conv], branches: Mapping[str, Sequence[Dilation]]
) -> None:
    """Raise ValueError, naming two layers, unless all convs of a group have the same anchor and branches."""
    for first, *others in groups:
        for other in others:
            if anchor_of(convs[first]) != anchor_of(convs[other]):
                raise ValueError(f"layers {first!r} and {other!r} cannot be tied: their anchors differ")
            if tuple(branches[first]) != tuple(branches[other]):
                raise ValueError(
                    f"layers {first!r} and {other!r} cannot be tied: their branches are {list(branches[first])} and "
                    f"{list(branches[other])}; give them one dilation before the search, and go on from a state of a "
                    "search in which they were tied"
                )


def share_weights(groups: Iterable[Sequence[str]], convs: Mapping[str, SearchConv]) -> None:
    """Let the convs of a group, and no others, have one parameter as branch weights, and so the same probabilities."""
    taken: set[int] = set()
    for conv in convs.values():
        if id(conv.branch_weight) in taken:  # tied in the search before
            conv.branch_weight = nn.Parameter(conv.branch_weight.detach().clone())
        taken.add(id(conv.branch_weight))
    for first, *others in groups:
        for other in others:
            convs[other].branch_weight = convs[first].branch_weight


def _found(model: nn.Module) -> list[list[str]]:
    convs = named_convs(model)
    blocks: dict[tuple[object, ...], list[str]] = {}
    deployed = [canonical(name) for name, block in model.named_modules() if set(deployment_methods(block)) - {"fuse"}]
    for name, conv in convs.items():
        inside = [block for block in deployed if name.startswith(f"{block}.")]
        if inside and max(conv.kernel_size) > 1:
            axes = tuple(kernel > 1 for kernel in conv.kernel_size)  # a 7 x 7 kernel and a 3 x 3 are added, too
            ends = conv.in_channels, conv.out_channels, conv.groups, conv.stride, tuple(conv.dilation)
            blocks.setdefault((max(inside, key=len), axes, ends), []).append(name)
    adapters = []
    for name, part in model.named_modules():
        base, lora = f"{canonical(name)}.base_layer".removeprefix("."), f"{canonical(name)}.lora_A.".removeprefix(".")
        if base in convs and hasattr(part, "lora_A"):
            adapters.append([base, *(other for other in convs if other.startswith(lora))])
    return [group for group in (*blocks.values(), *adapters) if len(group) > 1]


def _joined(groups: Iterable[Sequence[str]]) -> list[list[str]]:
    joined: list[list[str]] = []
    for group in groups:
        meeting = [other for other in joined if set(other) & set(group)]
        joined = [other for other in joined if other not in meeting]
        joined.append(list(dict.fromkeys(name for part in (*meeting, group) for name in part)))
    return joined
