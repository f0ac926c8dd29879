"""The multi-branch network: every conv of a structure keeps branches around its dilation."""

from torch import nn

from rfnext.causal import check_parents
from rfnext.convs.deployment import guard
from rfnext.convs.padding import Conv, anchored, kernel_to_search, size_keeping_padding, warn_of_causal
from rfnext.convs.searchable import unsearchable
from rfnext.convs.set_dilation import set_dilation
from rfnext.convs.take_over import take_over
from rfnext.dilation import Dilation, neighbours
from rfnext.plain_checkpoint import name_missing_branches
from rfnext.search.local_config import LocalConfig
from rfnext.structure import Structure


def keep_branches(model: nn.Module, structure: Structure, config: LocalConfig) -> None:
    """Give every conv of the structure branches around its dilation: probabilities are trained, dilations stay.

    This is the papers' multi-branch network ("fixed_multi_branch"), to be trained from scratch or fine-tuned. The
    anchors are those of the structure.

    Args:
        model: changed in place; build the optimizer afterwards.
        structure: centres.
        config: spread, branches, bounds and rule of the branches; interval and rounds are not used.

    Raises:
        ValueError: naming a layer that the model lacks, whose conv the entry does not fit, or whose dilation lies
            outside the bounds; nothing is changed then.
        TypeError: if the config is something else.
    """
    if not isinstance(config, LocalConfig):
        raise TypeError(
            f"keep_branches takes a LocalConfig, got a {type(config).__name__}; whichever search found the structure, "
            "its branches lie around it as those of a local search do"
        )
    matched = list(structure.match(model))
    convs = {name: conv for name, conv, _ in matched}
    with anchored(convs, structure.anchor):
        plans = [(conv, centre, _branches(name, conv, centre, config)) for name, conv, centre in matched]
        check_parents(model, convs)
    warn_of_causal(model, convs)
    for conv, centre, branches in plans:
        take_over(conv, branches, entries=config.branches, rule=config.rule)
        set_dilation(conv, centre)
    guard(model, convs)
    name_missing_branches(model)


def _branches(name: str, conv: Conv, centre: Dilation, config: LocalConfig) -> list[Dilation]:
    if reason := unsearchable(conv):
        raise ValueError(f"layer {name!r} cannot have branches: {reason}")
    kernel = kernel_to_search(conv)
    if config.bounds.clip_searched(centre, kernel) != centre:
        raise ValueError(
            f"layer {name!r}: dilation {centre} is outside {config.bounds}, within which its branches would lie; "
            "widen the bounds"
        )
    c = config
    branches = neighbours(centre, kernel, spread=c.spread, branches=c.branches, bounds=c.bounds, rule=c.rule)
    try:
        for dilation in (centre, *branches):
            size_keeping_padding(conv, dilation)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from None
    return branches
