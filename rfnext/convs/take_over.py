"""Taking a conv over for a search, in place, and giving it back as the plain conv that it was."""

from collections.abc import Sequence
from typing import cast

from rfnext.acceleration import decelerate
from rfnext.convs.conv import SearchConv, check_branches, fresh_weight, parametrised_search_class, search_class
from rfnext.convs.copies import forget_copy
from rfnext.convs.padding import Anchors, Conv, anchored
from rfnext.convs.searchable import is_conv, way_of_search
from rfnext.convs.set_dilation import PADS
from rfnext.dilation import Dilation, Rule, check_rule
from rfnext.ops.repeated import CALLS


def take_over(
    conv: Conv,
    dilations: Sequence[Dilation],
    *,
    entries: int | None = None,
    rule: Rule = "default",
    anchor: Anchors | None = None,
) -> None:
    """Turn a conv into a `SearchConv` in place, with the given branches and fresh branch weights.

    The conv's own dilation stays as the centre. If it is a SearchConv already, only the branches, their weights and
    the rule are replaced.

    Args:
        conv: any conv for which `rfnext.convs.searchable.unsearchable` is None.
        dilations: the branches.
        entries: size of `branch_weight`, at least the number of branches (default: just that).
        rule: see `SearchConv`.
        anchor: the tap that stays in place; None leaves it as it is, "centre" in a conv that no search or structure
            has changed.

    Raises:
        ValueError: if the conv cannot be searched or a branch does not fit it.
        TypeError: if it is no conv.
    """
    check_rule(rule)
    if not is_conv(conv):
        raise TypeError(f"{type(conv).__name__} is no Conv1d, Conv2d or Conv3d")
    entries = entries or len(dilations)
    with anchored({type(conv).__name__: conv}, anchor):
        way = way_of_search(conv)
        if way.reason:
            raise ValueError(f"cannot search {conv}: {way.reason}")
        check_branches(dilations, conv, entries)
    if not isinstance(conv, SearchConv):
        decelerate(conv)
        parametrised = set(conv._modules.get("parametrizations") or ()) & vars(type(conv)).keys()  # type: ignore
        made = (parametrised_search_class if parametrised else search_class)(type(conv), way.redirected)
        conv.__class__ = made  # type: ignore[assignment]
        search = cast(SearchConv, conv)
        vars(conv)[PADS] = way.pads
        search.implementation = "auto"
    search = cast(SearchConv, conv)
    forget_copy(search)
    weight = conv._parameters.get("branch_weight")
    if weight is None or weight.numel() != entries:
        search.branch_weight = fresh_weight(entries, next(conv.parameters()))
    search.rule = rule
    search.frozen = False
    search.set_branches(dilations)


def release(conv: SearchConv) -> None:
    """Turn a `SearchConv` back into the plain conv that it was, at its centre's dilation. Branches are dropped.

    Its anchor stays, for what changes its dilation next.

    Raises:
        ValueError: if a parametrisation was registered after `take_over` (remove it first).
    """
    check_release(conv)
    del conv.branch_weight
    for name in ("rule", "implementation", "frozen", "longest_input", "_dilations", PADS, CALLS):
        vars(conv).pop(name, None)
    conv.__class__ = type(conv).plain_class  # type: ignore[assignment]


def check_release(conv: SearchConv) -> None:
    """Raise ValueError if something changed the conv's class after `take_over`, so that it has no way back."""
    if hasattr(conv.branch_weight, "full_tensor"):
        raise ValueError("it is sharded; apply the structure to a fresh model, or load the full state_dict into one")
    if "plain_class" not in vars(type(conv)):
        raise ValueError(
            f"{type(conv).__name__} was changed after the search began (a parametrisation?); undo that first"
        )
