"""Merging: a searched network as plain convs that compute the same function, and its state_dict for a plain network.

A structure as plain convs, one dilation each, is `Structure.apply`.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from rfnext.conv import SearchConv, check_release, release, set_dilation
from rfnext.dilation import Dilation
from rfnext.padding import Conv, size_keeping_padding
from rfnext.structure import searched_convs

log = logging.getLogger(__name__)


def merge(model: nn.Module) -> None:
    """Turn every SearchConv into one plain conv that computes the same function, in place.

    All branches become one larger kernel (see `dense_kernel`), which may be trained further: the papers'
    "merge" (RF-Next, rfmerge). Weight parametrisations (weight_norm) are folded in as well. Build optimizers
    afterwards. The kernel grows with the largest dilation; the log gives its size.

    With padding_mode "reflect" or "circular" torch's convs pad by less than the input's length ("circular": by no more
    than it); searched ones continue beyond it. On inputs so short the merged conv computes nothing: torch raises
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
        remove_parametrization(plain)
    for _ in _weight_norm_hooks(plain):
        remove_weight_norm(plain)
    plain.weight = nn.Parameter(weight, requires_grad=trainable)
    set_dilation(plain, dilation)  # brings torch's second copy of the padding in line


_NOT_WEIGHT = ("bias", "branch_weight")


def remove_parametrization(conv: nn.Module) -> None:
    """Make a parametrised weight (weight_norm, ...) a plain one, as it is now; copies of the module are unharmed."""
    # torch deletes the weight's property from the class, which copies of the module share: without a class of its
    # own, changing one copy would break the others.
    own = {key: value for key, value in vars(type(conv)).items() if key not in ("__dict__", "__weakref__")}
    cast(Any, conv).__class__ = type(type(conv).__name__, type(conv).__bases__, own)
    weight = cast(Tensor, conv.weight).detach().clone()
    parametrize.remove_parametrizations(conv, "weight")
    conv.weight = nn.Parameter(weight)  # under no_grad, torch leaves a plain tensor


def plain_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """A searched network's state_dict without what plain convs lack: it then loads into a plain network, strictly.

    Branches and probabilities are dropped: apply the structure to the plain network as well.
    """
    prefixes = {key.removesuffix("_extra_state") for key in state if key.endswith("_extra_state")}
    searched = {prefix for prefix in prefixes if prefix + "branch_weight" in state}
    extra = {prefix + key for prefix in searched for key in ("branch_weight", "_extra_state")}
    return {key: value for key, value in state.items() if key not in extra}


def dense_kernel(conv: SearchConv) -> tuple[Tensor, Dilation, tuple[int, ...]]:
    """Weight, dilation and padding of the one conv that computes the same function as all branches.

    Per axis, the taps of all branches lie on a grid whose step is the greatest common divisor of their distances;
    the kernel covers that grid, zeros where no branch has a tap. It grows with the largest dilation d, to
    (k - 1) d / step + 1 taps.

    Returns:
        weight of shape (channel_out, channel_in / groups, *kernel); dilation and padding (before) per axis.

    Raises:
        ValueError: if even the widest branch crops its input: no plain conv can do that.
    """
    plain = cast(Conv, conv)
    paddings = [size_keeping_padding(plain, dilation) for dilation in conv.dilations]
    indices: list[list[Tensor]] = []  # per axis, per branch: where its taps lie in the new kernel
    steps, padding, sizes = [], [], []
    for axis, kernel in enumerate(plain.kernel_size):
        # Positions relative to the output's origin: aligned over branches whatever their padding.
        taps = [
            [tap * dilation[axis] - sides[axis][0] for tap in range(kernel)]
            for dilation, sides in zip(conv.dilations, paddings, strict=True)
        ]
        start, end = min(map(min, taps)), max(map(max, taps))
        if start > 0:
            raise ValueError(f"all branches of {conv} crop their input on axis {axis}; no plain conv can do that")
        step = math.gcd(*(position - start for branch in taps for position in branch)) or 1
        indices.append([torch.tensor([(position - start) // step for position in branch]) for branch in taps])
        steps.append(step)
        sizes.append((end - start) // step + 1)
        padding.append(-start)
    with torch.no_grad():
        weight = plain.weight
        folded = weight.new_zeros(*weight.shape[:2], *sizes)
        for branch, probability in enumerate(conv.probability.to(weight.dtype)):
            grid = torch.meshgrid(*(axis[branch] for axis in indices), indexing="ij")
            folded[(slice(None), slice(None), *grid)] += probability * weight
    return folded, tuple(steps), tuple(padding)
