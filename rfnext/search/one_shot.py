"""One-shot search: all candidate dilations in one training.

The genetic search (`evolution.py`) trains every structure that it scores. Here every searched conv has all candidates,
1, 2, 4, ... 1024 say, as branches of one network. Their probabilities are trained with the weights, and the structure
is read out at the end. That is affordable because the number of products of the operator does not grow with the number
of branches (`rfnext.ops`). A local search can then refine the coarse structure.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from rfnext.convs.conv import INITIAL_WEIGHT, check_branches
from rfnext.convs.padding import AnchorOf
from rfnext.convs.searchable import Layers, everything
from rfnext.convs.set_dilation import set_dilation
from rfnext.dilation import Dilation, as_integer, log2_expectation, searched_axis
from rfnext.search.searched_network import Layout, SearchedNetwork
from rfnext.structure import Structure
from rfnext.ties import Tie

if TYPE_CHECKING:  # the library itself needs torch alone
    import numpy as np

log = logging.getLogger(__name__)

Readout = Literal["log2", "argmax"]
"""How a structure is read out of probabilities; see `OneShotConfig.readout`."""


def powers_of_two(longest: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to the largest power of two below `longest`, the length of the longest input of a conv.

    A dilation of that length or more reads nothing but padding. Raises ValueError below 3: nothing to choose from.
    """
    longest = as_integer("the longest input", longest)
    if longest < 3:
        raise ValueError(f"the longest input is {longest}: there is no dilation to choose from below 3")
    return tuple(2**exponent for exponent in range((longest - 1).bit_length()))


@dataclass(frozen=True)
class OneShotConfig:
    """Settings of the one-shot search.

    Raises:
        ValueError: naming the field that is out of its range.
    """

    candidates: tuple[int, ...] = powers_of_two(1025)
    """Dilations that every conv chooses from, increasing; see `powers_of_two`."""
    readout: Readout = "log2"
    """How `structure()` reads the probabilities p of the candidates d: "log2", 2 ** sum(p log2 d), rounded, which
    may lie between candidates; "argmax", the most probable candidate."""
    learning_rate: float = 0.1
    """Of the logits; see `OneShotSearch.parameter_groups`. Adam moves a parameter by about its learning rate, so 10
    steps can raise a candidate's share over another's by the factor e squared."""
    sharpen: float = 1.0
    """Annealing: after every step the logits are multiplied by this, so that the softmax comes closer to a choice;
    1.0 does not change them."""
    warmup: int = 0
    """Steps in which all candidates keep the same share and only the weights are trained: the output of a random kernel
    does not depend usefully on a dilation."""
    interval: int = 1
    """Steps between two entries of `history`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(as_integer("one of the candidates", d) for d in self.candidates))
        for name in ("warmup", "interval"):
            object.__setattr__(self, name, as_integer(name, getattr(self, name)))
        c = self.candidates
        if len(c) < 2 or c[0] < 1 or list(c) != sorted(set(c)):
            raise ValueError(f"candidates {c!r} are not two or more increasing positive integers")
        if self.readout not in get_args(Readout):
            raise ValueError(f"unknown readout {self.readout!r}; known: {', '.join(get_args(Readout))}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be positive")
        if not (math.isfinite(self.sharpen) and self.sharpen >= 1):
            raise ValueError(f"sharpen is {self.sharpen}; it must be at least 1")
        if self.interval < 1 or self.warmup < 0:
            raise ValueError(f"interval must be >= 1 and warmup >= 0, got {self.interval} and {self.warmup}")

    def dilations_of(self, designed: Dilation, kernel: tuple[int, ...]) -> list[Dilation]:
        """The branches that a conv gets: every candidate on the axes that are searched.

        Its kernel as `kernel_to_search` counts it.
        """
        free = [searched_axis(k) for k in kernel]
        return [
            tuple(candidate if f else d for f, d in zip(free, designed, strict=True)) for candidate in self.candidates
        ]


class OneShotSearch(SearchedNetwork):
    """Searches the coarse dilations of a model's convs while the model is trained, once.

        search = OneShotSearch(model, OneShotConfig(candidates=powers_of_two(longest)))
        optimizer = torch.optim.Adam(search.parameter_groups(), lr=5e-4)
        for epoch in range(50):
            train_one_epoch(model, optimizer)
            search.after_step()
        search.structure().apply(fresh_model)                   # then refine by LocalSearch, or train

    It can be used wherever a `LocalSearch` can: in the Lightning callback, in checkpoints, with EMA, DDP and AMP. All
    axes of a conv get the same dilation; axes whose kernel is 1, or even and anchored at the centre, keep theirs.
    Probabilities are softmax(branch_weight / 0.01) and start equal. For equal bits of two runs, train under
    `rfnext.reproducible`. The search is this library's own; relaxing a choice to a softmax is that of DARTS (Liu et
    al., ICLR 2019, arXiv 1806.09055).

    Args:
        model: any network; what its dilations are does not matter to the search.
        config: settings.
        where: as in `LocalSearch`.
        anchor: as in `LocalSearch`.
        example: as in `LocalSearch`.
        tie: as in `LocalSearch`.

    Raises:
        ValueError: as `LocalSearch` does.
        TypeError: if the config, `where` or `tie` is something else.
    """

    def __init__(
        self,
        model: nn.Module,
        config: OneShotConfig,
        where: Layers = everything,
        anchor: AnchorOf = None,
        example: Tensor | None = None,
        tie: Tie = (),
    ) -> None:
        if not isinstance(config, OneShotConfig):
            raise TypeError(f"OneShotSearch takes a OneShotConfig, got a {type(config).__name__}")
        self.config = config
        super().__init__(
            model, where, Layout(config.dilations_of, len(config.candidates), "default", anchor, example, tie)
        )
        self._freeze()

    def _freeze(self) -> None:
        """Keep the shares while it warms up."""
        for conv in self.convs.values():
            # Not requires_grad_(False): DDP would then leave the weight out for good. Nor a hook, which is lost when
            # fully_shard() replaces the weight.
            conv.frozen = self.step < self.config.warmup

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The model's parameters for an optimizer: all others, then the branch weights at their own learning rate.

        A schedule that multiplies the learning rates of all groups alike suits both.
        """
        own = {id(weight) for weight in self.branch_weights()}
        others = [parameter for parameter in self.model.parameters() if id(parameter) not in own]
        # The config's is that of the logits: probabilities are softmax(branch_weight / 0.01).
        return [
            {"params": others},
            {"params": self.branch_weights(), "lr": self.config.learning_rate * INITIAL_WEIGHT},
        ]

    def after_step(self) -> bool:
        """Count one step (an epoch or an iteration) and sharpen the probabilities.

        Returns whether an entry was added to `history`. Under distributed training call it on every rank. Raises
        RuntimeError as `LocalSearch.after_step` does.
        """
        step = self.step + 1
        due = step % self.config.interval == 0
        self._check_step(step, self.config, due)
        self.step = step
        self._freeze()
        if self.config.sharpen > 1:
            with torch.no_grad():
                for weight in self.branch_weights():
                    # The softmax does not depend on the mean of the logits; scaled around it, none grows without limit.
                    weight.copy_((weight - weight.mean()) * self.config.sharpen + INITIAL_WEIGHT)
        if not due:
            return False
        if self.step > self.config.warmup:
            self._check_learning("the search began")
        self._note_round(self.structure())
        log.info("step %d: mean entropy of the probabilities %.2f bits", self.step, self.entropy())
        return True

    def entropy(self) -> float:
        """Mean over layers of -sum p log2 p, in bits: log2(candidates) at the start, 0 when every layer has chosen."""
        shares = self.probability().values()
        return sum(-p * math.log2(p) for share in shares for p in share if p > 0) / len(shares)

    def structure(self, readout: Readout | None = None) -> Structure:
        """The structure that the probabilities mean now; `readout` overrides the config's.

        Raises ValueError, naming the layer, if a probability is not a number; RuntimeError if the search has ended.
        """
        readout = readout or self.config.readout
        shares = self.probability().items()
        return self._structure_of(
            {name: _read_out(name, share, self.convs[name].dilations, readout) for name, share in shares}
        )

    def sample(self, rng: "np.random.Generator") -> Structure:
        """A structure drawn from the probabilities, every layer on its own (tied ones together).

        To be ranked by a short evaluation.
        """
        drawn: dict[int, Dilation] = {}
        for name, share in self.probability().items():
            total = sum(share)  # float32 sums to 1 only nearly
            conv = self.convs[name]
            if id(conv.branch_weight) not in drawn:
                choice = rng.choice(len(share), p=[p / total for p in share])
                drawn[id(conv.branch_weight)] = conv.dilations[choice]
        return self._structure_of({name: drawn[id(conv.branch_weight)] for name, conv in self.convs.items()})

    def choose(self, structure: Mapping[str, Dilation]) -> None:
        """Make the model compute with one branch per layer, for ranking structures by the shared weights.

        Changes the branches: keep a copy of `model.state_dict()` to come back.

        Raises:
            ValueError: if the structure is of other layers than the search, or of another anchor, or a dilation does
                not fit its conv; nothing is changed then.
        """
        if different := set(structure) ^ set(self.convs):
            raise ValueError(f"the structure differs in {len(different)} layers, {sorted(different)[0]!r} first")
        self._check_going()
        wanted = structure if isinstance(structure, Structure) else Structure(structure)
        chosen = list(wanted.match(self.model))
        for name, conv, dilation in chosen:
            wanted.anchor(name, conv)  # raises if it is another
            try:
                check_branches([dilation], conv, entries=1)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from None
        for name, conv, dilation in chosen:
            set_dilation(conv, dilation)
            self.convs[name].set_branches([dilation])

    def state_dict(self) -> dict[str, Any]:
        """What the search needs to go on; numbers, strings, lists and dicts only.

        The branch weights are parameters and saved with the model's own state_dict.
        """
        config = {**asdict(self.config), "candidates": list(self.config.candidates)}
        return {"version": 2, "kind": "one_shot", "config": config, **self._progress()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: if it is no such state, or the layers or candidates differ; nothing is changed then.
        """
        keys = {"version", "kind", "config", "step", "initial", "history", "branches"}
        is_state = isinstance(state, Mapping) and set(state) - {"tied"} == keys
        if not is_state or state["version"] not in (1, 2) or state["kind"] != "one_shot":
            raise ValueError("not the state of a OneShotSearch of this version of rfnext")
        self._check_branches(state)
        if state["config"]["candidates"] != list(self.config.candidates):
            raise ValueError(
                f"the state is of a search over {state['config']['candidates']}, this one is over "
                f"{list(self.config.candidates)}"
            )
        self._load_progress(state)
        self._freeze()


def _read_out(name: str, share: Sequence[float], dilations: Sequence[Dilation], readout: Readout) -> Dilation:
    if not math.isfinite(sum(share)):
        raise ValueError(f"layer {name!r}: the probabilities are {list(share)}; did the training diverge?")
    if readout == "argmax":
        return dilations[max(range(len(share)), key=share.__getitem__)]
    return log2_expectation(share, dilations)
