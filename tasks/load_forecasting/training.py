"""Training on one fold; `tasks.lightning_fit` has what all Lightning tasks share."""

import functools
import math
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tasks import checkpoint
from tasks.lightning_fit import Training, Validation, train
from tasks.load_forecasting import datasets
from tasks.load_forecasting.config import QUANTILES, Config
from tasks.load_forecasting.data import Fold
from tasks.load_forecasting.datasets import open_fold
from tasks.load_forecasting.evaluation import score
from tasks.load_forecasting.models import Forecaster
from tasks.spec import SELECTED, Run


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """Train the network in place on the fold's training part and leave it at its last epoch.

    The network of the epoch with the lowest validation error goes to `run.folder / SELECTED`: mse, or pinball of a
    quantile head. The test part is never read.

    Raises:
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run.
    """
    fold = open_fold(config, run.fold)
    network = cast(Forecaster, model)
    end = fold.positions("train").stop
    inputs, targets = torch.from_numpy(fold.inputs[:, :end]), torch.from_numpy(fold.targets[:end])
    network.calibrate(inputs)
    loader: DataLoader[Any] = DataLoader(
        [(inputs, targets)] * config.steps,  # type: ignore[arg-type]  # a sequence will do
        batch_size=1,
        generator=torch.Generator(),  # else each epoch draws from the global one
    )
    train(_Training(network, config, run), loader, config, run, _Validation(fold, config, run.folder / SELECTED))


def loss(forecasts: Tensor, targets: Tensor, head: str) -> Tensor:
    """Mean squared error, or mean pinball loss, see `metrics.pinball`.

    forecasts: (B, 1 or quantiles, T), targets: (B, T), both normalised.
    """
    errors = targets[:, None] - forecasts
    if head == "mse":
        return errors.square().mean()
    q = errors.new_tensor(QUANTILES)[None, :, None]
    return torch.maximum(q * errors, (q - 1) * errors).mean()


class _Training(Training):
    """Adam along half a cosine, each step on the whole training part but its first positions."""

    def __init__(self, network: Forecaster, config: Config, run: Run) -> None:
        super().__init__(network, run)
        self.forecaster, self.config = [network], config  # a list: registered once
        self.span = run.schedule_epochs or config.epochs

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network_groups(), lr=self.config.lr, fused=True)

    def on_train_epoch_start(self) -> None:
        self.scale_learning_rates(0.5 * (1 + math.cos(math.pi * self.current_epoch / self.span)))

    def transfer_batch_to_device(self, batch: list[Tensor], device: torch.device, dataloader_idx: int) -> list[Tensor]:
        """The network takes it on the CPU, see `Forecaster`."""
        return batch

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.seed_step("dropout", batch_idx)
        inputs, targets = batch
        scale = self.forecaster[0].scale[0]
        start = self.config.burn_in
        value = loss(self.network(inputs)[..., start:] / scale, targets[:, start:] / scale, self.config.head)
        self.log("loss", value, on_step=False, on_epoch=True, prog_bar=True, batch_size=1)
        return value


class _Validation(Validation):
    """All metrics of the validation part; the error that is trained on selects the epoch."""

    def __init__(self, fold: Fold, config: Config, selected: Path) -> None:
        keep = functools.partial(checkpoint.save, selected, "load_forecasting", config, facts=datasets.facts(config))
        super().__init__(keep, config.validate_every, higher_is_better=False)
        self.fold, self.config = fold, config

    def measure(self, network: nn.Module) -> tuple[dict[str, float], float]:
        scores = score(network, self.config, self.fold, "validation")
        return scores, scores["pinball" if self.config.head == "quantile" else "mse"]
