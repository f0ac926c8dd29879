"""Training on one fold; `tasks.lightning_fit` has what all Lightning tasks share."""

import functools
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Sampler

from tasks import checkpoint
from tasks.action_segmentation import datasets
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.data import Batch, Dataset
from tasks.action_segmentation.datasets import open_fold
from tasks.action_segmentation.evaluation import score
from tasks.action_segmentation.models.network import Network, network_of
from tasks.lightning_fit import Training, Validation, derived_seed, train
from tasks.prefetch import Prefetching
from tasks.spec import SELECTED, Run


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """Train the network in place on the fold's training part and leave it at its last epoch.

    Every `config.validate_every` epochs, and after the last one, the validation part is scored. The network of the
    epoch with the highest mean of the five metrics (the first of equals) goes to `run.folder / SELECTED`: the mean is
    less noisy than any single metric on a few videos. The test part is never read.

    Raises:
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run.
    """
    dataset = open_fold(config, run.fold)
    loader = batches(dataset, config, run.seed)
    network = network_of(model)
    network.prepare(dataset.train.labels())
    train(_Training(network, config, run), loader, config, run, _Validation(dataset, config, run.folder / SELECTED))


def batches(dataset: Dataset, config: Config, seed: int) -> Prefetching:
    """The batches of the training part, in the order of `Shuffled`."""
    return Prefetching(
        range(len(dataset.train)),  # type: ignore[arg-type]  # a sequence will do
        batch_size=config.batch,
        sampler=Shuffled(len(dataset.train), seed),
        collate_fn=dataset.train.batch,
        generator=torch.Generator(),  # else each epoch draws from the global one
    )


class _Training(Training):
    """Loss, optimizer and learning rate of the published training."""

    def __init__(self, network: Network, config: Config, run: Run) -> None:
        super().__init__(network, run)
        self.config = config

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network_groups(), lr=self.config.lr, fused=True)

    def on_train_epoch_start(self) -> None:
        drop = self.config.lr_drop_epoch
        self.scale_learning_rates(0.1 if drop is not None and self.current_epoch >= drop else 1.0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seed_step("dropout", batch_idx)
        value = network_of(self.network).objective(batch, self.config.smoothing)
        self.log("loss", value, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.labels))
        return value


class _Validation(Validation):
    """All metrics of the validation part; their mean selects the epoch."""

    def __init__(self, dataset: Dataset, config: Config, selected: Path) -> None:
        keep = functools.partial(checkpoint.save, selected, "action_segmentation", config, facts=datasets.facts(config))
        super().__init__(keep, config.validate_every)
        self.dataset, self.config = dataset, config

    def measure(self, network: nn.Module) -> tuple[dict[str, float], float]:
        scores = score(network, self.dataset, self.dataset.validation, self.config.last_segment)
        return scores, sum(scores.values()) / len(scores)


class Shuffled(Sampler[int]):
    """A new order every epoch, which depends on the seed and the epoch only."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.size))
        random.Random(derived_seed("order", self.seed, self.epoch)).shuffle(order)
        return iter(order)

    def __len__(self) -> int:
        return self.size
