"""The multi-branch network: every conv of a structure keeps branches around its dilation."""

from torch import nn

from rfnext.conv import set_dilation, take_over
from rfnext.deployment import guard
from rfnext.dilation import neighbours
from rfnext.padding import size_keeping_padding, warn_of_causal
from rfnext.search.local import LocalConfig
from rfnext.searchable import unsearchable
from rfnext.structure import Structure


def keep_branches(model: nn.Module, structure: Structure, config: LocalConfig) -> None:
    """Give every conv of the structure branches around its dilation: probabilities are trained, dilations stay.

    This is the papers' multi-branch network ("fixed_multi_branch"), to be trained from scratch or fine-tuned.

    Args:
        model: changed in place; build the optimizer afterwards.
        structure: centres.
        config: spread, branches, bounds and rule of the branches; interval and rounds are not used.

    Raises:
        ValueError: naming a layer that the model lacks, whose conv the entry does not fit, or whose dilation lies
            outside the bounds; nothing is changed then.
    """
    plans = []
    for name, conv, centre in structure.match(model):
        if reason := unsearchable(conv):
            raise ValueError(f"layer {name!r} cannot have branches: {reason}")
        if config.bounds.clip_searched(centre, conv.kernel_size) != centre:
            raise ValueError(
                f"layer {name!r}: dilation {centre} is outside {config.bounds}, within which its branches would lie; "
                "widen the bounds"
            )
        branches = neighbours(
            centre,
            conv.kernel_size,
            spread=config.spread,
            branches=config.branches,
            bounds=config.bounds,
            rule=config.rule,
        )
        try:
            for dilation in (centre, *branches):
                size_keeping_padding(conv, dilation)
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
        plans.append((conv, centre, branches))
    warn_of_causal({name: conv for name, conv, _ in structure.match(model)})
    for conv, centre, branches in plans:
        take_over(conv, branches, entries=config.branches, rule=config.rule)
        set_dilation(conv, centre)
    guard(model, {name: conv for name, conv, _ in structure.match(model)})
