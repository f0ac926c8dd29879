"""Cases and trainings of load forecasting, of the study `search_at_equal_cost`."""

import math

import torch
from torch import Tensor, nn

from benchmarks.studies.equal_cost_training import Case, Design, SearchConfig, Training
from rfnext import Where
from tasks.lightning_fit import derived_seed
from tasks.load_forecasting.data import Fold
from tasks.load_forecasting.datasets import open_fold
from tasks.load_forecasting.evaluation import score
from tasks.load_forecasting.models import build, searched
from tasks.load_forecasting.training import loss
from tasks.spec import Part


class ForecastingCase(Case):
    """A series, one of its origins, and a seed."""

    @property
    def where(self) -> Where:
        """The convs of kernel 3."""
        return searched

    @property
    def batches(self) -> int:
        """Steps of an epoch, each on the whole training part."""
        return self.config.steps

    def untrained(self) -> nn.Module:
        """The network, by torch's seed."""
        return build(self.config)

    def training(self, design: Design | None = None, config: SearchConfig | None = None) -> Training:
        """A training that has not begun."""
        return ForecastingTraining(self, design, config)

    def open(self) -> Fold:
        """The data."""
        return open_fold(self.config, self.fold)


class ForecastingTraining(Training):
    """What `tasks.load_forecasting.training` computes."""

    def prepare(self) -> None:
        """Keep the training part, and scale the network by it."""
        fold = self.case.open()
        end = fold.positions("train").stop
        self._inputs = torch.from_numpy(fold.inputs[:, :end].copy())
        self._targets = torch.from_numpy(fold.targets[None, self.case.config.burn_in : end].copy())
        self.network.calibrate(self._inputs)

    def rate(self, epoch: int) -> float:
        """Half a cosine, as in the task."""
        return 0.5 * (1 + math.cos(math.pi * epoch / self.case.config.epochs))

    def loss(self, epoch: int, batch: int) -> Tensor:
        """Of the whole training part."""
        torch.manual_seed(derived_seed("dropout", self.case.seed, epoch, batch))
        scale = self.network.scale[0]
        forecasts = self.network(self._inputs[None])[..., self.case.config.burn_in :]
        return loss(forecasts / scale, self._targets / scale, self.case.config.head)

    def measure(self, part: Part) -> dict[str, float]:
        """mse, mae and skill."""
        return score(self.network, self.case.config, self.case.open(), part)

    def error(self, scores: dict[str, float]) -> float:
        """The mean squared error."""
        return scores["mse"]
