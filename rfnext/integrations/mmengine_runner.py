"""mmengine's Runner for trainings that are interrupted: a continued one gives the weights of one that never stopped."""

import os
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.utils import apply_to
from torch import nn
from torch.utils.data import DataLoader

from rfnext.files import write_bytes
from rfnext.integrations.mmengine_checkpoints import checkpoint_globals
from rfnext.ops.pins import reproducible


class ContinuingRunner(Runner):
    """mmengine's Runner; with resume=True, a training by epochs that was killed at any moment goes on exactly.

    On CPUs its last checkpoint has the tensors of the uninterrupted training, bit for bit: of the model, the optimizer,
    and all that hooks keep; that is with the same number of threads, as all of torch. On GPUs it has as far as the
    operators repeat themselves.

    - Every epoch starts the random generators anew, from the seed, its number and the rank, also those of the processes
      that load data, which therefore start anew, too (persistent_workers has no effect).
    - A checkpoint is written whole or not at all. It holds tensors and plain values, so that torch's weights_only=True
      reads it without a list of allowed classes: the history of logged numbers, pickled by mmengine, is left out.
    - Checkpoints are read with weights_only=True. Where the last one is broken, the one before it is taken.
    - The checkpoint's seed is taken before the data is shuffled, and its epoch is scored again if scores were due:
      the interruption may have lost them.

    Raises ValueError where a training cannot go on: no checkpoint is whole, or it is of another seed, another number of
    processes or of batches per epoch, or of another network.
    """

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Register the hooks of the config and those that continuing needs."""
        super().register_hooks(*args, **kwargs)
        self.register_hook(_SameStart())
        self.register_hook(_LostScores())

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict[str, Any], seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a loader as mmengine does, but with processes that torch seeds from the generator at each epoch."""
        if isinstance(dataloader, dict):
            own_start = "worker_init_fn" in dataloader
            dataloader = Runner.build_dataloader({**dataloader, "persistent_workers": False}, seed, diff_rank_seed)
            if not own_start:
                dataloader.worker_init_fn = None  # mmengine's seeds them alike at every start
        dataloader.worker_init_fn = dataloader.worker_init_fn or _end_with_parent
        return dataloader

    def train(self) -> nn.Module:
        """Train, or go on with it, as mmengine does."""
        if self._resume:
            self._find_start()
        with reproducible(torch.device(get_device())):
            return super().train()

    def _find_start(self) -> None:
        """Decide which checkpoint to go on from, if there is one, and take its seed."""
        folder = Path(self.work_dir)
        paths = [Path(self._load_from)] if self._load_from else _candidates(folder)
        if not paths:
            self.logger.info(f"{folder} holds no checkpoint: starting from the first epoch")
            self._resume = False
            return
        errors: list[Exception] = []
        for path in paths:
            try:
                with checkpoint_globals():
                    meta = torch.load(path, map_location="cpu", weights_only=True)["meta"]
                break
            except Exception as error:  # the bytes of a broken file lead torch to errors of any kind
                errors.append(error)
                self.logger.warning(
                    f"{path} is not a readable checkpoint ({type(error).__name__}); trying the one before it"
                )
        else:
            raise ValueError(
                f"cannot resume: {paths[0]} is not a readable checkpoint, nor is one before it: it is missing, was cut "
                f"off, or holds more than tensors and plain values; delete {folder} to start anew"
            ) from errors[0]
        self._load_from = str(path)
        self._take_seed(meta.get("seed"))

    def _take_seed(self, seed: int | None) -> None:
        given = self._randomness_cfg.get("seed")
        if None not in (seed, given) and seed != given:
            raise ValueError(
                f"cannot resume: {self._load_from} is of a training with the seed {seed}, this one has {given}; "
                "give it that seed, or do not resume"
            )
        if seed is not None:
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)

    def load_checkpoint(
        self, filename: str, map_location: Any = "cpu", strict: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """Read a checkpoint with weights_only=True; all of its tensors have to fit where a training goes on."""
        with checkpoint_globals():
            return super().load_checkpoint(filename, map_location, strict or bool(self._resume), *args, **kwargs)

    def save_checkpoint(self, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint, on a local disk whole or not at all."""
        if "://" not in str(out_dir) and not any(args[:1]):  # the first of them is the old way to name a backend
            kwargs["backend_args"] = kwargs.get("backend_args") or {"backend": _WholeFiles.__name__}
        super().save_checkpoint(out_dir, filename, *args, **kwargs)


class _WholeFiles(LocalBackend):
    """mmengine's local files, written atomically."""

    def put(self, obj: bytes | memoryview, filepath: str | Path) -> None:
        write_bytes(filepath, bytes(obj))


register_backend(_WholeFiles.__name__, _WholeFiles)


def _end_with_parent(worker: int) -> None:
    """Let a loading process end when the training is killed; torch's waits for ever to hand over what it has loaded."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _candidates(folder: Path) -> list[Path]:
    """Checkpoints of the training in this folder, the one to go on from first.

    That is what mmengine's file `last_checkpoint` names. A crash can leave this file empty, since mmengine overwrites
    it in place; then it is the newest checkpoint. The others are of the epochs before it.
    """
    pointer = folder / "last_checkpoint"
    if not pointer.exists():
        return []
    numbers = {path: int(path.stem.rpartition("_")[2]) for path in folder.glob("*.pth") if _NUMBERED(path.name)}
    named = Path(pointer.read_text("utf-8", errors="replace").strip())
    known = [path for path in (named, folder / named.name) if path.is_file()]
    if not known and not numbers:
        raise ValueError(f"cannot resume: {pointer} names no checkpoint that exists; delete it to start anew")
    first = known[0] if known else max(numbers, key=lambda path: path.stat().st_mtime_ns)
    before = numbers.get(folder / first.name, 0)
    earlier = [path for path in numbers if numbers[path] < before]
    return [first, *sorted(earlier, key=lambda path: -numbers[path])]


_NUMBERED = re.compile(r"(epoch|iter)_\d+\.pth").fullmatch
"""Whether a file name is one that mmengine gives to checkpoints; those of the best epoch hold no optimizer."""


class _SameStart(Hook):
    """Gives every epoch its random generators, and every checkpoint what tells its training from others."""

    priority = "VERY_HIGH"

    def before_train(self, runner: Runner) -> None:
        starts = all_gather_object((runner.epoch, runner.iter))
        if len(set(starts)) > 1:  # a work_dir that not all machines share
            raise RuntimeError(f"processes start at different (epoch, iteration): {starts}; share the work_dir")

    def before_train_epoch(self, runner: Runner) -> None:
        rank = get_rank()
        # Ranks differ, or with num_workers=0 they would mirror their images alike.
        draw = random.Random(f"epoch/{runner.seed}/{runner.epoch}" + (f"/{rank}" if rank else "")).getrandbits
        random.seed(draw(32))
        np.random.seed(draw(32))  # noqa: NPY002 (what mmdet's transforms draw from)
        torch.manual_seed(draw(32))
        if (generator := runner.train_dataloader.generator) is not None:
            generator.manual_seed(draw(32))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["meta"]["steps"] = _steps(runner)
        for name in checkpoint.keys() - {"state_dict"}:  # scores are numbers of numpy
            checkpoint[name] = apply_to(checkpoint[name], lambda x: isinstance(x, np.generic), lambda x: x.item())
        hub = checkpoint["message_hub"]
        kept = {key: value for key, value in hub["resumed_keys"].items() if key not in hub["log_scalars"]}
        hub.update(log_scalars={}, resumed_keys=kept)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if not runner._resume:
            return
        steps, own = checkpoint["meta"].get("steps"), _steps(runner)
        if steps is not None and steps != own:  # mmengine's own checkpoints do not say it
            raise ValueError(
                f"cannot resume: the checkpoint is of a training with {steps}, this one has {own}; learning rate and "
                "order of the data would be others. To begin from its weights, give it as load_from without resume"
            )


def _steps(runner: Runner) -> dict[str, int]:
    return {"processes": get_world_size(), "batches per epoch": len(runner.train_dataloader)}


class _LostScores(Hook):
    """Scores the epoch that a training goes on from, if its scores were due: they come after its checkpoint."""

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        loop: Any = runner.train_loop
        done = loop.epoch if hasattr(loop, "run_epoch") else 0
        if not runner._resume or runner.val_loop is None or done < max(loop.val_begin, 1):
            return
        if done % loop.val_interval == 0 or done == loop.max_epochs:
            runner.val_loop.run()
