"""Trainings of the studies at equal cost: short ones, in memory, which can be continued.

They compute what the `training` of a task does, without its checkpoints and loggers, which take as long as a training
itself here. `equal_cost_forecasting` and `equal_cost_segmentation` say what a task adds.
"""

import copy
import math
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Structure, Where
from tasks.spec import Part

SearchConfig = LocalConfig | OneShotConfig

Design = tuple[int, ...]
"""Dilations, one per layer."""

ENDS = (1, 4, 16, 64, 256)
"""First and last dilations of the tuned design."""

RUNGS = (2, 5)
"""Epochs of every candidate of a ranking, and in all of the best of them."""


@dataclass(frozen=True)
class Case(ABC):
    """What every method of a comparison shares: the settings of a training, the fold, the seed, and how a design is
    tuned."""

    config: Any
    fold: int
    seed: int
    ends: tuple[int, ...] = ENDS
    rungs: tuple[int, int] = RUNGS

    @property
    def longest(self) -> int:
        """Largest dilation that a search may choose."""
        return self.config.search.bounds.max

    @property
    @abstractmethod
    def where(self) -> Where:
        """The searched layers."""

    @property
    @abstractmethod
    def batches(self) -> int:
        """Steps of an epoch."""

    @property
    def steps(self) -> int:
        """Of one training, in which budgets are counted."""
        return self.config.epochs * self.batches

    @abstractmethod
    def untrained(self) -> nn.Module:
        """The network, by torch's seed."""

    @abstractmethod
    def training(self, design: Design | None = None, config: SearchConfig | None = None) -> "Training":
        """A training that has not begun; see `Training`."""

    def network(self, design: Design | None = None) -> Any:
        """The untrained network, with the same initial weights whatever its dilations; by default, they double."""
        torch.manual_seed(self.seed)
        network = self.untrained()
        if design is not None:
            names = Structure.read(network, self.where)
            Structure({name: (d,) for name, d in zip(names, design, strict=True)}).apply(network)
        return network


class Training(ABC):
    """One training, as far as it has come.

    Args:
        case: what is trained on.
        design: dilations; None for the hand design.
        config: of a search that runs inside the training.

    step: how far it has come. seconds: of CPU until then, without validation.
    """

    def __init__(self, case: Any, design: Design | None = None, config: SearchConfig | None = None) -> None:
        self.case, self.network = case, case.network(design)
        self.search = _search(self.network, config, case.where)
        self.step, self.seconds = 0, 0.0
        self._best, self._errors = math.inf, list[float]()
        self._weights = self.network.state_dict()
        self.prepare()
        groups = self.search.parameter_groups() if self.search else [{"params": list(self.network.parameters())}]
        self._optimizer = torch.optim.Adam(groups, lr=case.config.lr, fused=True)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]

    @abstractmethod
    def prepare(self) -> None:
        """Read the data, and tell the network what it has to know of it."""

    @abstractmethod
    def rate(self, epoch: int) -> float:
        """Share of the learning rate in an epoch, counted from 0."""

    @abstractmethod
    def loss(self, epoch: int, batch: int) -> Tensor:
        """Of a batch of an epoch, both counted from 0; seeds what is random in it."""

    def scores(self, part: Part) -> dict[str, float]:
        """Of the epoch that is best on the validation part."""
        self.network.load_state_dict(self._weights)
        return self.measure(part)

    @abstractmethod
    def measure(self, part: Part) -> dict[str, float]:
        """Scores of the network as it is."""

    @abstractmethod
    def error(self, scores: dict[str, float]) -> float:
        """What the validation part ranks by; lower is better."""

    def to(self, step: int) -> "Training":
        """Train on, up to a step of the whole schedule; keeps the best epoch's weights if nothing is searched."""
        batches = self.case.batches
        while self.step < step:
            start = time.process_time()
            epoch, batch = divmod(self.step, batches)
            if batch == 0:
                self._schedule(epoch)
            self._optimizer.zero_grad(set_to_none=True)
            self.loss(epoch, batch).backward()
            self._optimizer.step()
            self.step += 1
            if self.search and self.step % batches == 0:
                self.search.after_step()
            self.seconds += time.process_time() - start
            if not self.search and self.step % (batches * self.case.config.validate_every) == 0:
                self._validate()
        return self

    def best_until(self, epoch: int) -> float:
        """Lowest error of the validation part in the first epochs, however many followed; inf if it had diverged."""
        return min(self._errors[: epoch // self.case.config.validate_every])

    def _schedule(self, epoch: int) -> None:
        share = self.rate(epoch)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share

    def _validate(self) -> None:
        value = self.error(self.measure("validation"))
        if math.isnan(value):  # it diverged, and must lose: nothing is less than nan
            value = math.inf
        self._errors.append(value)
        if value < self._best:
            self._best, self._weights = value, copy.deepcopy(self.network.state_dict())


def design_of(structure: Structure) -> Design:
    """The dilations of a structure."""
    return tuple(d for (d,) in structure.values())


def _search(network: nn.Module, config: SearchConfig | None, where: Where) -> LocalSearch | OneShotSearch | None:
    if isinstance(config, LocalConfig):
        return LocalSearch(network, config, where)
    return None if config is None else OneShotSearch(network, config, where)
