"""Training on one fold; `tasks.lightning_fit` has what all Lightning tasks share."""

import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Sampler

from tasks import checkpoint
from tasks.action_segmentation import datasets
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.data import Batch, Counts, Dataset
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
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run, or if
            `config.micro_batch` is set for a network with batch normalisation.
    """
    dataset = open_fold(config, run.fold)
    network = network_of(model)
    _check_parts(network, config)
    network.prepare(dataset.train.labels())
    steps = Steps(dataset, config, run.seed)
    train(_Training(network, config, run), steps, config, run, _Validation(dataset, config, run.folder / SELECTED))


class Step(NamedTuple):
    """The videos of an optimizer step.

    videos: how many they are. counts: of all of them. parts: of `Config.micro_batch` videos each, in their order; each
    is read while the one before it is trained on.
    """

    videos: int
    counts: Counts
    parts: Iterator[Batch]


class Steps:
    """The steps of an epoch over the training part, in the order of `Shuffled`. Each step's parts must be used up
    before the next step is asked for."""

    def __init__(self, dataset: Dataset, config: Config, seed: int) -> None:
        self.videos, self.batch, self.part = dataset.train, config.batch, config.micro_batch or config.batch
        self.sampler = Shuffled(len(self.videos), seed)  # Lightning tells it the epoch

    def __len__(self) -> int:
        return -(-len(self.videos) // self.batch)

    def __iter__(self) -> Iterator[Step]:
        steps = _divided(list(self.sampler), self.batch)
        parts = Prefetching(
            range(len(self.videos)),  # type: ignore[arg-type]  # a sequence will do
            batch_sampler=[part for step in steps for part in _divided(step, self.part)],
            collate_fn=self.videos.batch,
            generator=torch.Generator(),  # else each epoch draws from the global one
        )
        read = iter(parts)
        for step in steps:
            parts_of_step = itertools.islice(read, len(_divided(step, self.part)))
            yield Step(len(step), self.videos.counts(step), parts_of_step)


def _divided(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def accumulate(
    network: Network,
    parts: Iterable[Batch],
    counts: Counts,
    smoothing: float,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Tensor:
    """Add the gradients of a step to those of the parameters, one part after the other; return its loss, detached.

    The gradients are those of all its videos in one batch, up to rounding, while only one part and its activations are
    in memory. Random masks of dropout are drawn part by part, so they are others than those of the whole.

    counts: of all parts. backward: what is done with the loss of each part.
    """
    losses = []
    for part in parts:
        value = network.objective(part, smoothing, counts)
        del part  # before the next one comes
        backward(value)
        losses.append(value.detach())
    return torch.stack(losses).sum()


def _check_parts(network: nn.Module, config: Config) -> None:
    """Raise ValueError if steps are divided and the network has batch normalisation, which couples their videos."""
    if config.micro_batch is None or config.micro_batch >= config.batch:
        return
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            raise ValueError(
                f"micro_batch is {config.micro_batch}, but {name} of {type(network).__name__} is batch normalisation, "
                "which needs all videos of a step at once; set micro_batch to None, and take a smaller batch to save "
                "memory"
            )


class _Training(Training):
    """Loss, optimizer and learning rate of the published training."""

    def __init__(self, network: Network, config: Config, run: Run) -> None:
        super().__init__(network, run)
        self.automatic_optimization = False
        self.config = config

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.network_groups(), lr=self.config.lr, fused=True)

    def on_train_epoch_start(self) -> None:
        drop = self.config.lr_drop_epoch
        self.scale_learning_rates(0.1 if drop is not None and self.current_epoch >= drop else 1.0)

    def training_step(self, batch: Step, batch_idx: int) -> None:
        self.seed_step("dropout", batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        parts = (self.transfer_batch_to_device(part, self.device, 0) for part in batch.parts)
        network, smoothing = network_of(self.network), self.config.smoothing
        value = accumulate(network, parts, batch.counts, smoothing, self.manual_backward)
        optimizer.step()
        self.log("loss", value, on_step=False, on_epoch=True, prog_bar=True, batch_size=batch.videos)


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
