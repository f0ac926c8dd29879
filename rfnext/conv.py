"""SearchConv: a convolution that is evaluated at several dilations at once.

A conv is not replaced but taken over in place: its class is changed to one that inherits from both `SearchConv` and the
conv's own class, and changed back when the search is over. The module object stays the same. So everything that refers
to it still works: state_dict keys, optimizers, forward hooks, weight parametrisations, modules that are used under
several names, `isinstance(module, nn.Conv2d)`.

When a dilation changes, the conv keeps its output size and one tap keeps its place, the anchor: the kernel's centre, or
its last tap, as convs of causal networks need it (`rfnext.padding`). Nothing in a plain conv says that its network is
causal: the parent pads one side, or crops what a padding of (k - 1) d adds. So the anchor is given to a search or a
structure; `rfnext.is_causal` tries a network.
"""

import functools
from collections.abc import Sequence
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from rfnext.dilation import Dilation, Rule, check_rule
from rfnext.ops.mixed_dilation_conv import mixed_dilation_conv
from rfnext.own_forward import why_not_in_place
from rfnext.padding import (
    Anchor,
    Anchors,
    Conv,
    anchor_of,
    anchored,
    padding_attributes,
    size_keeping_padding,
)
from rfnext.searchable import is_conv, plain_class, unsearchable

INITIAL_WEIGHT = 0.01
"""Start of every branch weight, from the published code."""


def set_dilation(conv: Conv, dilation: Dilation) -> None:
    """Give a conv another dilation and the padding that keeps its output size and the position of its anchor.

    The padding moves with the dilation, as `size_keeping_padding` says, so explicit paddings (0, or those of strided
    convs) keep their meaning. A padding that differs before and after, or crops, makes padding_mode "zeros" "constant".
    If the conv's class has a forward() of its own that cannot be tried, the log warns that its place is not verified.

    Raises:
        ValueError: if `dilation` does not fit the conv's number of axes or is not positive; if an even kernel makes
            it impossible to keep the size; or if the conv's class pads or crops in a forward() of its own.
    """
    if not isinstance(conv, SearchConv):
        check_plain(conv, dilation)
    set_checked_dilation(conv, dilation)


def set_checked_dilation(conv: Conv, dilation: Dilation) -> None:
    """What `set_dilation` does, for a dilation that `check_plain` has accepted."""
    set_padding(conv, size_keeping_padding(conv, dilation))
    conv.dilation = dilation


def set_padding(conv: Conv, sides: list[tuple[int, int]]) -> None:
    """Let a conv pad by `sides` (before, after) per axis; negative numbers crop."""
    for name, value in padding_attributes(conv, sides).items():
        setattr(conv, name, value)


def check_plain(conv: Conv, dilation: Dilation) -> None:
    """Raise ValueError unless a plain conv can keep the output size of `conv` at another dilation."""
    size_keeping_padding(conv, dilation)
    if dilation != tuple(conv.dilation) and (reason := why_not_in_place(conv, plain_class(conv), dilation)):
        raise ValueError(reason)


def check_branches(dilations: Sequence[Dilation], conv: Conv, entries: int) -> None:
    """Raise ValueError unless `conv` can have these branches with that many branch weights."""
    if not 1 <= len(dilations) <= entries:
        raise ValueError(f"{len(dilations)} branches for {entries} branch weights")
    for dilation in dilations:
        size_keeping_padding(conv, dilation)


_RULES, _ANCHORS = get_args(Rule), get_args(Anchor)  # checkpoints contain the index


def read_extra_state(state: Tensor) -> tuple[Rule, Dilation, list[Dilation]]:
    """Rule, centre and branches out of a `SearchConv`'s extra state; `read_anchor` has the rest.

    Raises ValueError if the tensor is something else.
    """
    rows: list[Dilation] = [tuple(row) for row in state.tolist()] if state.dim() == 2 else []
    if len(rows) > 1 and _is_anchor(rows[1]):
        rows.pop(1)
    if len(rows) < 3 or not rows[0] or not -len(_RULES) <= rows[0][0] < 0:
        raise ValueError(f"not the rule, centre and branches of a searched conv: {state!r}")
    return _RULES[-1 - rows[0][0]], rows[1], rows[2:]


def read_anchor(state: Tensor) -> tuple[Anchor, ...]:
    """The anchor out of an extra state that `read_extra_state` reads, per axis.

    Convs that are anchored at the centre on every axis have no row for it, as all had before there was another.
    """
    row = state[1].tolist()
    return tuple(_ANCHORS[-1 - n] for n in row) if _is_anchor(row) else (_ANCHORS[0],) * len(row)


def _is_anchor(row: Sequence[int]) -> bool:
    return all(-len(_ANCHORS) <= n < 0 for n in row)


class SearchConv(nn.Module):
    """Weighted sum over dilations of one shared kernel: sum_i p_i conv(x, W, d_i).

    Never constructed directly: `take_over(conv, ...)` turns an existing conv into one and `release(conv)` back.
    Parameter names, output size and everything else stay those of the conv. A checkpoint of the plain conv loads
    (the branches stay as they are); its own checkpoint also holds the branches, their weights, the rule and the anchor,
    so that it always loads as the same function, or not at all. `rfnext.plain_state_dict` drops these two for loading
    into a plain network.

    Attributes:
        dilations: the branches now.
        branch_weight: nn.Parameter, shape (possible branches,); entries beyond `len(dilations)` are idle. Never
            resized, so optimizers keep it.
        rule: how the probabilities p are computed from the weights a of the branches. "paper": p = |a| / sum |a|.
            "default": p = softmax(a / 0.01), which has the same slope at the start (a = 0.01), cannot divide by zero
            and gives a negative weight a small share.
        implementation: passed to `mixed_dilation_conv`.
    """

    plain_class: type[nn.Module]
    branch_weight: nn.Parameter
    rule: Rule
    implementation: str
    _dilations: tuple[Dilation, ...]

    @property
    def dilations(self) -> tuple[Dilation, ...]:
        """The branches now."""
        return self._dilations

    @property
    def probability(self) -> Tensor:
        """Share of each branch in the output, shape (branches,), differentiable."""
        weight = self.branch_weight[: len(self._dilations)]
        if len(self._dilations) == 1:
            # Always 1, but with the weight in the graph, at a gradient of zero: distributed training fails on
            # parameters that get none.
            return torch.ones_like(weight) + 0 * self.branch_weight.sum()
        if self.rule == "paper":
            return weight.abs() / weight.abs().sum()
        return torch.softmax(weight / INITIAL_WEIGHT, dim=0)

    def set_branches(self, dilations: Sequence[Dilation]) -> None:
        """Replace the branches and start their weights anew.

        Raises:
            ValueError: if there is none, or more than `branch_weight` has entries, or one does not fit the kernel.
        """
        check_branches(dilations, cast(Conv, self), self.branch_weight.numel())
        self._dilations = tuple(dilations)
        with torch.no_grad():
            self.branch_weight.fill_(INITIAL_WEIGHT)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        conv = cast(Conv, self)
        return mixed_dilation_conv(
            input,
            weight,
            bias,
            self.probability,
            self._dilations,
            stride=conv.stride,
            padding=[size_keeping_padding(conv, dilation) for dilation in self._dilations],
            groups=conv.groups,
            padding_mode="zeros" if conv.padding_mode == "constant" else conv.padding_mode,
            implementation=self.implementation,
        )

    def extra_repr(self) -> str:
        """What `print` shows of the conv."""
        branches = ", ".join("x".join(map(str, dilation)) for dilation in self._dilations)
        anchor = anchor_of(cast(Conv, self))
        return f"{super().extra_repr()}, branches=[{branches}], rule={self.rule}" + (
            f", anchor={anchor}" if "last" in anchor else ""
        )

    # The rule, the anchor, the centre and the branches are saved in the state_dict, as one int64 tensor of shape
    # (2 or 3 + branches, axes): a resumed search, or a checkpoint opened on its own, must compute the same function.
    # The rows of the rule and the anchor are negative, as no dilation is; there is no row for the anchor "centre".

    def get_extra_state(self) -> Tensor:
        """Rule, anchor, centre and branches, for the state_dict; `read_extra_state` takes it apart."""
        conv = cast(Conv, self)
        rows = [[-1 - _RULES.index(self.rule)] * len(conv.dilation)]
        if "last" in (anchor := anchor_of(conv)):
            rows.append([-1 - _ANCHORS.index(a) for a in anchor])
        return torch.tensor([*rows, conv.dilation, *self._dilations], dtype=torch.int64)

    def check_extra_state(self, state: Any) -> None:
        """Raise ValueError unless `state` is a centre and branches that fit this conv, searched by its rule."""
        kernel = tuple(cast(Conv, self).kernel_size)
        if not isinstance(state, Tensor) or state.dim() != 2 or state.shape[1] != len(kernel):
            raise ValueError(f"not the branches of a conv with kernel {kernel}: {state!r}")
        rule, centre, dilations = read_extra_state(state)
        if (anchor := read_anchor(state)) != (own := anchor_of(cast(Conv, self))):
            raise ValueError(
                f"it was searched with anchor {anchor}, and here it is {own}, by which other dilations read other "
                f"inputs; build the search with anchor={anchor}"
            )
        check_branches(dilations, cast(Conv, self), self.branch_weight.numel())
        size_keeping_padding(cast(Conv, self), centre)
        if rule != self.rule:
            raise ValueError(
                f"the branch weights were learnt by rule {rule!r}, which gives other probabilities than {self.rule!r}; "
                f"take the conv over by rule={rule!r}, as in LocalConfig(rule={rule!r})"
            )

    def set_extra_state(self, state: Any) -> None:
        """Take the centre and branches of `get_extra_state`; raises ValueError as `check_extra_state` does."""
        self.check_extra_state(state)
        _, centre, dilations = read_extra_state(state)
        set_dilation(cast(Conv, self), centre)
        self._dilations = tuple(dilations)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own = {prefix + "branch_weight", prefix + "_extra_state"}
        try:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        except ValueError as error:  # of set_extra_state(), without the layer's name
            error_msgs.append(f"{prefix.removesuffix('.')}: {error}")
        if not own & state_dict.keys():  # the checkpoint of a plain network
            missing_keys[:] = [key for key in missing_keys if key not in own]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made at run time, so pickle cannot find it by name; it can make it again.
        return _remake, (type(self).plain_class,), self.__getstate__()


@functools.cache
def _search_class(plain: type[nn.Module]) -> type[SearchConv]:
    return type(f"Search{plain.__name__}", (SearchConv, plain), {"plain_class": plain, "__module__": __name__})


def _remake(plain: type[nn.Module]) -> SearchConv:
    cls = _search_class(plain)
    return cls.__new__(cls)


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
        conv: any conv for which `unsearchable(conv)` is None.
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
        if reason := unsearchable(conv):
            raise ValueError(f"cannot search {conv}: {reason}")
        check_branches(dilations, conv, entries)
    if not isinstance(conv, SearchConv):
        conv.__class__ = _search_class(type(conv))  # type: ignore[assignment]
        search = cast(SearchConv, conv)
        search.implementation = "auto"
    search = cast(SearchConv, conv)
    weight = conv._parameters.get("branch_weight")
    if weight is None or weight.numel() != entries:
        like = next(conv.parameters())
        # Half precision cannot resolve the small steps that the weights take.
        dtype = torch.promote_types(like.dtype, torch.float32)
        search.branch_weight = nn.Parameter(torch.full((entries,), INITIAL_WEIGHT, device=like.device, dtype=dtype))
    search.rule = rule
    search.set_branches(dilations)


def release(conv: SearchConv) -> None:
    """Turn a `SearchConv` back into the plain conv that it was, at its centre's dilation. Branches are dropped.

    Its anchor stays, for what changes its dilation next.

    Raises:
        ValueError: if a parametrisation was registered after `take_over` (remove it first).
    """
    check_release(conv)
    del conv.branch_weight
    for name in ("rule", "implementation", "_dilations"):
        delattr(conv, name)
    conv.__class__ = type(conv).plain_class  # type: ignore[assignment]


def check_release(conv: SearchConv) -> None:
    """Raise ValueError if something changed the conv's class after `take_over`, so that it has no way back."""
    if type(conv) is not _search_class(type(conv).plain_class):
        raise ValueError(
            f"{type(conv).__name__} was changed after the search began (a parametrisation?); undo that first"
        )
