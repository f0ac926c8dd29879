"""Training on one fold by Lightning's Trainer, and prediction.

A run that is killed and resumed gives the weights of the uninterrupted one, bit for bit on CPUs: nothing that
is random depends on what was drawn before, only on the seed, the epoch and the batch.
"""

import contextlib
import dataclasses
import io
import logging
import math
import random
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler

from rfnext.files import write_bytes
from rfnext.integrations.lightning import AtomicCheckpointIO, LocalSearchCallback, open_logger
from rfnext.integrations.wandb import log_structure
from rfnext.ops.choice import reproducible
from tasks.action_segmentation import metrics
from tasks.action_segmentation.data import IGNORED, Batch, Dataset, Video, Videos, collate, upsample
from tasks.action_segmentation.task import Config
from tasks.spec import SELECTED, Probe, Run

log = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"
"""Lightning's checkpoint of the last whole epoch, in `Run.folder`; what `Run.resume` continues from."""

CLIP = 16.0
"""Largest squared step of a log-probability that the smoothing loss counts (MS-TCN: tau = 4)."""


def fit(network: nn.Module, dataset: Dataset, config: Config, run: Run) -> None:
    """Train the network in place on the fold's training part and leave it at its last epoch.

    Every `config.validate_every` epochs, and after the last one, the validation part is scored; the
    state_dict of the epoch with the highest mean of the five metrics (the first of equals) goes to
    `run.folder / SELECTED`. The mean is less noisy than any one of them on a few videos. The test part is
    never read.

    With `run.probability_batches` "held_out", the training videos are divided into two halves by the seed: the odd
    batches of an epoch, counted from 0, are of the second half and train the probabilities alone, the even ones the
    weights. An epoch of n videos then has 2 ceil(ceil(n / 2) / batch) forward passes: as many as any other,
    ceil(n / batch), or one more (9 videos in batches of 2: 6, not 5).

    Raises:
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run; if probabilities
            are to be trained on held-out batches without a search, or on fewer than 2 videos.
    """
    module = _Module(network, config, run)
    if run.probability_batches == "held_out":
        if run.search is None:
            raise ValueError("held-out batches are for the probabilities of a search, and there is none")
        order: dict[str, Any] = {"batch_sampler": Alternating(len(dataset.train), config.batch, run.seed)}
    else:
        order = {"batch_size": config.batch, "sampler": Shuffled(len(dataset.train), run.seed)}
    loader = DataLoader(
        dataset.train,  # type: ignore[arg-type]  # a sequence will do
        **order,
        collate_fn=collate,
        generator=torch.Generator(),  # else each epoch draws from the global one
    )
    callbacks: list[pl.Callback] = [_Validation(dataset, config, run.folder)]
    if run.search is not None:
        callbacks.append(LocalSearchCallback(run.search, every="epoch"))
    # Lightning saves after all other callbacks, so a checkpoint holds the round that its epoch ended with.
    callbacks.append(
        ModelCheckpoint(run.folder, Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False)
    )
    checkpoint = run.folder / CHECKPOINT
    if run.resume and not checkpoint.exists():
        log.info("%s does not exist: no epoch was finished, starting from the first", checkpoint)
    accelerator, devices = _placement(run.device)
    network.train()
    with _quiet(), open_logger(run.logger, run.folder, name=run.name, group=run.group) as logger:
        if logger:
            settings = dataclasses.asdict(config) | {"seed": run.seed, "fold": run.fold}
            logger.log_hyperparams({name: value for name, value in settings.items() if name != "root"})
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            max_epochs=config.epochs,
            callbacks=callbacks,
            logger=logger or False,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=run.folder,
            enable_progress_bar=sys.stdout.isatty(),
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        try:
            with reproducible(trainer.strategy.root_device):
                trainer.fit(module, loader, ckpt_path=checkpoint if run.resume and checkpoint.exists() else None)
        except SystemExit as error:
            # Lightning makes an exit of Ctrl-C and goes on ignoring it; what it means is for the caller.
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt from None
        if run.search is not None and isinstance(logger, WandbLogger) and trainer.is_global_zero:
            log_structure(logger.experiment, run.search.structure(), run.search.initial)


def loss(logits: Tensor, labels: Tensor, mask: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy + `smoothing` x truncated mean squared error, summed over stages (MS-TCN, section 3.3).

    The second term is the mean, over classes and neighbouring frames of a video, of the squared step of the
    log-probability between them, clipped at `CLIP`; the earlier frame gets no gradient. Unlike the published
    code it does not average over padding, so a video's share does not depend on what it is batched with.

    Args:
        logits: (stages, B, classes, T).
        labels: (B, T), `IGNORED` where the cross-entropy is not taken.
        mask: (B, 1, T), True where the video has frames; padding is at the end.
        smoothing: weight of the second term.

    Returns:
        A scalar.
    """
    stages, _, classes, _ = logits.shape
    log_probability = F.log_softmax(logits, dim=2)
    cross_entropy = F.nll_loss(
        log_probability.flatten(0, 1), labels.repeat(stages, 1), ignore_index=IGNORED, reduction="sum"
    ) / (labels != IGNORED).sum().clamp(min=1)
    steps = log_probability[..., 1:] - log_probability[..., :-1].detach()
    pairs = mask[:, :, 1:]
    truncated = steps.square().clamp(max=CLIP) * pairs
    return cross_entropy + smoothing * truncated.sum() / (pairs.sum() * classes).clamp(min=1)


@torch.no_grad()
def predict(network: nn.Module, video: Video, stride: int) -> NDArray[np.int64]:
    """Class index of every frame of the video, (T): the last stage's prediction, up-sampled.

    Runs on the network's device in evaluation mode and leaves the mode as it was.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        with reproducible(device):
            logits = network(torch.from_numpy(video.features)[None].to(device))[-1, 0]
    finally:
        network.train(training)
    return upsample(logits.argmax(0).cpu().numpy(), stride, len(video.full_labels))


def score(network: nn.Module, dataset: Dataset, videos: Videos, last_segment: metrics.LastSegment) -> dict[str, float]:
    """All metrics of a network on some videos of a dataset; see `metrics.score`."""
    return metrics.score(
        ((predict(network, video, dataset.stride), video.full_labels) for video in videos),
        background=[index for index, name in enumerate(dataset.classes) if name == "background"],
        last_segment=last_segment,
    )


PROBED = 4
"""Videos that receptive fields are measured on."""


def probe(network: nn.Module, videos: Videos, stride: int) -> Probe:
    """What to measure receptive fields on: up to `PROBED` whole videos, spread evenly over `videos`.

    The output is the last stage's logit of the class that is predicted, at every frame: the sum over classes, which
    softmax takes no notice of, would mean nothing. One input position is `stride` frames.
    """
    device = next(network.parameters()).device
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(PROBED, len(videos))).round().astype(int)).tolist()
    return Probe(
        forward=lambda x: network(x)[-1].amax(1, keepdim=True),
        inputs=[torch.from_numpy(videos[index].features)[None].to(device) for index in chosen],
        unit="frames",
        step=(float(stride),),
        output="the last stage's logit of the predicted class",
    )


class _Module(pl.LightningModule):
    """Loss, optimizer and learning rate of the published training."""

    def __init__(self, network: nn.Module, config: Config, run: Run) -> None:
        super().__init__()
        self.network, self.config, self.search = network, config, run.search
        self.alternating = run.probability_batches == "held_out"
        # What makes a checkpoint useless to another run. A longer training may go on from a shorter one.
        self.run = {"seed": run.seed, "fold": run.fold, "searching": run.search is not None}
        if self.alternating:
            self.run["held_out"] = True

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = self.search.parameter_groups() if self.search else [{"params": list(self.network.parameters())}]
        return torch.optim.Adam(groups, lr=self.config.lr, fused=True)

    def on_train_epoch_start(self) -> None:
        # From the epoch rather than by a scheduler, whose step Lightning takes only after the checkpoint.
        drop = self.config.lr_drop_epoch
        for group in self.trainer.optimizers[0].param_groups:
            start = group.setdefault("initial_lr", group["lr"])
            group["lr"] = start * (0.1 if drop is not None and self.current_epoch >= drop else 1.0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        torch.manual_seed(_derived_seed("dropout", self.run["seed"], self.current_epoch, batch_idx))
        value = loss(self.network(batch.features, batch.mask), batch.labels, batch.mask, self.config.smoothing)
        self.held_out = self.alternating and batch_idx % 2 == 1
        name = "held_out/loss" if self.held_out else "loss"
        self.log(name, value, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch.labels))
        return value

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.alternating and self.search:
            self.search.keep_gradients("probabilities" if self.held_out else "weights")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self.run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("run") != self.run:
            raise ValueError(
                f"cannot resume: the checkpoint is of the run {checkpoint.get('run')}, this one is "
                f"{self.run}; give another folder, or do not resume"
            )


class _Validation(pl.Callback):
    """Scores the validation part and keeps the weights of the best epoch, before the epoch's round of a
    search."""

    def __init__(self, dataset: Dataset, config: Config, folder: Path) -> None:
        self.dataset, self.config, self.folder = dataset, config, folder
        self.best = float("-inf")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, _Module)
        epoch = trainer.current_epoch + 1
        if epoch % self.config.validate_every and epoch != self.config.epochs:
            return
        scores = score(pl_module.network, self.dataset, self.dataset.validation, self.config.last_segment)
        pl_module.log_dict({f"validation/{name}": value for name, value in scores.items()})
        mean = sum(scores.values()) / len(scores)
        if mean > self.best:
            self.best = mean
            write_bytes(self.folder / SELECTED, _serialised(pl_module.network.state_dict()))
        log.info("epoch %d: %s", epoch, ", ".join(f"{name} {value:.1f}" for name, value in scores.items()))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]


class Shuffled(Sampler[int]):
    """A new order every epoch, which depends on the seed and the epoch only; Lightning calls `set_epoch`."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = list(range(self.size))
        random.Random(_derived_seed("order", self.seed, self.epoch)).shuffle(order)
        return iter(order)

    def __len__(self) -> int:
        return self.size


class Alternating(Sampler[list[int]]):
    """Batches of indices, in turns of the one half of them and the other.

    Which index is in which half depends on the seed only; every half is shuffled anew each epoch. Of an odd size the
    first half is the larger one; where it has a batch more, the other's first batch comes once more. Raises ValueError
    below 2 indices.
    """

    def __init__(self, size: int, batch: int, seed: int) -> None:
        if size < 2:
            raise ValueError(f"{size} training video cannot be divided between weights and probabilities")
        self.batch, self.seed, self.epoch = batch, seed, 0
        order = list(range(size))
        random.Random(_derived_seed("halves", seed)).shuffle(order)
        self.halves = order[: (size + 1) // 2], order[(size + 1) // 2 :]

    @property
    def sampler(self) -> "Alternating":
        """Where Lightning looks for what has a `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        batches = []
        for number, half in enumerate(self.halves):
            order = half.copy()
            random.Random(_derived_seed("order", self.seed, self.epoch, number)).shuffle(order)
            batches.append([order[start : start + self.batch] for start in range(0, len(order), self.batch)])
        for number, first in enumerate(batches[0]):
            yield first
            yield batches[1][number % len(batches[1])]

    def __len__(self) -> int:
        return 2 * math.ceil(len(self.halves[0]) / self.batch)


def _serialised(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _derived_seed(*parts: str | int) -> int:
    """32 bits, all that torch's CPU generator takes, that differ wherever the parts do."""
    return random.Random("/".join(map(str, parts))).getrandbits(32)


def _placement(device: str) -> tuple[str, int | list[int]]:
    """Accelerator and devices of Lightning's Trainer for "auto", "cpu", "cuda" or "cuda:1"."""
    kind, _, index = device.partition(":")
    return kind, [int(index)] if index else 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advertisements, and its advice on workers, which features in memory do not need."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PossibleUserWarning)
            # Folders hold other files, and may be moved between a run and its continuation.
            warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
            warnings.filterwarnings("ignore", "The dirpath has changed")
            # Lightning 2.6 with torch 2.14
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`")
            yield
    finally:
        logger.setLevel(level)
