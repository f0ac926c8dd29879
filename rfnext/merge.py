"""What to do with a searched network: keep its branches, or fold them into plain convs for export.

A structure as plain convs, one dilation each, is `Structure.apply`.
"""

import logging
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from rfnext.conv import (
    Conv,
    SearchConv,
    check_release,
    dense_kernel,
    release,
    set_dilation,
    size_keeping_padding,
    take_over,
    unsearchable,
    warn_of_causal,
)
from rfnext.dilation import Dilation, neighbours
from rfnext.search.local import LocalConfig
from rfnext.structure import Structure, searched_convs

log = logging.getLogger(__name__)


def keep_branches(model: nn.Module, structure: Structure, config: LocalConfig) -> None:
    """Make every conv of the structure multi-branch, around its dilation; the probabilities are trained, nothing moves.

    This is the papers' multi-branch network ("fixed_multi_branch"), to be trained from scratch or fine-tuned.

    Args:
        model: changed in place; build the optimizer afterwards.
        structure: centres.
        config: spread, branches, bounds and rule of the branches; interval and rounds play no part.

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


def merge(model: nn.Module) -> None:
    """Turn every SearchConv into one plain conv that computes the same function, in place.

    All branches become one larger kernel (see `rfnext.conv.dense_kernel`), which may be trained further: the papers'
    "merge" (RF-Next, rfmerge). Weight parametrisations (weight_norm) are folded in as well. Build optimizers
    afterwards. The kernel grows with the largest dilation; the log gives its size.

    With padding_mode "reflect" or "circular" torch's convs pad by less than the input's length ("circular": by no more
    than it); searched ones go on beyond it. On inputs so short the merged conv computes nothing: torch raises
    RuntimeError in forward().

    Raises:
        ValueError: naming a layer that no plain conv can express; nothing is changed then.
    """
    folded = {}
    for name, conv in searched_convs(model).items():
        for hook in _weight_norm_hooks(conv):
            hook(conv, ())  # it refreshes the weight in forward() only; an optimizer step may have passed since
        try:
            check_release(conv)
            _check_weight(conv)
            folded[name] = (conv, *dense_kernel(conv))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
    for name, (conv, weight, dilation, padding) in folded.items():
        _become_dense(conv, weight, dilation, padding)
        log.info("%s: merged into kernel %s, dilation %s", name, tuple(weight.shape[2:]), dilation)


def _weight_norm_hooks(conv: nn.Module) -> list[WeightNorm]:
    """The hooks of torch's older weight_norm, which is not a parametrisation."""
    return [hook for hook in conv._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]


def _check_weight(conv: nn.Module) -> None:
    """Raise ValueError if a hook makes the weight before each forward(): it would overwrite the merged one."""
    own = "weight" in conv._parameters or parametrize.is_parametrized(conv, "weight")
    if not own and not _weight_norm_hooks(conv):
        raise ValueError(
            "a hook makes its weight (torch's older spectral_norm, pruning); make it permanent first, e.g. by "
            "torch.nn.utils.remove_spectral_norm() or torch.nn.utils.prune.remove()"
        )


def _become_dense(conv: SearchConv, weight: Tensor, dilation: Dilation, padding: tuple[int, ...]) -> None:
    plain = cast(Conv, conv)
    trainable = any(p.requires_grad for name, p in conv.named_parameters() if name.split(".")[-1] not in _NOT_WEIGHT)
    plain.dilation = dilation
    plain.kernel_size = tuple(weight.shape[2:])
    if plain.padding != "same":
        plain.padding = padding
    release(conv)
    if parametrize.is_parametrized(plain, "weight"):
        # torch deletes the weight's property from the class, which copies of the module share: without a class of
        # its own, merging a copy would break the network that is still being searched.
        own = {key: value for key, value in vars(type(plain)).items() if key not in ("__dict__", "__weakref__")}
        cast(Any, plain).__class__ = type(type(plain).__name__, type(plain).__bases__, own)
        parametrize.remove_parametrizations(plain, "weight")
    for _ in _weight_norm_hooks(plain):
        remove_weight_norm(plain)
    plain.weight = nn.Parameter(weight, requires_grad=trainable)
    set_dilation(plain, dilation)  # brings torch's second copy of the padding in line


_NOT_WEIGHT = ("bias", "branch_weight")


def plain_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """A searched network's state_dict without what plain convs lack: it then loads into a plain network, strictly.

    Branches and probabilities are dropped: apply the structure to the plain network as well.
    """
    prefixes = {key.removesuffix("_extra_state") for key in state if key.endswith("_extra_state")}
    searched = {prefix for prefix in prefixes if prefix + "branch_weight" in state}
    extra = {prefix + key for prefix in searched for key in ("branch_weight", "_extra_state")}
    return {key: value for key, value in state.items() if key not in extra}
