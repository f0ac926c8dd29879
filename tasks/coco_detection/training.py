"""Training on one fold by mmengine's Runner.

A run that is killed and resumed gives the weights of the uninterrupted one, bit for bit on CPUs: `ContinuingRunner`
says how.
"""

from rfnext.integrations import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

import dataclasses
import functools
import itertools
import logging
import multiprocessing
from pathlib import Path
from typing import Any

import torch
from mmdet.datasets import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from rfnext import Search
from rfnext.integrations.mmengine import LocalSearchHook
from rfnext.integrations.mmengine_runner import ContinuingRunner
from rfnext.integrations.wandb import init_arguments
from tasks.checkpoint import save as save_network
from tasks.coco_detection import datasets
from tasks.coco_detection.config import Config
from tasks.coco_detection.data import Dataset
from tasks.coco_detection.evaluation import score
from tasks.coco_detection.mmdetection import recipes
from tasks.coco_detection.mmdetection.loading import read_part
from tasks.coco_detection.mmdetection.quiet import quiet
from tasks.rounds import check_rounds
from tasks.spec import SELECTED, Progress, Run, device_of

log = logging.getLogger(__name__)

CHECKPOINT = "last.pth"
"""The state after the last whole epoch, in `Run.folder`, from which training continues if `Run.resume` is set."""


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """Train the detector in place on the run's fold and leave it at its last epoch.

    Every `config.validate_every` epochs, and after the last one, the validation part is scored; the network of the
    epoch with the highest mean of box and mask mAP (or of box mAP alone, or of PQ; the first of equals) goes to
    `run.folder / SELECTED`. The test part is never read. With
    no epochs, the network stays as it is.

    Raises:
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run; if a search has no
            epochs, or by rule "paper" no round in them.
        DataError: naming the file, if an image or its annotations cannot be used; none is passed over.
    """
    if config.epochs == 0:
        if run.search is not None:
            raise ValueError("epochs is 0: nothing is searched; give --epochs, or a method without a search")
        model.to(device_of(run.device))
        return
    check_rounds(run.search, config.epochs, "epochs")
    dataset = datasets.open_fold(config, run.fold)
    device, recipe = device_of(run.device), recipes.recipe(config)
    with quiet():
        data = read_part(dataset, dataset.train, config, training=True)
    sampler = DefaultSampler(data, shuffle=True, seed=run.seed, round_up=False)
    loading: dict[str, Any] = {"num_workers": config.workers, "collate_fn": pseudo_collate}
    if recipe.group_by_aspect_ratio:
        loader = DataLoader(data, batch_sampler=AspectRatioBatchSampler(sampler, config.batch), **loading)
    else:
        loader = DataLoader(data, config.batch, sampler=sampler, generator=torch.Generator(), **loading)
    validation = _Validation(dataset, config, run.folder / SELECTED)
    hooks: list[Hook | dict] = [_OfThisRun(run), validation, _Progress(run, validation)]
    if run.search is not None:
        hooks.append(LocalSearchHook(run.search, every="epoch"))
    checkpoint = run.folder / CHECKPOINT
    if run.resume and not checkpoint.exists():
        log.info("%s does not exist: no epoch was finished, starting from the first", checkpoint)
    # mmengine resumes schedules with the length that they were begun with.
    whole = dataclasses.replace(config, epochs=run.schedule_epochs or config.epochs)
    model.to(device)
    with quiet():
        runner = _Runner(
            model,
            str(run.folder),
            train_dataloader=loader,
            train_cfg={"by_epoch": True, "max_epochs": config.epochs},
            optim_wrapper=_optimizer(model, recipe.optimizer(device), run.search),
            param_scheduler=recipes.recipe(whole).schedule(len(loader) * whole.epochs),
            default_hooks=_default_hooks(run),
            custom_hooks=hooks,
            load_from=str(checkpoint) if run.resume and checkpoint.exists() else None,
            resume=run.resume and checkpoint.exists(),
            env_cfg={"mp_cfg": {"mp_start_method": multiprocessing.get_start_method()}},
            log_level="INFO" if run.logger != "none" else "ERROR",
            visualizer=_visualizer(run),
            default_scope="mmdet",
            randomness={"seed": run.seed},
            experiment_name=f"{run.folder.name}-{next(_NUMBERS)}",
        )
        runner.train()


def _optimizer(model: nn.Module, settings: dict[str, Any], search: Search | None) -> OptimWrapper:
    """mmengine's optimizer, with a learning rate of their own for those parameters for which the search sets one."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        wrapper: Any = build_optim_wrapper(model, settings)
    own_groups = [group for group in search.parameter_groups() if "lr" in group] if search else []
    own = {id(parameter) for group in own_groups for parameter in group["params"]}
    groups = wrapper.optimizer.param_groups
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
    groups[:] = [group for group in groups if group["params"]]
    for group in own_groups:
        wrapper.optimizer.add_param_group({"weight_decay": 0.0} | group)
    return wrapper


_NUMBERS = itertools.count()
"""mmengine keeps loggers and scopes by the names of experiments; those of one process must differ."""


class _Runner(ContinuingRunner):
    """The runner for a model that is initialised, wrapped by a search perhaps, and on its device."""

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        return model

    def _init_model_weights(self) -> None:
        pass

    def _log_env(self, env_cfg: Any) -> None:
        pass  # takes a second and starts compilers to get their version


class _Validation(Hook):
    """Scores the validation part and keeps the network of the best epoch, before the epoch's round of a search."""

    priority = "HIGH"

    def __init__(self, dataset: Dataset, config: Config, selected: Path) -> None:
        self.dataset, self.config = dataset, config
        self.keep = functools.partial(save_network, selected, "coco_detection", config, facts=datasets.facts(config))
        self.best = float("-inf")
        self.scores: dict[str, float] = {}

    def after_train_epoch(self, runner: Runner) -> None:
        epoch = runner.epoch + 1
        self.scores = {}
        if epoch % self.config.validate_every and epoch != self.config.epochs:
            return
        scores = self.scores = score(runner.model, self.dataset, "validation", self.config)
        runner.visualizer.add_scalars({f"validation/{name}": value for name, value in scores.items()}, step=epoch)
        means = [scores[name] for name in ("PQ", "box_mAP", "mask_mAP") if name in scores]
        mean = sum(means) / len(means)
        if mean > self.best:
            self.best = mean
            self.keep(runner.model)
        said = ", ".join(f"{name} {value:.1f}" for name, value in scores.items())
        log.info("epoch %d of %d, validation: %s", epoch, self.config.epochs, said)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = self.best

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self.best = checkpoint["best"]


class _Progress(Hook):
    """Tells the run how far it is."""

    priority = "LOW"

    def __init__(self, run: Run, validation: _Validation) -> None:
        self.run, self.validation = run, validation

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.run.progress(Progress(runner.epoch, batch_idx + 1, len(runner.train_dataloader)))

    def after_train_epoch(self, runner: Runner) -> None:
        steps = len(runner.train_dataloader)
        self.run.progress(Progress(runner.epoch + 1, 0, steps, self.validation.scores))


class _OfThisRun(Hook):
    """Refuses the checkpoint of another run. A longer training may go on from a shorter one."""

    priority = "LOWEST"

    def __init__(self, run: Run) -> None:
        self.run = {"fold": run.fold, "searching": run.search is not None}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = self.run

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("run") != self.run:
            raise ValueError(
                f"cannot resume: the checkpoint is of the run {checkpoint.get('run')}, this one is {self.run}; "
                "give another folder, or do not resume"
            )


def _default_hooks(run: Run) -> dict[str, Any]:
    hooks: dict[str, Any] = {"checkpoint": {"type": "CheckpointHook", "interval": 1, "filename_tmpl": CHECKPOINT}}
    if run.logger == "none":
        hooks |= {"timer": None, "logger": None}
    return hooks


def _visualizer(run: Run) -> dict[str, Any]:
    """What writes the numbers; each logger is one of mmengine's backends."""
    match run.logger:
        case "none":
            backends = []
        case "csv":
            backends = [{"type": "LocalVisBackend"}]
        case "tensorboard":
            backends = [{"type": "TensorboardVisBackend"}]
        case "wandb":
            settings = init_arguments(run.folder, name=run.name, group=run.group)
            backends = [{"type": "WandbVisBackend", "init_kwargs": settings}]
    return {"type": "mmengine.Visualizer", "vis_backends": backends, "save_dir": str(run.folder)}
