"""Local search: refine dilations while the network trains (RF-Next, arXiv 2206.06637, section 3.3).

Every searched conv is evaluated at a few dilations around its centre, its branches, with learnt probabilities. Every so
often a round is run: the centre moves to the expected dilation, and the branches are placed around it anew.
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from rfnext.convs.padding import AnchorOf, kernel_to_search
from rfnext.convs.searchable import Layers, everything
from rfnext.convs.set_dilation import set_dilation
from rfnext.dilation import expectation
from rfnext.search.local_config import LocalConfig
from rfnext.search.searched_network import Layout, SearchedNetwork
from rfnext.structure import Structure
from rfnext.ties import Tie

log = logging.getLogger(__name__)


class LocalSearch(SearchedNetwork):
    """Searches the dilations of a model's convs while the model is trained.

        search = LocalSearch(model, LocalConfig(interval=1, rounds=10))
        optimizer = torch.optim.AdamW(model.parameters())       # after the search: it trains the branch weights, too
        for epoch in range(20):
            train_one_epoch(model, optimizer)
            search.after_step()
        search.structure().save("structure.json")

    The convs are taken over in place (`rfnext.convs.take_over`), starting from their own dilations. Build the search
    before or after loading the weights, but before the optimizer, DDP and torch.compile.

    Whatever its dilation, a conv keeps its output size and the place of one tap, the anchor: the kernel's centre, or by
    anchor="last" its last tap, which keeps causal networks causal. Searched convs choose the fastest of several
    implementations by measuring; for two runs with equal bits, train under `rfnext.reproducible`.

    Args:
        model: any network.
        config: settings.
        where: which of the searchable convs take part: a function of a layer's name and conv, a glob of names
            ("layer4" picks all in it), or a list of globs; see `rfnext.Layers`.
        anchor: "centre" or "last" for all convs; a tuple with one per axis, such as ("centre", "last") for images of
            (frequency, time); or a function of a layer's name and conv that returns one of these. None is "centre", but
            for convs to which an earlier search or structure has given another.
        example: an input of the model, (batch, channel, *size), longer than its receptive field. The model is called
            with it, in eval mode, to find the layers by which it would lose its output size, or its causality, at other
            dilations. Without it, there is a warning of convs whose padding looks causal.
        tie: groups of layer names that get one dilation. Convs whose kernels are added for deployment, as by timm's
            `reparameterize_model`, and LoRA's beside the ones that they adapt are found without.

    Raises:
        ValueError: if no conv is left to search; the message says why each was passed over. If DDP wraps it already.
            If another search of the model has learnt probabilities that would be lost. If an anchor does not fit its
            conv or, as the example shows, the model.
        TypeError: if the config, `where` or `tie` is something else.
    """

    def __init__(
        self,
        model: nn.Module,
        config: LocalConfig,
        where: Layers = everything,
        anchor: AnchorOf = None,
        example: Tensor | None = None,
        tie: Tie = (),
    ) -> None:
        if not isinstance(config, LocalConfig):
            raise TypeError(f"LocalSearch takes a LocalConfig, got a {type(config).__name__}")
        self.config = config
        entries, rule = config.branches, config.rule
        layout = Layout(config.dilations_of, entries, rule, anchor, example, tie)
        super().__init__(model, where, layout)
        self._warn_of_bounds()
        if config.rule == "default":
            for name, conv in self._plain():
                set_dilation(conv, config.bounds.clip_searched(self.initial[name], kernel_to_search(conv)))

    def _warn_of_bounds(self) -> None:
        """Log which designed dilations lie outside the bounds, where different ones become equal before the search."""
        bounds = self.config.bounds
        moved = [
            f"{name}: {designed} to branches {', '.join(map(str, self.convs[name].dilations))}"
            for name, conv in self._plain()
            if bounds.clip_searched(designed := self.initial[name], kernel_to_search(conv)) != designed
        ]
        if moved:
            log.warning(
                "%d of %d searched layers have a dilation outside %s and are brought inside: %s%s",
                *(len(moved), len(self.convs), bounds, "; ".join(moved[:3]), "; ..." if len(moved) > 3 else ""),
            )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The model's parameters as one group: the published searches train branch weights as all others."""
        return [{"params": list(self.model.parameters())}]

    def after_step(self) -> bool:
        """Count one step; run a round if one is due. Returns whether one was run.

        Call it after every epoch, or after every iteration: `LocalConfig.interval` counts these calls. Under
        distributed training call it on every rank: all have the same weights and arrive at the same dilations.

        Raises:
            RuntimeError: naming the layer. At a round, if the search has ended, by `merge` or `Structure.apply`, or if
                ranks differ. At any step, if an average of the weights (EMA) still has the branches of before the
                last round.
        """
        step = self.step + 1
        due = self.round < self.config.rounds and step % self.config.interval == 0
        self._check_step(step, self.config, due)
        self.step = step
        if not due:
            return False
        self._check_learning("the last round")
        before = {name: tuple(conv.dilation) for name, conv in self._plain()}
        structure = self._estimate()
        self._note_round(structure)
        for name, conv in self._plain():
            set_dilation(conv, structure[name])
            self.convs[name].set_branches(self.config.dilations_of(tuple(conv.dilation), kernel_to_search(conv)))
        self._averages.note_round(self.convs)
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()  # the compiled graphs hold the old dilations; after 8 such, torch compiles no more
        moved = sum(structure[name] != d for name, d in before.items())
        log.info("round %d at step %d: %d of %d dilations moved", self.round, self.step, moved, len(before))
        log.debug("round %d: %s", self.round, dict(structure))
        return True

    def _estimate(self) -> Structure:
        c = self.config
        probability = self.probability()
        # By the published arithmetic, rounding moves even a layer that has learnt nothing: 1 to 2 by branches 1 and 2.
        unmoved = self._unmoved() if c.rule == "paper" else ()
        estimates = {}
        for name, conv in self._plain():
            dilations = self.convs[name].dilations
            try:
                estimates[name] = expectation(probability[name], dilations, c.bounds, c.rule, tuple(conv.dilation))
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}; did the training diverge?") from None
            if name in unmoved:
                estimates[name] = c.bounds.clip_searched(tuple(conv.dilation), kernel_to_search(conv))
        return self._structure_of(estimates)

    def structure(self) -> Structure:
        """The structure found so far.

        By rule "default" that includes what the probabilities learnt since the last round; by rule "paper" it is the
        centre of the last round, as in the published files.

        Raises RuntimeError if the search has ended.
        """
        if self.config.rule == "paper":
            return self._structure_of({name: tuple(conv.dilation) for name, conv in self._plain()})
        return self._estimate()

    def state_dict(self) -> dict[str, Any]:
        """What the search needs to go on: counters, history and branches; numbers, strings, lists and dicts only.

        The branch weights are parameters and saved with the model's own state_dict.
        """
        return {"version": 2, "config": asdict(self.config), **self._progress()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. The branches and counters are set; the config stays the one given.

        Raises:
            ValueError: if it is no such state, or the searched layers differ; nothing is changed then.
        """
        keys = {"version", "config", "step", "initial", "history", "branches"}
        if not isinstance(state, Mapping) or set(state) - {"tied"} != keys or state["version"] not in (1, 2):
            raise ValueError("not the state of a LocalSearch of this version of rfnext")
        self._load_progress(state)
        if (before := state["config"]) != asdict(self.config):
            log.warning("the search goes on with %s; it began with %s", asdict(self.config), before)
