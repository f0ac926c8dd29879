"""Training on one fold; `tasks.lightning_fit` has what all Lightning tasks share."""

import functools
import math
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Sampler

from rfnext import LocalSearch
from tasks import checkpoint
from tasks.lightning_fit import Training, Validation, derived_seed, train
from tasks.prefetch import Prefetching
from tasks.semantic_segmentation import datasets
from tasks.semantic_segmentation.config import Config
from tasks.semantic_segmentation.data import Dataset, Sample, Samples
from tasks.semantic_segmentation.datasets import open_fold
from tasks.semantic_segmentation.evaluation import normalised, score
from tasks.semantic_segmentation.folder import IGNORED
from tasks.spec import SELECTED, Run

AUXILIARY = 0.4
"""Weight of the auxiliary head's loss (Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, section 3.3)."""


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """Train the network in place on the fold's training part and leave it at its last epoch.

    A local search counts what `config.search_counts` says; other searches count epochs. The network of the epoch with
    the highest mIoU on the validation part goes to `run.folder / SELECTED`. The test part is never read.

    Raises:
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run.
        DataError: naming the file, if an image or its labels cannot be used.
    """
    dataset = open_fold(config, run.fold)
    loader = batches(dataset.train, config, run.seed)
    train(_Training(model, config, run), loader, config, run, _Validation(dataset, config, run.folder / SELECTED))


def batches(samples: Samples, config: Config, seed: int) -> Prefetching:
    """Batches of (images (B, 3, side, side), labels (B, side, side)), all of the full size, in the order of `Order`."""
    # With worker processes, too: a plain DataLoader would ask for indices before Lightning has set the epoch of a
    # training that goes on.
    return Prefetching(
        Cuts(samples, config),  # type: ignore[arg-type]  # it is asked for by pairs
        batch_size=config.batch,
        sampler=Order(len(samples), config.batch, seed),
        num_workers=config.workers,
        persistent_workers=config.workers > 0,
        generator=torch.Generator(),  # else each epoch draws from the global one
    )


def loss(found: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Mean cross entropy over the pixels that have a class, and that of the auxiliary head, if there is one.

    found: (B, classes, H, W) each. labels: (B, H, W). Zero where no pixel has a class.
    """
    known = (labels != IGNORED).sum().clamp(min=1)
    main, auxiliary = (
        nn.functional.cross_entropy(found[name], labels, ignore_index=IGNORED, reduction="sum") / known
        if name in found
        else 0.0
        for name in ("out", "aux")
    )
    return main + AUXILIARY * auxiliary  # type: ignore[return-value]


class _Training(Training):
    """AdamW along half a cosine."""

    def __init__(self, network: nn.Module, config: Config, run: Run) -> None:
        super().__init__(network, run)
        self.config, self.span = config, run.schedule_epochs or config.epochs
        if isinstance(run.search, LocalSearch) and config.search_counts == "iterations":
            self.search_counts = "step"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.network_groups(), lr=self.config.lr, weight_decay=0.01, fused=True)

    def on_train_epoch_start(self) -> None:
        self.scale_learning_rates(0.5 * (1 + math.cos(math.pi * self.current_epoch / self.span)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.seed_step("dropout", batch_idx)
        images, labels = batch
        value = loss(self.network(images), labels)
        self.log("loss", value, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(images))
        return value


class _Validation(Validation):
    """All metrics of the validation part; mIoU selects the epoch."""

    def __init__(self, dataset: Dataset, config: Config, selected: Path) -> None:
        facts = datasets.facts(config)
        keep = functools.partial(checkpoint.save, selected, "semantic_segmentation", config, facts=facts)
        super().__init__(keep, config.validate_every)
        self.dataset, self.config = dataset, config

    def measure(self, network: nn.Module) -> tuple[dict[str, float], float]:
        scores = score(network, self.config, self.dataset, "validation")
        return scores, scores["mIoU"]


class Cuts:
    """Training samples as tensors of one size: asked for by (index, seed), see `cut`."""

    def __init__(self, samples: Samples, config: Config) -> None:
        self.samples, self.config = samples, config

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, seed = key
        # No flips of the scenes: a mirrored digit is no digit.
        flips = self.config.dataset != "scenes"
        return cut(self.samples[index], self.config.image, self.config.largest, random.Random(seed), flips=flips)


def cut(sample: Sample, side: int, largest: float, rng: random.Random, *, flips: bool) -> tuple[Tensor, Tensor]:
    """A square of an image, normalised, (3, side, side), and its labels, (side, side); what lies outside is ignored.

    The longer side is scaled to `side`, times a factor that is drawn log-uniformly from 1 / largest to largest; the
    square lies at random. flips: mirror every other one.
    """
    height, width = sample.labels.shape
    factor = side / max(height, width) * largest ** rng.uniform(-1, 1)
    size = max(1, round(factor * width)), max(1, round(factor * height))
    image = np.asarray(Image.fromarray(sample.image).resize(size, Image.Resampling.BILINEAR))
    labels = np.asarray(Image.fromarray(sample.labels).resize(size, Image.Resampling.NEAREST))
    top, left = (int(max(0, length - side + 1) * rng.random()) for length in labels.shape)
    image, labels = image[top : top + side, left : left + side], labels[top : top + side, left : left + side]
    if flips and rng.random() < 0.5:
        image, labels = image[:, ::-1], labels[:, ::-1]
    height, width = labels.shape
    x, y = torch.zeros(3, side, side), torch.full((side, side), IGNORED)
    x[:, :height, :width] = normalised(image)
    y[:height, :width] = torch.from_numpy(labels.astype(np.int64))
    return x, y


class Order(Sampler[tuple[int, int]]):
    """Pairs of index and seed, in a new order every epoch, which depends on seed and epoch alone.

    Whole batches: the last images of an epoch's order are left out, or a part that is smaller than a batch repeats.
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0
        self.count = max(1, size // batch) * batch

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls it before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self.size))
        random.Random(derived_seed("order", self.seed, self.epoch)).shuffle(order)
        for place in range(self.count):
            yield order[place % self.size], derived_seed("cut", self.seed, self.epoch, place)

    def __len__(self) -> int:
        return self.count
