"""Trainings of the study `search_at_equal_cost`: short ones of load forecasting, in memory, which can be continued.

They compute what `tasks.load_forecasting.training` does, without its checkpoints and loggers, which take as long as a
training itself here.
"""

import copy
import math
import time
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Structure
from tasks.lightning_fit import derived_seed
from tasks.load_forecasting.config import Config
from tasks.load_forecasting.data import Fold
from tasks.load_forecasting.datasets import open_fold
from tasks.load_forecasting.evaluation import score
from tasks.load_forecasting.models import Forecaster, build, searched
from tasks.load_forecasting.training import loss
from tasks.spec import Part

SearchConfig = LocalConfig | OneShotConfig

Design = tuple[int, ...]
"""Dilations, one per layer."""


ENDS = (1, 4, 16, 64, 256)
"""First and last dilations of the tuned design."""


@dataclass(frozen=True)
class Case:
    """What every method of a comparison shares: the settings of a training, the fold, the seed, and how a design is
    tuned."""

    config: Config
    fold: int
    seed: int
    ends: tuple[int, ...] = ENDS

    @property
    def longest(self) -> int:
        """Largest dilation that a search may choose."""
        longest = self.config.search.bounds.max
        assert longest is not None
        return longest

    @property
    def steps(self) -> int:
        """Of one training, in which budgets are counted."""
        return self.config.epochs * self.config.steps

    def open(self) -> Fold:
        """The data."""
        return open_fold(self.config, self.fold)

    def network(self, design: Design | None = None) -> Forecaster:
        """The untrained network, with the same initial weights whatever its dilations; by default, they double."""
        torch.manual_seed(self.seed)
        network = cast(Forecaster, build(self.config))
        if design is not None:
            names = Structure.read(network, searched)
            Structure({name: (d,) for name, d in zip(names, design, strict=True)}).apply(network)
        return network


class Training:
    """One training, as far as it has come.

    Args:
        case: what is trained on.
        design: dilations; None for the hand design.
        config: of a search that runs inside the training.

    step: how far it has come. seconds: of CPU until then, without validation.
    """

    def __init__(self, case: Case, design: Design | None = None, config: SearchConfig | None = None) -> None:
        self.case, self.network = case, case.network(design)
        self.search = _search(self.network, config)
        self.step, self.seconds = 0, 0.0
        self._best, self._errors = math.inf, list[float]()
        self._weights = self.network.state_dict()
        fold = case.open()
        end = fold.positions("train").stop
        self._inputs = torch.from_numpy(fold.inputs[:, :end].copy())
        self._targets = torch.from_numpy(fold.targets[None, case.config.burn_in : end].copy())
        self.network.calibrate(self._inputs)
        groups = self.search.parameter_groups() if self.search else [{"params": list(self.network.parameters())}]
        self._optimizer = torch.optim.Adam(groups, lr=case.config.lr, fused=True)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]

    def to(self, step: int) -> "Training":
        """Train on, up to a step of the whole schedule; keeps the best epoch's weights if nothing is searched."""
        config = self.case.config
        while self.step < step:
            start = time.process_time()
            if self.step % config.steps == 0:
                self._schedule(self.step // config.steps)
            self._optimizer.zero_grad(set_to_none=True)
            self._loss().backward()
            self._optimizer.step()
            self.step += 1
            if self.search and self.step % config.steps == 0:
                self.search.after_step()
            self.seconds += time.process_time() - start
            if not self.search and self.step % config.steps == 0:
                self._validate()
        return self

    def best_until(self, epoch: int) -> float:
        """Lowest mean squared error of the validation part in the first epochs, however many followed."""
        return min(self._errors[:epoch])

    def scores(self, part: Part) -> dict[str, float]:
        """Of the epoch that is best on the validation part."""
        self.network.load_state_dict(self._weights)
        return score(self.network, self.case.config, self.case.open(), part)

    def _schedule(self, epoch: int) -> None:
        """Half a cosine, as in the task."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * epoch / self.case.config.epochs))

    def _loss(self) -> Tensor:
        epoch, batch = divmod(self.step, self.case.config.steps)
        torch.manual_seed(derived_seed("dropout", self.case.seed, epoch, batch))
        scale = self.network.scale[0]
        forecasts = self.network(self._inputs[None])[..., self.case.config.burn_in :]
        return loss(forecasts / scale, self._targets / scale, self.case.config.head)

    def _validate(self) -> None:
        value = score(self.network, self.case.config, self.case.open(), "validation")["mse"]
        self._errors.append(value)
        if value < self._best:
            self._best, self._weights = value, copy.deepcopy(self.network.state_dict())


def design_of(structure: Structure) -> Design:
    """The dilations of a structure."""
    return tuple(d for (d,) in structure.values())


def _search(network: Forecaster, config: SearchConfig | None) -> LocalSearch | OneShotSearch | None:
    if isinstance(config, LocalConfig):
        return LocalSearch(network, config, searched)
    return None if config is None else OneShotSearch(network, config, searched)
