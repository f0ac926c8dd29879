"""A network while its convs are searched: what every search does with it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from rfnext.causal import check_by_example
from rfnext.conv import SearchConv, take_over
from rfnext.dilation import Dilation, Rule
from rfnext.padding import AnchorOf, Conv, anchored, warn_of_causal
from rfnext.search.protocol import Round
from rfnext.searchable import Where, unsearchable
from rfnext.structure import Structure, named_convs

log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """Which branches the convs get.

    dilations: the branches of a conv, given the conv. entries: the most that a conv can have. rule: see `SearchConv`.
    anchor, example: see `LocalSearch`.
    """

    dilations: Callable[[Conv], Sequence[Dilation]]
    entries: int
    rule: Rule
    anchor: AnchorOf
    example: Tensor | None


class SearchedNetwork:
    """What the searches share: the convs that they took over, step and history, branch weights and probabilities.

    Args:
        model: any network; its convs are taken over in place.
        where: which of the searchable convs take part.
        layout: their branches and anchors.

    Attributes:
        convs: the searched convs by name, as in `model.named_modules()`.
        initial: the dilations that they had before.
        step: number of `after_step` calls so far.
        history: the rounds so far.

    Raises:
        ValueError: if no conv is left to search; the message says why each was passed over. If DDP wraps the model,
            which would leave the branch weights out. If a conv has learnt probabilities in another search, which would
            be lost. If an anchor does not fit its conv, or not the network as the example shows. Nothing is changed
            then.
        TypeError: if `where` is not a function.
    """

    def __init__(self, model: nn.Module, where: Where, layout: Layout) -> None:
        self.model = model
        self.step = 0
        self.history: list[Round] = []
        designed = {name: tuple(conv.dilation) for name, conv in named_convs(model).items()}
        self.convs = _take_over_all(model, where, layout)
        self.initial = self._structure_of({name: designed[name] for name in self.convs})

    @property
    def round(self) -> int:
        """Entries of `history` so far."""
        return len(self.history)

    def branch_weights(self) -> list[nn.Parameter]:
        """The trainable weights of all branches, for a parameter group of their own (no weight decay, say)."""
        self._check_going()
        return [conv.branch_weight for conv in self.convs.values()]

    def probability(self) -> dict[str, list[float]]:
        """Share of each branch now, per layer."""
        self._check_going()
        with torch.no_grad():
            # One transfer for all layers: on a GPU each one waits for the device.
            flat = torch.cat([conv.probability for conv in self.convs.values()]).tolist()
        result, start = {}, 0
        for name, conv in self.convs.items():
            result[name] = flat[start : start + len(conv.dilations)]
            start += len(conv.dilations)
        return result

    def copy_to(self, model: nn.Module) -> None:
        """Give another copy of the searched model the same branches and branch weights.

        Copies that average the weights (EMA) need it after a round.

        Raises:
            ValueError: naming a layer that the copy lacks or that is not searched there.
        """
        self._check_going()
        copies = named_convs(model)
        for name, conv in self.convs.items():
            copy = copies.get(name)
            if not isinstance(copy, SearchConv):
                raise ValueError(f"layer {name!r} is not a searched conv of the copy; copy the model after wrapping it")
            copy.set_extra_state(conv.get_extra_state())
            with torch.no_grad():  # an average over weights that were of other branches means nothing
                copy.branch_weight.copy_(conv.branch_weight)

    # For the searches.

    def _structure_of(self, dilations: Mapping[str, Dilation]) -> Structure:
        """The structure of these dilations at the searched convs' anchors."""
        return Structure.of(cast(dict[str, Conv], self.convs), dilations)

    def _plain(self) -> list[tuple[str, Conv]]:
        """The same convs, annotated as plain convs, from which their class inherits."""
        self._check_going()
        return [(name, cast(Conv, conv)) for name, conv in self.convs.items()]

    def _check_going(self) -> None:
        """Raise RuntimeError if a conv is no longer searched, since the model was merged or a structure applied."""
        for name, conv in self.convs.items():
            if not isinstance(conv, SearchConv):
                raise RuntimeError(
                    f"this search has ended: layer {name!r} is a plain {type(conv).__name__} now, by merge() or "
                    "Structure.apply(); what it found is in its `history`, or read structure() before"
                )

    def _check_learning(self, since: str) -> None:
        """Log a warning if no branch weight was ever updated, so that nothing is searched."""
        self._check_going()
        searching = [conv for conv in self.convs.values() if len(conv.dilations) > 1]
        if searching and all(map(_is_untrained, searching)):
            log.warning(
                "no branch weight has changed since %s: was the optimizer built before %s, "
                "or from parameters that leave `branch_weights()` out?",
                since,
                type(self).__name__,
            )

    def _note_round(self, structure: Structure) -> None:
        """Add a round that arrives at this structure to the history."""
        self.history.append(
            Round(
                step=self.step,
                dilations={name: list(conv.dilations) for name, conv in self.convs.items()},
                probability=self.probability(),
                structure=dict(structure),
            )
        )

    def _progress(self) -> dict[str, Any]:
        """The part of a search's state that all searches have; numbers, strings, lists and dicts only."""
        self._check_going()
        return {
            "step": self.step,
            "initial": {name: list(d) for name, d in self.initial.items()},
            "history": [r.state_dict() for r in self.history],
            "branches": {name: conv.get_extra_state().tolist() for name, conv in self.convs.items()},
        }

    def _check_branches(self, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The branches of a state that `_progress` gave, as the tensors that `SearchConv.set_extra_state` takes.

        Raises:
            ValueError: if they are of other layers, or an entry does not fit its conv.
            RuntimeError: if the search has ended.
        """
        self._check_going()
        rows = state["branches"]
        if different := set(rows) ^ set(self.convs):
            raise ValueError(
                f"the state is of a search over other layers; {len(different)} differ, {sorted(different)[0]!r} first"
            )
        branches = {name: torch.tensor(r, dtype=torch.int64) for name, r in rows.items()}
        for name, conv in self.convs.items():
            try:
                conv.check_extra_state(branches[name])
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from None
        return branches

    def _load_progress(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `_progress` gave; raises as `_check_branches`, and changes nothing then."""
        branches = self._check_branches(state)
        for name, conv in self.convs.items():
            conv.set_extra_state(branches[name])
        self.step = int(state["step"])
        self.initial = self._structure_of({name: tuple(d) for name, d in state["initial"].items()})
        self.history = [Round.from_state(r) for r in state["history"]]


def _take_over_all(model: nn.Module, where: Where, layout: Layout) -> dict[str, SearchConv]:
    """Make every searchable conv that `where` picks a SearchConv with the branches that `layout` gives it."""
    if not callable(where):
        raise TypeError(
            f"where is {where!r}, not a function of a layer's name and conv; "
            "lambda name, conv: name.startswith('layer4.'), for example"
        )
    if any(isinstance(module, nn.parallel.DistributedDataParallel) for module in model.modules()):
        raise ValueError("build the search before DistributedDataParallel, which else leaves the branch weights out")
    wanted = {name: conv for name, conv in named_convs(model).items() if where(name, conv)}
    with anchored(wanted, layout.anchor, restored=True):
        picked, passed_over = _pick(model, wanted)
    with anchored(picked, layout.anchor):
        for name, conv in picked.items():
            if isinstance(conv, SearchConv) and _has_learnt(conv):
                raise ValueError(
                    f"layer {name!r} is searched already, and what its probabilities have learnt would be lost: read "
                    "that search's structure() and apply it to the model, or to a fresh one, before the next search "
                    "begins"
                )
        branches = {name: layout.dilations(conv) for name, conv in picked.items()}
        if layout.example is not None:
            check_by_example(model, picked, layout.example)
    if layout.example is None:
        warn_of_causal(model, picked)
    for name, conv in picked.items():
        if len(branches[name]) < 2:
            log.info("%s: the bounds leave only dilation %s", name, branches[name][0])
        take_over(conv, branches[name], entries=layout.entries, rule=layout.rule)
    log.info("searching %d of %d convs", len(picked), len(picked) + passed_over)
    return {name: cast(SearchConv, conv) for name, conv in picked.items()}


def _pick(model: nn.Module, wanted: Mapping[str, Conv]) -> tuple[dict[str, Conv], int]:
    """Those of the wanted convs that can be searched, and how many others the model has."""
    picked: dict[str, Conv] = {}
    reasons: dict[str, str] = {}
    for name, conv in named_convs(model).items():
        if name not in wanted:
            reasons[name] = "not picked by `where`"
        elif reason := unsearchable(conv):
            reasons[name] = reason
            if " overrides " in reason:
                log.warning("%s is not searched: %s", name, reason)
        else:
            picked[name] = conv
    if not reasons and not picked:
        raise ValueError(
            "no conv to search: the model has no Conv1d, Conv2d or Conv3d (transposed ones are not searched)"
        )
    if not picked:
        found = "; ".join(f"{name or 'The model itself'}: {reason}" for name, reason in list(reasons.items())[:5])
        raise ValueError(f"no conv to search among the model's {len(reasons)}. {found}")
    return picked, len(reasons)


def _has_learnt(conv: SearchConv) -> bool:
    """Whether the probabilities say more than the conv's dilation, the centre.

    By rule "paper" they never do: the structure of such a search is that of its last round.
    """
    return conv.rule == "default" and not _is_untrained(conv)


def _is_untrained(conv: SearchConv) -> bool:
    """Whether all branches have equal weights, as at the start; decay or sharpening alone leave them equal."""
    weight = conv.branch_weight[: len(conv.dilations)]
    return bool((weight == weight[0]).all())
