"""The 20 configs at a tiny size, for the tests of their trainer: the published pipelines, optimizers and hooks."""

import os
import signal
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tasks.coco_detection import configs, datasets
from tasks.coco_detection.config import Config
from tasks.coco_detection.detectors import model_config

EPOCHS = 3


@HOOKS.register_module(force=True)
class Stop(Hook):
    """Ends the training after an iteration, or after the epoch that it ends: by a signal, or as Ctrl-C does."""

    priority = "LOWEST"

    def __init__(self, at: int, epoch: bool = False, by: int | None = None) -> None:
        self.at, self.epoch, self.by = at, epoch, by

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.at and not self.epoch:
            self._stop()

    def before_train_epoch(self, runner: Runner) -> None:
        if runner.iter == self.at and self.epoch:
            self._stop()

    def _stop(self) -> None:
        if self.by is None:
            raise KeyboardInterrupt
        os.kill(os.getpid(), self.by)
        signal.pause()


def small(config: Config, mode: str, structure: Path | None = None) -> Any:
    """The config file of a detector and mode for embedded scenes, a tiny network, 3 epochs and one loading process.

    structure: what the fixed modes train with.
    """
    facts = datasets.facts(config)
    classes, things = facts["classes"], facts["things"]
    changed = configs.load(configs.FOLDER / f"{config.detector}_{mode}.py")
    changed.model = model_config(config.detector, "tiny", len(classes), things)
    names = ["tasks.coco_detection.small_res2net", "tests.tasks.coco_detection.small_configs"]
    names += changed.get("custom_imports", {}).get("imports", [])
    changed.custom_imports = {"imports": names, "allow_failed_imports": False}
    for key in ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        changed[key] = _shrunk(changed[key])
    meta = {"classes": classes, "thing_classes": classes[:things], "stuff_classes": classes[things:]}
    for loader in (changed.train_dataloader, changed.val_dataloader):
        loader.dataset.metainfo = {key: tuple(value) for key, value in meta.items()}
        loader.dataset.filter_cfg = {"filter_empty_gt": True}
    changed.train_dataloader.num_workers = 1
    changed.train_cfg.update(max_epochs=EPOCHS, val_interval=EPOCHS)
    changed.param_scheduler[0].update(end=4, start_factor=0.5)
    changed.randomness = {"seed": 3}
    if config.detector == "panoptic":  # mmdet scores them by a package that is not on PyPI
        changed.val_dataloader = changed.val_cfg = changed.val_evaluator = None
    if structure is not None:
        changed.custom_hooks[0].rfstructure_file = str(structure)
    return changed


def write(config: Any, path: Path) -> None:
    """Write a config file, within milliseconds: mmengine formats them, which takes seconds."""
    path.write_text("\n".join(f"{name} = {value!r}" for name, value in config.to_dict().items()), encoding="utf-8")


def _shrunk(value: Any) -> Any:
    """The loader or evaluator over the embedded scenes, with images of a tenth of the size."""
    if isinstance(value, dict):
        if value.get("type") == "LoadPanopticAnnotations":  # likewise
            return {"type": "tasks.coco_detection.mmdetection.loading.LoadPanoptic"}
        sizes = ("scale", "scales", "crop_size")
        return {key: _tenth(entry) if key in sizes else _shrunk(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_shrunk(entry) for entry in value]
    return value.replace("train2017", "train").replace("val2017", "test") if isinstance(value, str) else value


def _tenth(size: Any) -> Any:
    return size // 10 if isinstance(size, int) else type(size)(_tenth(entry) for entry in size)
