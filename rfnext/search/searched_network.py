"""A network while its convs are searched: what every search does with it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from rfnext.causal import check_by_example
from rfnext.convs.branch_state import BranchState
from rfnext.convs.conv import SearchConv, whole
from rfnext.convs.deployment import guard
from rfnext.convs.padding import AnchorOf, Conv, anchored, kernel_to_search, warn_of_causal
from rfnext.convs.searchable import Layers
from rfnext.convs.take_over import take_over
from rfnext.dilation import Dilation, Rule
from rfnext.plain_checkpoint import name_missing_branches
from rfnext.plots import trajectories
from rfnext.search.averages import Averages
from rfnext.search.history import pack, unpack
from rfnext.search.picking import log_passed_over, nothing_to_search, pick
from rfnext.search.protocol import Round, Search
from rfnext.search.ranks import check_ranks, check_unwrapped
from rfnext.search.summary import LayerSummary, Summary
from rfnext.structure import Structure, named_convs
from rfnext.ties import Tie, check_ties, share_weights, tied

log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """Which branches the convs get.

    dilations: the branches of a conv, given its dilation and its kernel as `kernel_to_search` counts it.
    entries: the most that a conv can have. rule: see `SearchConv`.
    anchor, example: see `LocalSearch`.
    tie: groups of layers that get one dilation, besides those that `rfnext.ties` finds.
    """

    dilations: Callable[[Dilation, tuple[int, ...]], Sequence[Dilation]]
    entries: int
    rule: Rule
    anchor: AnchorOf
    example: Tensor | None
    tie: Tie = ()


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
        TypeError: if `where` is neither a function nor globs.
    """

    def __init__(self, model: nn.Module, where: Layers, layout: Layout) -> None:
        self.model = model
        self.step = 0
        self.history: list[Round] = []
        self._warned = False
        self._averages = Averages()
        self._compared = False  # with the other ranks
        self._reported: set[str] = set()  # layers that do not learn
        designed = {name: tuple(conv.dilation) for name, conv in named_convs(model).items()}
        self.convs, self._ties = _take_over_all(model, where, layout)
        self.initial = self._structure_of({name: designed[name] for name in self.convs})

    @property
    def round(self) -> int:
        """Entries of `history` so far."""
        return len(self.history)

    def branch_weights(self) -> list[nn.Parameter]:
        """The trainable weights of all branches, for a parameter group of their own (no weight decay, say).

        Tied convs have one together.
        """
        self._check_going()
        return list({id(conv.branch_weight): conv.branch_weight for conv in self.convs.values()}.values())

    def parameters_to_clip(self) -> list[nn.Parameter]:
        """The model's parameters whose gradients are clipped together: all but branch weights; by rule "paper" all.

            torch.nn.utils.clip_grad_norm_(search.parameters_to_clip(), 1.0)

        Of a branch weight a, which moves in steps of a hundredth, the gradient is a hundred times that of the logit
        a / 0.01. In some networks it is most of the norm of all, and a clipped step of the others is then several times
        smaller than without a search. The published searches, which rule "paper" follows, clip all parameters together.
        """
        own = {id(conv.branch_weight) for conv in self.convs.values() if conv.rule == "default"}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in own]

    def probability(self) -> dict[str, list[float]]:
        """Share of each branch now, per layer: numbers that sum to 1."""
        self._check_going()
        with torch.no_grad():
            # One transfer for all layers: on a GPU each one waits for the device.
            flat = torch.cat([conv.probability for conv in self.convs.values()]).tolist()
        result, start = {}, 0
        for name, conv in self.convs.items():
            result[name] = flat[start : start + len(conv.dilations)]
            start += len(conv.dilations)
        return result

    def summary(self) -> Summary:
        """What the search has come to: dilation before, branches, probabilities and dilation now, per layer.

        Its `str` is a table, which `print(search)` shows. Under `fully_shard` every rank must ask.

        Raises RuntimeError if the search has ended.
        """
        probability, now = self.probability(), cast(Search, self).structure()
        layers = [
            LayerSummary(
                *(name, tuple(conv.kernel_size), self.initial[name], self.convs[name].dilations),
                *(probability[name], now[name]),
            )
            for name, conv in self._plain()
        ]
        return Summary(type(self).__name__, self.step, self.round, layers)

    def plot(self, axis: int = -1) -> Any:
        """The dilations of all layers, round by round, as a figure of matplotlib; see `rfnext.plots.trajectories`.

        axis: of the kernels, if these have several.

        Raises ImportError without matplotlib.
        """
        return trajectories([self.initial, *(round_.structure for round_ in self.history)], axis)

    def __str__(self) -> str:
        """The table of `summary()`, or why there is none any more."""
        try:
            return str(self.summary())
        except RuntimeError as error:
            return f"{type(self).__name__}: {error}"

    def copy_to(self, model: nn.Module) -> None:
        """Give another copy of the searched model the same branches and branch weights.

        Copies that average the weights need it after a round: timm's ModelEmaV2 and V3, torch's AveragedModel.

            ema.update(model)                   # after every optimizer step
            if search.after_step():
                search.copy_to(ema)

        The averaged weights stay, the averaged probabilities begin anew, as the model's own. An average that goes on
        by its old branches is an error in the next `after_step()`.

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
                sharded = hasattr(copy.branch_weight, "full_tensor")
                copy.branch_weight.copy_(conv.branch_weight if sharded else whole(conv.branch_weight))

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

    def _check_step(self, step: int, config: Any, due: bool) -> None:
        """Raise RuntimeError if the search cannot take this step: before a round on every rank, if one cannot.

        And if the ranks differ, then and at the first step, by which they know that their rounds are at the same steps.
        """
        alone = self._compared and not due
        problem = None
        try:
            self._averages.check()
            if not alone:
                self._check_going()
        except RuntimeError as error:
            problem = error
        if not alone:
            check_ranks(f"step {step} after {self.round} rounds by {config}", self.convs, problem)
        elif problem:
            raise problem
        self._compared = True

    def _check_learning(self, since: str) -> None:
        """Log a warning with the layers, once each, whose branch weights were not updated, so that nothing is searched.

        Raises ValueError if tied convs differ, by a loaded checkpoint.
        """
        check_ties(self._ties, dict(self._plain()), {name: conv.dilations for name, conv in self.convs.items()})
        unmoved = self._unmoved()
        if unmoved and len(unmoved) == sum(len(conv.dilations) > 1 for conv in self.convs.values()):
            log.warning(
                "no branch weight has changed since %s: was the optimizer built before %s, from parameters that leave "
                "`branch_weights()` out, or has it made no step (gradients are accumulated, or AMP skipped it)?",
                since,
                type(self).__name__,
            )
        elif unmoved := unmoved - self._reported:
            self._reported |= unmoved
            log.warning(
                "%d of %d searched layers do not learn: their branch weights have not changed since %s, and they keep "
                "their dilations (%s); are they frozen, under torch.no_grad(), replaced, or not called (by a parent "
                "that reads their weight), or does the optimizer leave them out?",
                *(len(unmoved), len(self.convs), since, ", ".join(name for name in self.convs if name in unmoved)),
            )

    def _unmoved(self) -> set[str]:
        """The layers with several branches, all of equal weight, as at the start: they have learnt nothing.

        A gradient that is not zero moves the weights apart by either rule, weight decay or sharpening alone do not.
        """
        several = {name: conv for name, conv in self.convs.items() if len(conv.dilations) > 1}
        # One transfer for all layers, as in `probability`.
        equal = torch.stack([conv.equal_weights() for conv in several.values()]).tolist() if several else []
        return {name for name, same in zip(several, equal, strict=True) if same}

    def _warn_of_padding(self) -> None:
        """Log, once, which layers have branches that read padding only, or that no plain conv can compute."""
        beyond = {name: found for name, conv in self.convs.items() if (found := conv.beyond_input())}
        unpadded = {name: found for name, conv in self.convs.items() if (found := conv.beyond_padding())}
        if not (beyond or unpadded) or self._warned:
            return
        self._warned = True
        for layers, what in (
            (beyond, "as long as their inputs, so that all taps but the centre's read padding"),
            (
                unpadded,
                'by which torch cannot pad ("reflect", "circular"): a plain network with them raises an error',
            ),
        ):
            if not layers:
                continue
            name, dilations = next(iter(layers.items()))
            log.warning(
                "%d of %d searched layers have branches %s: %s, by dilation %s for example; set smaller bounds "
                "(candidates), or leave them out by `where`",
                *(len(layers), len(self.convs), what),
                ", ".join(list(layers)[:5]) + (", ..." if len(layers) > 5 else ""),
                f"{', '.join(map(str, dilations))} on inputs of at most {self.convs[name].longest_input}",
            )

    def _note_round(self, structure: Structure) -> None:
        """Add a round that arrives at this structure to the history."""
        self._warn_of_padding()
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
            "history": pack(self.history, self.initial),
            "branches": {name: conv.get_extra_state().tolist() for name, conv in self.convs.items()},
            "tied": sorted(map(sorted, self._ties)),
        }

    def _check_branches(self, state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The branches of a state that `_progress` gave, as the tensors that `SearchConv.set_extra_state` takes.

        Raises:
            ValueError: if they are of other layers, or of other ties, or an entry does not fit its conv.
            RuntimeError: if the search has ended.
        """
        self._check_going()
        rows = state["branches"]
        if different := set(rows) ^ set(self.convs):
            raise ValueError(
                f"the state is of a search over other layers; {len(different)} differ, {sorted(different)[0]!r} first"
            )
        own = sorted(map(sorted, self._ties))
        saved = [list(group) for group in state.get("tied", own)]  # states of before have none
        if other := [group for group in (*saved, *own) if group not in saved or group not in own]:
            raise ValueError(
                f"the state is of a search with other ties; {len(other)} groups differ, {other[0]} first: tied layers "
                "have one branch weight together; give the search the `tie` of the saved one"
            )
        branches = {name: torch.tensor(r, dtype=torch.int64) for name, r in rows.items()}
        for name, conv in self.convs.items():
            try:
                conv.check_extra_state(branches[name])
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from None
        found = {name: BranchState.read(tensor).branches for name, tensor in branches.items()}
        check_ties(self._ties, dict(self._plain()), found)
        return branches

    def _load_progress(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `_progress` gave; raises as `_check_branches`, and changes nothing then."""
        branches = self._check_branches(state)
        initial = self._structure_of({name: tuple(d) for name, d in state["initial"].items()})
        self.history = unpack(state["history"], initial)
        self.initial = initial
        for name, conv in self.convs.items():
            conv.set_extra_state(branches[name])
        self.step = int(state["step"])
        self._compared = False


def _take_over_all(model: nn.Module, where: Layers, layout: Layout) -> tuple[dict[str, SearchConv], list[list[str]]]:
    """Make every searchable conv that `where` picks a SearchConv with the branches that `layout` gives it.

    Returns the convs, and the names of those that are tied.
    """
    picked, passed_over = pick(model, where, layout.anchor, tried=layout.example is None)
    log_passed_over(passed_over)
    if not picked:
        raise ValueError(nothing_to_search(model, passed_over))
    check_unwrapped(model, picked)
    with anchored(picked, layout.anchor):
        for name, conv in picked.items():
            if isinstance(conv, SearchConv) and _has_learnt(conv):
                raise ValueError(
                    f"layer {name!r} is searched already, and what its probabilities have learnt would be lost: read "
                    "that search's structure() and apply it to the model, or to a fresh one, before the next search "
                    "begins"
                )
        branches = {
            name: layout.dilations(tuple(conv.dilation), kernel_to_search(conv)) for name, conv in picked.items()
        }
        groups = tied(model, picked, layout.tie)
        check_ties(groups, picked, branches)
        if layout.example is not None:
            check_by_example(model, picked, layout.example)
    if layout.example is None:
        warn_of_causal(model, picked)
    for name, conv in picked.items():
        if len(branches[name]) < 2:
            log.info("%s: the bounds leave only dilation %s", name, branches[name][0])
        take_over(conv, branches[name], entries=layout.entries, rule=layout.rule)
    searched = {name: cast(SearchConv, conv) for name, conv in picked.items()}
    share_weights(groups, searched)
    guard(model, picked)
    name_missing_branches(model)
    log.info("searching %d of %d convs", len(picked), len(picked) + len(passed_over))
    return searched, groups


def _has_learnt(conv: SearchConv) -> bool:
    """Whether the probabilities say more than the conv's dilation, the centre.

    By rule "paper" they never do: the structure of such a search is that of its last round.
    """
    return conv.rule == "default" and not bool(conv.equal_weights())
