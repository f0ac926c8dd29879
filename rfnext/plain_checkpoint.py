"""Checkpoints that lack branch weights, in a searched network: what is said of them.

The checkpoint of a plain network starts a search: it loads strictly, all branches keep equal shares, and the log says
so. A checkpoint that has the branches of some searched layers and not of others is of another search: those that it
lacks are missing keys. One layer cannot tell the two apart, so the network has a hook that sees all keys.
"""

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from rfnext.convs.conv import SearchConv

log = logging.getLogger(__name__)

_OWN = ("branch_weight", "_extra_state")


def name_missing_branches(model: nn.Module) -> None:
    """Let `model.load_state_dict` call those branch weights missing that a checkpoint of another search lacks."""
    hooks = model._load_state_dict_pre_hooks.values()
    if not any(getattr(hook, "hook", None) is _before_loading for hook in hooks):
        model.register_load_state_dict_pre_hook(_before_loading)


def _before_loading(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    prefix: str,
    _metadata: Mapping[str, Any],
    _strict: bool,
    missing_keys: list[str],
    *_: list[str],
) -> None:
    searched = {
        f"{name}." if name else "": module
        for name, module in model.named_modules(prefix=prefix.removesuffix("."), remove_duplicate=False)
        if isinstance(module, SearchConv)
    }
    without = {layer: conv for layer, conv in searched.items() if not any(layer + key in state_dict for key in _OWN)}
    if len(without) < len(searched):
        missing_keys += [layer + key for layer in without for key in _OWN]
        return
    loaded = {key[: end + 1] for key in state_dict for end, letter in enumerate(key) if letter == "."}
    started = [conv for layer, conv in without.items() if layer in loaded and bool(conv.equal_weights())]
    if started:
        log.warning(
            "the checkpoint has no branch weights: %d of %d searched layers begin with equal shares of their branches, "
            "as at the start of a search",
            *(len(started), len(searched)),
        )
