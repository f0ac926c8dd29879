"""Merging: a searched network as plain convs that compute the same function, and its state_dict for a plain network.

A structure as plain convs, one dilation each, is `Structure.apply`.
"""

import logging
import math
from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from rfnext.convs.conv import SearchConv
from rfnext.convs.effective import Kernel, effective
from rfnext.convs.padding import Conv, size_keeping_padding
from rfnext.convs.set_dilation import pads_by_dilation, set_padding
from rfnext.convs.take_over import check_release, release
from rfnext.dilation import Dilation
from rfnext.structure import searched_convs

log = logging.getLogger(__name__)


def merge(model: nn.Module) -> None:
    """Turn every SearchConv into one plain conv that computes the same function, in place.

    All branches become one larger kernel (see `dense_kernel`), which may be trained further: the papers'
    "merge" (RF-Next, rfmerge). Weight parametrisations (weight_norm) are folded in as well, as they are in eval mode.
    Build optimizers afterwards. The kernel grows with the largest dilation; the log gives its size.

    A conv keeps its class, unless the class makes another weight of a larger kernel (weight standardisation, masks,
    binary weights): then it becomes torch's own conv with the kernel that the class computed in eval mode. It can be
    trained further, but its weight is no longer transformed; the class's other parameters and buffers are dropped, and
    the log names it. If the class also changes its input or output, that is an error.

    With padding_mode "reflect" or "circular" torch's convs pad by less than the input's length ("circular": by no more
    than it); searched ones continue beyond it. On inputs so short the merged conv computes nothing: torch raises
    RuntimeError in forward().

    A module that reads a conv's weight itself, without calling the conv, computes something else afterwards. A warning
    names the layers that were not called, if others were.

    Raises:
        ValueError: naming a layer that no plain conv can express, or if no conv is searched; nothing is changed then.
    """
    folded = {}
    if not (convs := searched_convs(model)):
        raise ValueError(
            "nothing to merge: the model has no searched conv; merge the network that was searched, or to which "
            "keep_branches() gave branches, before its branches are dropped (plain_state_dict, Structure.apply)"
        )
    _warn_of_uncalled(convs)
    for name, conv in convs.items():
        for hook in _weight_norm_hooks(conv):
            hook(conv, ())  # it refreshes the weight in forward() only; an optimizer step may have passed since
        try:
            check_release(conv)
            _check_weight(conv)
            weight = _evaluated_weight(conv)
            folded[name] = (
                conv,
                effective(cast(Conv, conv), type(conv).plain_class, weight, partial(dense_kernel, conv)),
            )
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from None
    for name, (conv, merged) in folded.items():
        searched_class = type(conv).plain_class
        _become_dense(conv, *merged.kernel)
        if merged.plain:
            _become_torchs(cast(Conv, conv), merged.bias)
            log.warning(
                "%s: a %s, which would change the merged kernel, becomes a %s; its weight is no longer transformed",
                *(name, searched_class.__name__, type(conv).__name__),
            )
        log.info(
            "%s: merged into kernel %s, dilation %s",
            name,
            tuple(merged.kernel.weight.shape[2:]),
            merged.kernel.dilation,
        )


def _warn_of_uncalled(convs: Mapping[str, SearchConv]) -> None:
    uncalled = [name for name, conv in convs.items() if not conv.longest_input]
    if uncalled and len(uncalled) < len(convs):
        log.warning(
            "%d of %d merged layers were not called, and others were (%s): a module that reads their weight itself "
            "reads a larger kernel now, and computes something else; leave such layers out by `where`",
            *(len(uncalled), len(convs), ", ".join(uncalled)),
        )


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


def _evaluated_weight(conv: nn.Module) -> Tensor:
    """The weight as it is in eval mode: in training a parametrisation may drop a random part of it."""
    made = conv.parametrizations.weight if parametrize.is_parametrized(conv, "weight") else None  # type: ignore[union-attr]
    before = [] if made is None else [(module, module.training) for module in made.modules()]  # type: ignore[operator]
    for module, _ in before:
        module.training = False
    try:
        with torch.no_grad():
            return cast(Tensor, conv.weight)
    finally:
        for module, training in before:
            module.training = training


def _become_torchs(conv: Conv, bias: Tensor | None) -> None:
    """Give a merged conv torch's own class, that bias, and nothing else of its class."""
    trainable = conv.bias is not None and conv.bias.requires_grad
    if parametrize.is_parametrized(conv, "bias"):
        remove_parametrization(conv, "bias")
    for kept in (conv._parameters, conv._buffers, conv._modules):
        for name in kept.keys() - {"weight"}:
            del kept[name]
    conv.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=trainable)
    cast(Any, conv).__class__ = next(cls for cls in type(conv).__mro__ if cls in (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _become_dense(conv: SearchConv, weight: Tensor, dilation: Dilation, padding: list[tuple[int, int]]) -> None:
    plain = cast(Conv, conv)
    trainable = any(p.requires_grad for name, p in conv.named_parameters() if name.split(".")[-1] not in _NOT_WEIGHT)
    plain.dilation = dilation
    plain.kernel_size = tuple(weight.shape[2:])
    if not pads_by_dilation(plain):
        set_padding(plain, padding)
    release(conv)
    if parametrize.is_parametrized(plain, "weight"):
        remove_parametrization(plain)
    for _ in _weight_norm_hooks(plain):
        remove_weight_norm(plain)
    plain.weight = nn.Parameter(weight, requires_grad=trainable)


_NOT_WEIGHT = ("bias", "branch_weight")


def remove_parametrization(conv: nn.Module, name: str = "weight") -> None:
    """Make a parametrised weight (weight_norm, ...) a plain one, as it is now; copies of the module are unharmed."""
    # torch deletes the weight's property from the class, which copies of the module share: without a class of its
    # own, changing one copy would break the others.
    own = {key: value for key, value in vars(type(conv)).items() if key not in ("__dict__", "__weakref__")}
    cast(Any, conv).__class__ = type(type(conv).__name__, type(conv).__bases__, own)
    value = cast(Tensor, getattr(conv, name)).detach().clone()
    parametrize.remove_parametrizations(conv, name)
    setattr(conv, name, nn.Parameter(value))  # under no_grad, torch leaves a plain tensor


def plain_state_dict(state: Mapping[str, Any]) -> dict[str, Any]:
    """A searched network's state_dict without what plain convs lack: it then loads into a plain network, strictly.

    Loaded as it is, torch calls the keys "<layer>.branch_weight" and "<layer>._extra_state" unexpected. Branches and
    probabilities are dropped: apply the structure to the plain network as well.

    Raises TypeError for a checkpoint that holds the state_dict as one of its entries.
    """
    if nested := [key for key, value in state.items() if isinstance(value, Mapping)]:
        raise TypeError(
            f"not a state_dict of tensors, but a checkpoint around one; give its entry, state[{nested[0]!r}] perhaps"
        )
    prefixes = {key.removesuffix("_extra_state") for key in state if key.endswith("_extra_state")}
    searched = {prefix for prefix in prefixes if prefix + "branch_weight" in state}
    extra = {prefix + key for prefix in searched for key in ("branch_weight", "_extra_state")}
    return {key: value for key, value in state.items() if key not in extra}


def dense_kernel(conv: SearchConv, weight: Tensor) -> Kernel:
    """The one kernel that computes with `weight` the same function as all branches.

    Per axis, the taps of all branches lie on a grid whose step is the greatest common divisor of their distances;
    the kernel covers that grid, zeros where no branch has a tap. It grows with the largest dilation d, to
    (k - 1) d / step + 1 taps.
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
        step = math.gcd(*(position - start for branch in taps for position in branch)) or 1
        indices.append([torch.tensor([(position - start) // step for position in branch]) for branch in taps])
        steps.append(step)
        sizes.append((end - start) // step + 1)
        before, after = paddings[0][axis]
        padding.append((-start, after + before + end - (kernel - 1) * conv.dilations[0][axis]))
    with torch.no_grad():
        folded = weight.new_zeros(*weight.shape[:2], *sizes)
        for branch, probability in enumerate(conv.probability.to(weight.dtype)):
            grid = torch.meshgrid(*(axis[branch] for axis in indices), indexing="ij")
            folded[(slice(None), slice(None), *grid)] += probability * weight
    return Kernel(folded, tuple(steps), padding)
