"""What a searched conv adds to a state_dict besides its branch weights: rule, anchor, centre and branches, as a tensor.

A resumed search, or a checkpoint opened on its own, must compute the same function. The tensor is int64, of shape
(2 or 3 + branches, axes). The rows of the rule and the anchor are negative, as no dilation is. Convs that are anchored
at the centre on every axis have no row for it, as all had before there was another anchor.
"""

from typing import NamedTuple, get_args

import torch
from torch import Tensor

from rfnext.convs.padding import Anchor
from rfnext.dilation import Dilation, Rule

_RULES, _ANCHORS = get_args(Rule), get_args(Anchor)  # checkpoints contain the index


class BranchState(NamedTuple):
    """Rule, anchor per axis, centre and branches of a `SearchConv`."""

    rule: Rule
    anchor: tuple[Anchor, ...]
    centre: Dilation
    branches: list[Dilation]

    def write(self) -> Tensor:
        """The tensor that `read` takes apart."""
        rows = [[-1 - _RULES.index(self.rule)] * len(self.centre)]
        if "last" in self.anchor:
            rows.append([-1 - _ANCHORS.index(a) for a in self.anchor])
        return torch.tensor([*rows, self.centre, *self.branches], dtype=torch.int64)

    @classmethod
    def read(cls, state: Tensor) -> "BranchState":
        """Take a searched conv's extra state apart; raises ValueError if the tensor is something else."""
        rows: list[Dilation] = [tuple(row) for row in state.tolist()] if state.dim() == 2 else []
        anchor = (-1,) * state.shape[-1] if state.dim() else ()
        if len(rows) > 1 and all(-len(_ANCHORS) <= n < 0 for n in rows[1]):
            anchor = rows.pop(1)
        if len(rows) < 3 or not rows[0] or not -len(_RULES) <= rows[0][0] < 0:
            raise ValueError(f"not the rule, centre and branches of a searched conv: {state!r}")
        return cls(_RULES[-1 - rows[0][0]], tuple(_ANCHORS[-1 - n] for n in anchor), rows[1], rows[2:])
