"""What the tasks that train with Lightning share: the trainer, its checkpoints, resuming, selection and loggers.

A run that is killed and resumed ends with the weights of an uninterrupted one, bit for bit on CPUs. For that, no
random number may depend on what was drawn before: a task seeds every draw by the run's seed, the epoch and the batch,
with `Training.seed_step` or `derived_seed`.
"""

import contextlib
import dataclasses
import logging
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from rfnext import reproducible
from rfnext.integrations.lightning import AtomicCheckpointIO, LocalSearchCallback, open_logger
from rfnext.integrations.wandb import log_structure
from tasks.rounds import check_rounds
from tasks.spec import Progress, Run, device_of

log = logging.getLogger(__name__)

CHECKPOINT = "last.ckpt"
"""Lightning's checkpoint of the last finished epoch, in `Run.folder`; `Run.resume` continues from it."""


class Training(pl.LightningModule):
    """A network in training. Subclasses add losses, optimizers and `training_step`.

    A checkpoint stores which run it belongs to, and loading one of another run raises ValueError. Neither the number
    of epochs nor the config is compared: a longer training may continue a shorter one.

    Args:
        network: what is trained; `run.search`, if any, was built for it before.
        run: seed, fold and search of this training.
        marks: what else must be equal in the checkpoint of a resumed run.
    """

    search_counts: Literal["epoch", "step"] = "epoch"
    """What the search counts: epochs, or steps of the optimizer; a task may set another before `train`."""

    def __init__(self, network: nn.Module, run: Run, **marks: str) -> None:
        super().__init__()
        self.network, self.search = network, run.search
        self.run = {"seed": run.seed, "fold": run.fold, "searching": run.search is not None, **marks}

    def scored(self) -> nn.Module:
        """The network that is validated and selected."""
        return self.network

    def network_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the network, those of a search's branch weights included."""
        return self.search.parameter_groups() if self.search else [{"params": list(self.network.parameters())}]

    def scale_learning_rates(self, factor: float) -> None:
        """Set every learning rate to its initial value times `factor`.

        Call it at the start of an epoch with a factor that depends on the epoch alone. A scheduler would not do:
        Lightning takes its step only after it has written the checkpoint.
        """
        for group in (group for optimizer in self.trainer.optimizers for group in optimizer.param_groups):
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor

    def seed_step(self, purpose: str, batch_idx: int) -> None:
        """Seed all that a training step draws, on the CPU and on the device of the network.

        Call it at the start of the step: a resumed training then draws what an uninterrupted one does.
        """
        seed = derived_seed(purpose, self.run["seed"], self.current_epoch, batch_idx)
        if self.device.type == "cpu":
            # torch.manual_seed would also note the call stack for each kind of device that is not in use: 4 ms.
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store which run the checkpoint belongs to."""
        checkpoint["run"] = self.run

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ValueError unless the checkpoint belongs to this run."""
        if checkpoint.get("run") != self.run:
            raise ValueError(
                f"cannot resume: the checkpoint is of the run {checkpoint.get('run')}, this one is "
                f"{self.run}; give another folder, or do not resume"
            )


class Validation(pl.Callback):
    """Scores the validation part, and keeps the network of the best epoch, the first of equals.

    An epoch is scored before the search's round that ends it, where a search counts epochs. Subclasses say what is
    measured.

    Args:
        keep: writes a network to `SELECTED` in the folder of the run, by `checkpoint.save`.
        every: epochs between two scorings; the last epoch is always scored.
        higher_is_better: whether the best epoch has the highest or the lowest value.
    """

    def __init__(self, keep: Callable[[nn.Module], None], every: int, *, higher_is_better: bool = True) -> None:
        self.keep, self.every, self.higher_is_better = keep, every, higher_is_better
        self.best = float("-inf" if higher_is_better else "inf")
        self.scores: dict[str, float] = {}

    def measure(self, network: nn.Module) -> tuple[dict[str, float], float]:
        """Scores of the validation part for the loggers, and the value that the best epoch is chosen by."""
        raise NotImplementedError

    def after(self, trainer: pl.Trainer, network: nn.Module) -> None:
        """What else is done with a scored network; nothing by default."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Score the epoch if it is one of every `every`, or the last."""
        assert isinstance(pl_module, Training)
        epoch = trainer.current_epoch + 1
        self.scores = {}
        if epoch % self.every and epoch != trainer.max_epochs:
            return
        network = pl_module.scored()
        scores, value = self.measure(network)
        self.scores = scores
        pl_module.log_dict({f"validation/{name}": score for name, score in scores.items()})
        if value > self.best if self.higher_is_better else value < self.best:
            self.best = value
            self.keep(network)
        self.after(trainer, network)
        said = ", ".join(f"{name} {score:.4g}" for name, score in scores.items())
        log.info("epoch %d of %s, validation: %s", epoch, trainer.max_epochs, said)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the best value of a checkpoint."""
        self.best = state_dict["best"]


class Batches(Protocol):
    """The batches of an epoch: a DataLoader, or what serves as one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...


def train(
    module: Training,
    loader: Batches,
    config: Any,
    run: Run,
    validation: Validation,
    precision: Any = "32-true",
) -> None:
    """Train `module.network` for `config.epochs` epochs, or continue a killed training if `run.resume` is set.

    Args:
        module, loader: what is trained, and its batches.
        config: the task's; goes to the logger, with the run's seed and fold and without `root`.
        run: see `tasks.spec.Run`.
        validation: scores and selects epochs.
        precision: of Lightning's Trainer.

    Raises:
        ValueError: if the device is not here, the checkpoint to resume from is broken or belongs to another run, or a
            local search by rule "paper" has no round in the training.
        KeyboardInterrupt: at Ctrl-C.
    """
    checkpoint = run.folder / CHECKPOINT
    resuming = run.resume and checkpoint.exists()
    if run.resume and not resuming:
        log.info("%s does not exist: no epoch was finished, starting from the first", checkpoint)
    device_of(run.device)  # before Lightning fails by it, in errors of many kinds
    length = config.epochs * (len(loader) if module.search_counts == "step" else 1)
    check_rounds(run.search, length, "iterations" if module.search_counts == "step" else "epochs")
    accelerator, devices = _placement(run.device)
    module.network.train()
    with _quiet(), open_logger(run.logger, run.folder, name=run.name, group=run.group) as logger:
        if logger:
            settings = dataclasses.asdict(config) | {"seed": run.seed, "fold": run.fold}
            logger.log_hyperparams({name: value for name, value in settings.items() if name != "root"})
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=devices,
            precision=precision,
            max_epochs=config.epochs,
            callbacks=_callbacks(module, run, validation),
            logger=logger or False,
            plugins=[AtomicCheckpointIO()],
            default_root_dir=run.folder,
            enable_progress_bar=False,  # `Run.progress` says it
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        with _interruptible(), reproducible(trainer.strategy.root_device):
            trainer.fit(module, loader, ckpt_path=checkpoint if resuming else None)
        if run.search is not None and isinstance(logger, WandbLogger) and trainer.is_global_zero:
            log_structure(logger.experiment, run.search.structure(), run.search.initial)


def derived_seed(*parts: str | int) -> int:
    """A seed of 32 bits, all that torch's CPU generator takes, that differs wherever the parts do."""
    return random.Random("/".join(map(str, parts))).getrandbits(32)


class _Progress(pl.Callback):
    """Tells the run how far it is."""

    def __init__(self, run: Run, validation: Validation) -> None:
        self.run, self.validation = run, validation

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *step: Any) -> None:
        *_, index = step
        self.run.progress(Progress(trainer.current_epoch, index + 1, int(trainer.num_training_batches)))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = int(trainer.num_training_batches)
        self.run.progress(Progress(trainer.current_epoch + 1, 0, steps, self.validation.scores))


def _callbacks(module: Training, run: Run, validation: Validation) -> list[pl.Callback]:
    """In their order: Lightning saves last, so a checkpoint holds the round that its epoch ended with."""
    search = [LocalSearchCallback(run.search, module.search_counts)] if run.search is not None else []
    save = ModelCheckpoint(
        run.folder, Path(CHECKPOINT).stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [validation, *search, _Progress(run, validation), save]


def _placement(device: str) -> tuple[str, int | list[int]]:
    """Accelerator and devices of Lightning's Trainer for "auto", "cpu", "cuda" or "cuda:1"."""
    kind, _, index = device.partition(":")
    return kind, [int(index)] if index else 1


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C: Lightning turns it into an exit and ignores the signal from then on."""
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's advertisements and its advice on workers, which do not apply to data in memory."""
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
