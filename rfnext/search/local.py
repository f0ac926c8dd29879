"""Local search: refine dilations while the network trains (RF-Next, arXiv 2206.06637, section 3.3).

Every searched conv is evaluated at a few dilations around its centre. Every so often a round is run: the centre moves
to the dilation that the learnt probabilities mean, and the branches are laid out around it anew.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import nn

from rfnext.conv import Conv, Where, everything, set_dilation
from rfnext.dilation import Bounds, Dilation, Rule, as_integer, check_rule, expectation, neighbours
from rfnext.search import searched
from rfnext.search.protocol import Round
from rfnext.structure import Structure, named_convs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalConfig:
    """Settings of the local search. The defaults are those of the published detection runs."""

    interval: int = 1
    """Steps (epochs or iterations: whoever calls `after_step` decides) between two rounds."""
    rounds: int = 10
    """How many rounds are run; after the last one the probabilities go on learning until training ends.
    The published max_step, which is exclusive, gives (max_step - 1) // interval rounds."""
    spread: float = 0.5
    """Distance of the outermost branches from the centre, as a share of the centre. By rule "default" it is at least
    one step: well below 0.5, a round changes small dilations by a larger share than large ones."""
    branches: int = 2
    """Dilations per conv."""
    bounds: Bounds = field(default_factory=lambda: Bounds(1, 24))
    """Smallest and largest dilation. Designed dilations outside are brought inside, which is logged."""
    rule: Rule = "default"
    """"default", or "paper" for exactly the published arithmetic."""

    def __post_init__(self) -> None:
        check_rule(self.rule)
        for name in ("interval", "rounds", "branches"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))
        if not isinstance(self.bounds, Bounds):
            given = ", ".join(map(str, self.bounds)) if isinstance(self.bounds, (tuple, list)) else "1, 24"
            raise TypeError(f"bounds is {self.bounds!r}; give Bounds({given})")
        if self.interval < 1 or self.rounds < 0:
            raise ValueError(f"interval must be >= 1 and rounds >= 0, got {self.interval} and {self.rounds}")
        # neighbours() validates the rest; better here than at the first conv.
        neighbours((1,), (3,), spread=self.spread, branches=self.branches, bounds=self.bounds, rule=self.rule)


class LocalSearch:
    """Searches the dilations of a model's convs while somebody else trains it.

        search = LocalSearch(model, LocalConfig(interval=1, rounds=10))
        optimizer = torch.optim.AdamW(model.parameters())       # after the search: it must see the branch weights
        for epoch in range(20):
            train_one_epoch(model, optimizer)
            search.after_step()
        search.structure().save("structure.json")

    The convs are taken over in place (`rfnext.conv`), starting from their own dilations. Build the search after the
    weights are loaded or before, as you like, but before the optimizer, DDP and torch.compile. `keep_gradients` trains
    the probabilities on batches of their own, as DARTS does.

    A conv keeps its size and the place of its kernel's centre whatever its dilation, so networks that are causal do not
    stay causal unless they are written as the docstring of `rfnext.conv` shows. Searched convs choose the fastest of
    several implementations by stopwatch; for equal runs that give equal bits, train under `rfnext.reproducible`.

    Args:
        model: any network.
        config: settings.
        where: which of the searchable convs take part.
        spread: a schedule instead of `config.spread`: the spread of the branches that are laid out after that many
            rounds, asked for 0 to `config.rounds`. State dicts hold the values; a search that is resumed with others
            logs it and goes on with its own.

    Raises:
        ValueError: if no conv is left to search; the message says why each was passed over. If DDP wraps it already.
            If the schedule gives something that is no spread. If another search of the model has learnt probabilities
            that would be lost.
        TypeError: if the config or `where` is something else.
    """

    def __init__(
        self,
        model: nn.Module,
        config: LocalConfig,
        where: Where = everything,
        *,
        spread: Callable[[int], float] | None = None,
    ) -> None:
        if not isinstance(config, LocalConfig):
            raise TypeError(f"LocalSearch takes a LocalConfig, got a {type(config).__name__}")
        self.model = model
        self.config = config
        self.step = 0
        self.history: list[Round] = []
        self._spreads = [config.spread if spread is None else spread(done) for done in range(config.rounds + 1)]
        for value in set(self._spreads):
            replace(config, spread=value)  # validates it
        designed = {name: tuple(conv.dilation) for name, conv in named_convs(model).items()}
        self._convs = searched.take_over_all(
            model,
            where,
            lambda conv: self._neighbours(tuple(conv.dilation), conv),
            entries=config.branches,
            rule=config.rule,
        )
        self.initial = Structure({name: designed[name] for name in self._convs})
        self._warn_of_bounds()
        if config.rule == "default":
            for name, conv in self._plain():
                set_dilation(conv, config.bounds.clip_searched(self.initial[name], conv.kernel_size))

    def _plain(self) -> list[tuple[str, Conv]]:
        return searched.plain(self._convs)

    def _neighbours(self, centre: Dilation, conv: Conv) -> list[Dilation]:
        c, spread = self.config, self._spreads[self.round]
        return neighbours(centre, conv.kernel_size, spread=spread, branches=c.branches, bounds=c.bounds, rule=c.rule)

    def _warn_of_bounds(self) -> None:
        """Say which designed dilations the bounds leave out: unlike ones become alike before anything is searched."""
        bounds = self.config.bounds
        moved = [
            f"{name}: {designed} to branches {', '.join(map(str, self._convs[name].dilations))}"
            for name, conv in self._plain()
            if bounds.clip_searched(designed := self.initial[name], conv.kernel_size) != designed
        ]
        if moved:
            log.warning(
                "%d of %d searched layers have a dilation outside %s and are brought inside: %s%s",
                *(len(moved), len(self._convs), bounds, "; ".join(moved[:3]), "; ..." if len(moved) > 3 else ""),
            )

    def branch_weights(self) -> list[nn.Parameter]:
        """The trainable weights of all branches, for a parameter group of their own (no weight decay, say)."""
        return searched.branch_weights(self._convs)

    def keep_gradients(self, of: searched.Trained) -> None:
        """Between backward() and the optimizer's step, leave gradients to the weights or to the probabilities alone;
        see `rfnext.search.searched.keep_gradients`."""
        searched.keep_gradients(self.model, self._convs, of)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The model's parameters for an optimizer: here one group, since published searches train all parameters alike;
        `OneShotSearch` has two."""
        return [{"params": list(self.model.parameters())}]

    @property
    def round(self) -> int:
        """Rounds run so far."""
        return len(self.history)

    def after_step(self) -> bool:
        """Count one step; run a round if one is due. Returns whether one was run.

        Call it after every epoch, or after every iteration: `LocalConfig.interval` counts these calls. Under
        distributed training call it on every rank: all hold the same weights and come to the same dilations.
        """
        self.step += 1
        if self.round >= self.config.rounds or self.step % self.config.interval:
            return False
        searched.check_learning(self._convs, "LocalSearch", "the last round")
        before = {name: tuple(conv.dilation) for name, conv in self._plain()}
        structure = self._estimate()
        self.history.append(
            Round(
                step=self.step,
                dilations={name: list(conv.dilations) for name, conv in self._convs.items()},
                probability=self.probability(),
                structure=dict(structure),
            )
        )
        for name, conv in self._plain():
            set_dilation(conv, structure[name])
            self._convs[name].set_branches(self._neighbours(structure[name], conv))
        if "torch._dynamo" in sys.modules:
            torch.compiler.reset()  # the compiled graphs hold the old dilations; past 8 such, torch compiles no more
        moved = sum(structure[name] != d for name, d in before.items())
        log.info("round %d at step %d: %d of %d dilations moved", self.round, self.step, moved, len(before))
        log.debug("round %d: %s", self.round, dict(structure))
        return True

    def probability(self) -> dict[str, list[float]]:
        """Share of each branch now, per layer."""
        return searched.probability(self._convs)

    def _estimate(self) -> Structure:
        c = self.config
        probability = self.probability()
        estimates = {}
        for name, conv in self._plain():
            dilations = self._convs[name].dilations
            try:
                estimates[name] = expectation(probability[name], dilations, c.bounds, c.rule, tuple(conv.dilation))
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}; did the training diverge?") from None
        return Structure(estimates)

    def structure(self) -> Structure:
        """The structure found so far.

        By rule "default" that includes what the probabilities learnt since the last round; by rule "paper" it is the
        centre of the last round, as in the published files.
        """
        if self.config.rule == "paper":
            return Structure({name: tuple(conv.dilation) for name, conv in self._plain()})
        return self._estimate()

    def copy_to(self, model: nn.Module) -> None:
        """Give another copy of the searched model the same branches and branch weights; averaging (EMA) copies need it
        after a round.

        Raises:
            ValueError: naming a layer that the copy lacks or that is not searched there.
        """
        searched.copy_branches(self._convs, model)

    def _settings(self) -> dict[str, Any]:
        """The config; if there is a schedule, with the spread after each number of rounds."""
        scheduled = set(self._spreads) != {self.config.spread}
        return asdict(self.config) | ({"spread": list(self._spreads)} if scheduled else {})

    def state_dict(self) -> dict[str, Any]:
        """What the search needs to go on: counters, history and branches; numbers, strings, lists and dicts only.

        The branch weights are parameters and travel with the model's own state_dict.
        """
        return {
            "version": 1,
            "config": self._settings(),
            "step": self.step,
            "initial": {name: list(d) for name, d in self.initial.items()},
            "history": [r.state_dict() for r in self.history],
            "branches": searched.branch_state(self._convs),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`. The branches and counters are set; the config stays the one given.

        Raises:
            ValueError: if it is no such state, or the searched layers differ; nothing is changed then.
        """
        keys = {"version", "config", "step", "initial", "history", "branches"}
        if not isinstance(state, Mapping) or set(state) != keys or state["version"] != 1:
            raise ValueError("not the state of a LocalSearch of this version of rfnext")
        branches = searched.check_branch_state(self._convs, state["branches"])
        if (before := state["config"]) != self._settings():
            log.warning("the search goes on with %s; it began with %s", self._settings(), before)
        for name, conv in self._convs.items():
            conv.set_extra_state(branches[name])
        self.step = int(state["step"])
        self.initial = Structure({name: tuple(d) for name, d in state["initial"].items()})
        self.history = [Round.from_state(r) for r in state["history"]]
