"""Which convs of a network a search takes, and why it passes over the others; nothing is changed."""

import logging
from collections.abc import Mapping

import torch
from torch import nn

from rfnext.causal import FOLLOWED, followed
from rfnext.convs.padding import AnchorOf, Conv, anchored
from rfnext.convs.searchable import Layers, chosen, unsearchable
from rfnext.structure import named_convs

log = logging.getLogger(__name__)

NOT_WANTED, NO_DILATION = "not picked by `where`", "has no odd axis"
"""A reason, and what is in the reason of a conv without a dilation to choose."""


def pick(
    model: nn.Module, where: Layers, anchor: AnchorOf, tried: bool = True
) -> tuple[dict[str, Conv], dict[str, str]]:
    """The convs that a search takes by name, and of all others the reason.

    tried: their parents are tried, as it is without an example by which the whole model is.

    Raises:
        ValueError: if an anchor does not fit its conv, or a glob matches none.
        TypeError: if `where` is neither a function nor globs.
    """
    convs = named_convs(model)
    wanted = chosen(convs, where)
    picked: dict[str, Conv] = {}
    reasons: dict[str, str] = {}
    with anchored(wanted, anchor, restored=True):
        for name, conv in convs.items():
            if name not in wanted:
                reasons[name] = NOT_WANTED
            elif reason := unsearchable(conv):
                reasons[name] = reason
            else:
                picked[name] = conv
        moved = followed(model, picked) if tried else []
    return {name: conv for name, conv in picked.items() if name not in moved}, reasons | dict.fromkeys(moved, FOLLOWED)


def log_passed_over(reasons: Mapping[str, str]) -> None:
    """Log a warning of those that a user may expect to be searched: what is wanted and whose kernel has a dilation,
    as those of odd code or with complex or not yet initialised weights."""
    for name, reason in reasons.items():
        if reason not in (NOT_WANTED, FOLLOWED) and NO_DILATION not in reason:
            log.warning("%s is not searched: %s", name, reason)
    if moved := [name for name, reason in reasons.items() if reason == FOLLOWED]:
        log.warning("%s: not searched, %s", ", ".join(moved), FOLLOWED)


def nothing_to_search(model: nn.Module, reasons: Mapping[str, str]) -> str:
    """What the error says of a model without a conv to search."""
    if not reasons and any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return (
            "no conv to search: the model is TorchScript, whose convs are fixed; search the model that it was made of"
        )
    if not reasons:
        return "no conv to search: the model has no Conv1d, Conv2d or Conv3d (transposed ones are not searched)"
    first = sorted(reasons.items(), key=lambda item: NO_DILATION in item[1])[:5]  # kernels of 1 are no news
    found = "; ".join(f"{name or 'The model itself'}: {reason}" for name, reason in first)
    return f"no conv to search among the model's {len(reasons)}. {found}"
