"""Interrupted trainings of mmengine against uninterrupted ones, on a network and data that draw random numbers."""

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmengine", reason="mmengine is not installed")
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner

from rfnext.integrations import mmengine_runner
from rfnext.integrations.mmengine_runner import ContinuingRunner
from tests.checkpoints import differences

EPOCHS, STEPS = 3, 4
NUMBERS = itertools.count()
SCORED: list[int] = []


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking compilers for their versions and formatting the config, which take mmengine seconds."""
    monkeypatch.setattr(Runner, "_log_env", lambda runner, env_cfg: None)
    monkeypatch.setattr(Config, "pretty_text", property(repr))
    SCORED.clear()


@MODELS.register_module()
class Dropping(BaseModel):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 1))

    def forward(self, x: Tensor, mode: str = "tensor") -> Any:
        y = self.layers(x)
        return {"loss": (y - x[:, :1]).square().mean()} if mode == "loss" else list(y)


@DATASETS.register_module()
class Noisy(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Draws from all three generators for each sample, as augmentations do."""

    def __init__(self, size: int = 2 * STEPS) -> None:
        self.size, self.metainfo = size, {"classes": ("noise",)}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        noise = np.random.rand(4).astype(np.float32)  # noqa: NPY002
        return {"x": index + torch.from_numpy(noise) + torch.rand(4) + random.random()}


@METRICS.register_module()
class Counted(BaseMetric):
    """A score as mmdet computes it: a number of numpy."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(len(data_samples))

    def compute_metrics(self, results: list[int]) -> dict[str, Any]:
        SCORED.append(sum(results))
        return {"count": np.float64(sum(results))}


@HOOKS.register_module()
class Interrupt(Hook):
    """Ctrl-C after so many iterations of this process, or after an epoch's checkpoint."""

    priority = "LOWEST"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.step:
            raise KeyboardInterrupt


def run(folder: Path, stop: int | None = None, workers: int = 0, batch: int = 2, **changes: Any) -> Path:
    """Train, or go on; returns the last checkpoint."""
    loader = {
        "dataset": {"type": "Noisy"},
        "batch_size": batch,
        "sampler": {"type": "DefaultSampler", "shuffle": True},
        "collate_fn": {"type": "default_collate"},
        "num_workers": workers,
        "persistent_workers": workers > 0,  # as in mmdet's configs
    }
    settings = {
        "model": {"type": "Dropping"},
        "work_dir": str(folder),
        "train_dataloader": loader,
        "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS},
        "optim_wrapper": {"optimizer": {"type": "Adam", "lr": 5e-3}},
        "param_scheduler": [{"type": "ExponentialLR", "gamma": 0.9, "by_epoch": False}],
        "custom_hooks": [{"type": "Interrupt", "step": stop}] if stop else [],
        "randomness": {"seed": 7},
        "resume": True,
        "log_level": "ERROR",
        "experiment_name": f"runner{next(NUMBERS)}",
    }
    runner = ContinuingRunner.from_cfg(Config(settings | changes))
    if stop:
        with pytest.raises(KeyboardInterrupt):
            runner.train()
    else:
        runner.train()
    return folder / f"epoch_{EPOCHS}.pth"


def assert_same(one: Path, other: Path) -> None:
    loaded = [torch.load(path, weights_only=True) for path in (one, other)]
    assert len(loaded[0]["optimizer"]["state"]) == 6
    assert differences(*loaded) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_interrupted_within_every_epoch_equals_the_uninterrupted_one(workers: int, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", workers=workers)
    for epoch in range(EPOCHS):
        torch.rand(1)
        run(tmp_path / "parts", stop=epoch * STEPS + 2, workers=workers)
    assert_same(run(tmp_path / "parts", workers=workers), whole)


def test_epochs_do_not_repeat_each_others_random_numbers(tmp_path: Path) -> None:
    seen: list[Any] = []

    @HOOKS.register_module(force=True)
    class Watch(Hook):
        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            seen.append((data_batch["x"] % 1).sum().item())

    run(tmp_path, workers=1, custom_hooks=[{"type": "Watch"}])
    assert len(set(seen)) == EPOCHS * STEPS


def test_ranks_draw_other_random_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else they would mirror their images alike. What a rank sees here is its number alone."""
    seen: list[float] = []

    @HOOKS.register_module(force=True)
    class Watch(Hook):
        def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            seen.append((data_batch["x"] % 1).sum().item())

    for rank in (0, 1):
        monkeypatch.setattr(mmengine_runner, "get_rank", lambda rank=rank: rank)
        run(tmp_path / str(rank), custom_hooks=[{"type": "Watch"}])
    assert len(set(seen)) == 2 * EPOCHS * STEPS


def test_processes_that_would_start_at_different_epochs_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one, which finds no checkpoint on its own disk, is made up."""
    run(tmp_path, stop=STEPS + 1)
    monkeypatch.setattr(mmengine_runner, "all_gather_object", lambda own: [own, (0, 0)])
    with pytest.raises(RuntimeError, match=r"start at different .*\(1, 4\), \(0, 0\).*; share the work_dir"):
        run(tmp_path)


@pytest.mark.parametrize(
    "damage", ["pointer empty", "pointer cut", "pointer moved", "checkpoint cut", "checkpoint empty"]
)
def test_what_a_crash_leaves_half_written_is_passed_over(damage: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    folder = tmp_path / "parts"
    run(folder, stop=2 * STEPS + 1)
    pointer, checkpoint = folder / "last_checkpoint", folder / "epoch_2.pth"
    assert pointer.read_text() == str(checkpoint)
    match damage:
        case "pointer empty":
            pointer.write_text("")
        case "pointer cut":
            pointer.write_text(str(checkpoint)[:-5])
        case "pointer moved":
            folder = folder.rename(tmp_path / "moved")
        case "checkpoint cut":
            checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
        case "checkpoint empty":
            checkpoint.write_bytes(b"")
    assert_same(run(folder), whole)


def test_no_whole_checkpoint_is_one_clear_error(tmp_path: Path) -> None:
    run(tmp_path, stop=STEPS + 1)
    (tmp_path / "epoch_1.pth").write_bytes(b"PK")
    with pytest.raises(ValueError, match="cannot resume: .*epoch_1.pth is not a readable checkpoint"):
        run(tmp_path)
    (tmp_path / "epoch_1.pth").unlink()
    with pytest.raises(ValueError, match="cannot resume: .*last_checkpoint names no checkpoint that exists"):
        run(tmp_path)


def test_a_crash_while_writing_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, stop=STEPS + 1)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"cannot write .*epoch_2\.pth"):
        patch.setattr("os.fsync", full)
        run(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["epoch_1.pth"]
    assert (tmp_path / "last_checkpoint").read_text().endswith("epoch_1.pth")


def test_a_training_without_a_seed_keeps_the_one_that_it_drew(tmp_path: Path) -> None:
    run(tmp_path / "parts", stop=STEPS + 2, randomness={"seed": None})
    seed = torch.load(tmp_path / "parts/epoch_1.pth", weights_only=True)["meta"]["seed"]
    whole = run(tmp_path / "whole", randomness={"seed": seed})
    assert_same(run(tmp_path / "parts", randomness={"seed": None}), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"randomness": {"seed": 8}}, "is of a training with the seed 7, this one has 8"),
        ({"batch": 4}, "'batches per epoch': 4}, this one has .*'batches per epoch': 2}"),
        ({"model": {"type": "Dropping", "width": 5}}, "size mismatch"),
    ],
)
def test_another_training_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    run(tmp_path, stop=STEPS + 1)
    with pytest.raises((ValueError, RuntimeError), match=message):
        run(tmp_path, **changes)


def test_scores_that_an_interruption_lost_are_made_up_for(tmp_path: Path) -> None:
    loader = {"dataset": {"type": "Noisy", "size": 3}, "batch_size": 3, "collate_fn": {"type": "default_collate"}}
    scoring = {
        "val_dataloader": loader | {"sampler": {"type": "DefaultSampler", "shuffle": False}},
        "val_cfg": {},
        "val_evaluator": {"type": "Counted"},
        "train_cfg": {"by_epoch": True, "max_epochs": EPOCHS, "val_interval": 2},
    }

    @HOOKS.register_module(force=True)
    class Late(Hook):
        def before_val(self, runner: Runner) -> None:
            if runner.epoch == EPOCHS:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, custom_hooks=[{"type": "Late"}], **scoring)
    assert SCORED == [3]  # of the second epoch
    run(tmp_path, **scoring)
    assert SCORED == [3, 3]
    hub = torch.load(tmp_path / "epoch_3.pth", weights_only=True)["message_hub"]  # plain values
    assert hub["log_scalars"] == {}
