"""Averaged copies of a searched network (EMA): an error if they mix weights of old branches and of new ones."""

import weakref
from collections.abc import Mapping
from typing import Any

import torch

from rfnext.convs.conv import SearchConv, whole
from rfnext.convs.copies import copies_of
from rfnext.dilation import Dilation

_Branches = tuple[tuple[Dilation, ...], list[float]]


class Averages:
    """Watches the deep copies of searched convs.

    A copy keeps its branches, which is right for a snapshot. An average goes on to change after a round: then it mixes
    weights that were trained by different branches, unless it has got the new ones.
    """

    def __init__(self) -> None:
        # Of every copy whose branches are no longer those of its original: the layer, the original, and its own
        # branches and weights then.
        self._outdated: weakref.WeakKeyDictionary[SearchConv, tuple[str, SearchConv, _Branches]] = (
            weakref.WeakKeyDictionary()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Averages, ()  # a search that is pickled leaves the copies of its network behind

    def note_round(self, convs: Mapping[str, SearchConv]) -> None:
        """Remember what the copies are like, when the convs have just got new branches."""
        for name, conv in convs.items():
            for twin in copies_of(conv):
                if isinstance(twin, SearchConv) and twin.dilations != conv.dilations:
                    self._outdated.setdefault(twin, (name, conv, _branches(twin)))

    def check(self) -> None:
        """Raise RuntimeError, naming a layer, if a copy has changed since that round without getting its branches."""
        for twin, (name, conv, before) in list(self._outdated.items()):
            searched = isinstance(twin, SearchConv) and twin in copies_of(conv)
            # With others than before it has loaded a state_dict.
            if not searched or twin.dilations == conv.dilations or twin.dilations != before[0]:
                del self._outdated[twin]
            elif twin.branch_weight.grad is None and _branches(twin) != before:
                raise RuntimeError(
                    f"layer {name!r}: a copy of the network has been averaged (EMA?) with weights that were trained by "
                    f"the branches {list(conv.dilations)}, while its own are {list(twin.dilations)}, as before the "
                    "last round. Give it the new ones after each round: if search.after_step(): search.copy_to(ema)"
                )


def _branches(conv: SearchConv) -> _Branches:
    with torch.no_grad():
        return conv.dilations, whole(conv.branch_weight).tolist()
