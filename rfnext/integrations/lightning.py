"""For Lightning's Trainer: a callback that runs a search, atomic checkpoints, a choice of loggers."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch.optim.swa_utils import AveragedModel

from rfnext import tensor_files
from rfnext.files import write_bytes
from rfnext.integrations.wandb import init_arguments
from rfnext.search.protocol import Search


class LocalSearchCallback(pl.Callback):
    """Counts epochs or optimizer steps, runs the rounds, and keeps the search's state in Lightning's checkpoints.

        search = LocalSearch(module.network, LocalConfig())
        trainer = pl.Trainer(callbacks=[LocalSearchCallback(search)])

    Build the search before `fit`, so that `configure_optimizers` includes the branch weights; it is an error if it
    does not. The Trainer's gradient_clip_val leaves branch weights out that are not of the search's
    `parameters_to_clip`. Averaging callbacks (EMA) get the new branches after each round. Dilations and probabilities
    go to the trainer's loggers as "dilation/<layer>" and "probability/<layer>/<branch>".

    A Trainer can have several, told apart by the names of their layers in the searched network. If two parts of the
    module have layers of the same names, search the module itself, LocalSearch(module, config, where=...): then names
    are those in the module, and differ.

    Args:
        search: the search over the module or any part of it.
        every: what counts as a step: "epoch", or "step" for an optimizer step.
        folder: if given, `structure-round<N>.json` is written there after each round, by rank 0.
    """

    def __init__(
        self,
        search: Search,
        every: Literal["epoch", "step"] = "epoch",
        folder: str | Path | None = None,
    ) -> None:
        if every not in ("epoch", "step"):
            raise ValueError(f"every must be 'epoch' or 'step', got {every!r}")
        self.search = search
        self.every = every
        self.folder = None if folder is None else Path(folder)
        self._optimizer_steps, self._trains = 0, True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raise RuntimeError unless the optimizers have the branch weights in the groups that the search requires."""
        self._optimizer_steps = trainer.global_step
        optimized = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
        if not all(id(weight) in optimized for weight in self.search.branch_weights()):
            raise RuntimeError(
                "no optimizer holds the branch weights, so nothing would be searched: build LocalSearch before fit(), "
                "and let configure_optimizers() include LocalSearch.branch_weights()"
            )
        # Parameters that need a learning rate of their own must not share a group with others.
        own = {id(p) for group in self.search.parameter_groups() if "lr" in group for p in group["params"]}
        for group in (group for optimizer in trainer.optimizers for group in optimizer.param_groups):
            together = {id(parameter) for parameter in group["params"]}
            if together & own and together - own:
                kind = type(self.search).__name__
                raise RuntimeError(
                    f"the branch weights of a {kind} need their own learning rate: let configure_optimizers() build "
                    f"its optimizer from {kind}.parameter_groups()"
                )

        clip = pl_module.configure_gradient_clipping
        vars(pl_module)["configure_gradient_clipping"] = partial(self._clip_apart, clip)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the module its own gradient clipping back."""
        vars(pl_module).pop("configure_gradient_clipping", None)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the module its own gradient clipping back."""
        self.on_train_end(trainer, pl_module)

    def _clip_apart(self, clip: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Call the module's gradient clipping while the branch weights have no gradient."""
        clipped = {id(parameter) for parameter in self.search.parameters_to_clip()}
        apart = [weight for weight in self.search.branch_weights() if id(weight) not in clipped]
        gradients = [weight.grad for weight in apart]
        for weight in apart:
            weight.grad = None
        try:
            clip(*args, **kwargs)
        finally:
            for weight, gradient in zip(apart, gradients, strict=True):
                weight.grad = gradient

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count an optimizer step."""
        # StochasticWeightAveraging adds an epoch that only measures the statistics of batch norms.
        self._trains = not getattr(trainer.fit_loop, "_skip_backward", False)
        if self.every == "step" and self._trains and trainer.global_step > self._optimizer_steps:
            self._optimizer_steps = trainer.global_step
            self._after_step(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count an epoch, if the network was trained in it."""
        if self.every == "epoch" and self._trains:
            self._after_step(trainer, pl_module)

    def _after_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.search.after_step():
            return
        last = self.search.history[-1]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            # Of WeightAveraging, which Lightning has since 2.6, and of StochasticWeightAveraging.
            average = getattr(callback, "_average_model", None)
            if isinstance(average, AveragedModel):
                average = average.module
            if isinstance(average, pl.LightningModule):
                self.search.copy_to(average.get_submodule(self._path(pl_module)))
        if self.folder is not None:
            structure = self.search.structure()  # on every rank: the weights may be shards
            if trainer.is_global_zero:
                structure.save(self.folder / f"structure-round{len(self.search.history)}.json")
        values = {f"dilation/{name}": sum(d) / len(d) for name, d in last.structure.items()}
        for name, shares in last.probability.items():
            values |= {f"probability/{name}/{i}": share for i, share in enumerate(shares)}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _path(self, pl_module: pl.LightningModule) -> str:
        """The name of the searched network in the module."""
        for name, part in pl_module.named_modules():
            if part is self.search.model:
                return name
        raise RuntimeError("the searched network is not part of the LightningModule that is trained")

    @property
    def state_key(self) -> str:
        """The key of the search's state in a checkpoint, made from the names of its layers."""
        layers = hashlib.sha256(json.dumps(sorted(self.search.initial)).encode()).hexdigest()
        return self._generate_state_key(layers=layers[:16])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Give the search a state that was saved for other layers, so that loading it is an error."""
        # A state that no callback claims is of other layers: loading it says which.
        states = checkpoint["callbacks"]
        claimed = {callback.state_key for callback in trainer.callbacks}  # type: ignore[attr-defined]
        own = type(self).__qualname__
        for key in [key for key in states if key not in claimed and str(key).split("{")[0] == own]:
            states.setdefault(self.state_key, states[key])

    def state_dict(self) -> dict[str, Any]:
        """The search's state."""
        return self.search.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the search from a state."""
        self.search.load_state_dict(state_dict)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints completely or not at all, and reads tensors and plain values only, never pickled objects.

    trainer = pl.Trainer(plugins=[AtomicCheckpointIO()])
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises OSError if the file cannot be written; what was there before stays."""
        write_bytes(path, tensor_files.serialised(checkpoint))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Raises ValueError if the file is no such checkpoint."""
        try:
            return tensor_files.read(path)
        except ValueError as error:
            raise ValueError(f"{path} is not a readable checkpoint ({error}); delete it to start anew") from error


@contextlib.contextmanager
def open_logger(
    kind: Literal["none", "csv", "tensorboard", "wandb"], folder: Path, *, name: str = "", group: str = ""
) -> Iterator[Logger | None]:
    """A logger for the Trainer that writes into `folder`, or None for "none".

    A run of Weights & Biases is closed at the end of the block, as failed if that raises. The next block with the same
    folder continues that run.

    Args:
        kind: where curves go.
        folder: for the files of all kinds.
        name: what Weights & Biases calls the run.
        group: what it calls the runs that this is one of.
    """
    match kind:
        case "none":
            yield None
        case "csv":
            yield CSVLogger(folder, name="", version="csv")
        case "tensorboard":
            yield TensorBoardLogger(folder, name="", version="tensorboard")
        case "wandb":
            logger = WandbLogger(save_dir=folder, **init_arguments(folder, name=name, group=group))
            status = 1
            try:
                yield logger
                status = 0
            finally:  # else the next training of this process would continue the same run
                logger.experiment.finish(status)
