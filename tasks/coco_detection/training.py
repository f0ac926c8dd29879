# ruff: noqa: E402  (the stand-in for mmcv's operators comes before mmdet)
"""Training on one fold by mmengine's Runner, prediction and scoring.

A run that is killed and resumed gives the weights of the uninterrupted one, bit for bit on CPUs: every epoch starts
its random generators from the seed and its own number.
"""

from tasks.coco_detection import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

import dataclasses
import io
import itertools
import json
import logging
import multiprocessing
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from mmdet.datasets import AspectRatioBatchSampler, CocoDataset, CocoPanopticDataset
from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from rfnext import LocalSearch, OneShotSearch
from rfnext.files import write_bytes
from rfnext.integrations.mmengine import LocalSearchHook
from rfnext.integrations.wandb import init_arguments
from rfnext.ops.choice import reproducible
from tasks.coco_detection import metrics, recipes
from tasks.coco_detection.data import Dataset, PartFiles
from tasks.coco_detection.quiet import quiet
from tasks.coco_detection.task import Config, metrics_by_config
from tasks.spec import SELECTED, Part, Probe, Run

log = logging.getLogger(__name__)

Sample = Any
"""mmdet's DetDataSample, whose fields are set at run time and known to no checker."""

CHECKPOINT = "last.pth"
"""What training goes on from after the last whole epoch, in `Run.folder`; `Run.resume` looks for it."""


def fit(model: nn.Module, dataset: Dataset, config: Config, run: Run) -> None:
    """Train the detector in place on the fold's training part and leave it at its last epoch.

    Every `config.validate_every` epochs, and after the last one, the validation part is scored; the state_dict of the
    epoch with the highest mean of box and mask mAP (panoptic: the highest PQ; the first of equals) goes to
    `run.folder / SELECTED`. The test part is never read.

    Raises:
        ValueError: if `run.resume` is set and the checkpoint is broken or belongs to another run.
    """
    device, recipe = device_of(run.device), recipes.recipe(config)
    with quiet():
        data = read_part(dataset, dataset.train, config, training=True)
    sampler = DefaultSampler(data, shuffle=True, seed=run.seed, round_up=False)
    loading: dict[str, Any] = {"num_workers": config.workers, "collate_fn": pseudo_collate}
    if recipe.group_by_aspect_ratio:
        loader = DataLoader(data, batch_sampler=AspectRatioBatchSampler(sampler, config.batch), **loading)
    else:
        loader = DataLoader(data, config.batch, sampler=sampler, generator=torch.Generator(), **loading)
    hooks: list[Hook | dict] = [_EpochSeed(run.seed), _Validation(dataset, config, run.folder)]
    if run.search is not None:
        hooks.append(LocalSearchHook(run.search, every="epoch"))
    hooks.append(_Checkpoint(run))
    checkpoint = run.folder / CHECKPOINT
    if run.resume and not checkpoint.exists():
        log.info("%s does not exist: no epoch was finished, starting from the first", checkpoint)
    # mmengine resumes schedules with the length that they were begun with.
    whole = dataclasses.replace(config, epochs=run.schedule_epochs or config.epochs)
    model.to(device)
    with quiet(), reproducible(device):
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


def _optimizer(model: nn.Module, settings: dict[str, Any], search: LocalSearch | OneShotSearch | None) -> OptimWrapper:
    """mmengine's optimizer; the branch weights of a one-shot search have their own learning rate."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        wrapper: Any = build_optim_wrapper(model, settings)
    if isinstance(search, OneShotSearch):
        own = {id(weight) for weight in search.branch_weights()}
        groups = wrapper.optimizer.param_groups
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
        groups[:] = [group for group in groups if group["params"]]
        branches = {"params": search.branch_weights(), "lr": search.branch_learning_rate, "weight_decay": 0.0}
        wrapper.optimizer.add_param_group(branches)
    return wrapper


_NUMBERS = itertools.count()
"""mmengine keeps loggers and scopes by the names of experiments; those of one process must differ."""


class _Runner(Runner):
    """mmengine's Runner for a model that is initialised, wrapped by a search perhaps, and on its device."""

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        return model

    def _init_model_weights(self) -> None:
        pass

    def _log_env(self, env_cfg: Any) -> None:
        pass  # takes a second and starts compilers to ask for their version

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            checkpoint = torch.load(filename, map_location="cpu", weights_only=True)
        except Exception as error:  # the bytes of a broken file lead torch to errors of any kind
            raise ValueError(f"{filename} is not a readable checkpoint ({error!r}); delete it to start anew") from error
        self.call_hook("after_load_checkpoint", checkpoint=checkpoint)
        self.model.load_state_dict(checkpoint["state_dict"])
        return checkpoint


class _EpochSeed(Hook):
    """Starts all random generators anew at each epoch, from the seed and the epoch."""

    priority = "VERY_HIGH"

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_train_epoch(self, runner: Runner) -> None:
        draw = random.Random(f"epoch/{self.seed}/{runner.epoch}").getrandbits
        random.seed(draw(32))
        np.random.seed(draw(32))  # noqa: NPY002 (what mmdet's transforms draw from)
        torch.manual_seed(draw(32))


class _Validation(Hook):
    """Scores the validation part and keeps the weights of the best epoch, before the epoch's round of a search."""

    priority = "HIGH"

    def __init__(self, dataset: Dataset, config: Config, folder: Path) -> None:
        self.dataset, self.config, self.folder = dataset, config, folder
        self.best = float("-inf")

    def after_train_epoch(self, runner: Runner) -> None:
        epoch = runner.epoch + 1
        if epoch % self.config.validate_every and epoch != self.config.epochs:
            return
        scores = score(runner.model, self.dataset, "validation", self.config)
        runner.visualizer.add_scalars({f"validation/{name}": value for name, value in scores.items()}, step=epoch)
        mean = scores["PQ"] if self.dataset.kind == "panoptic" else (scores["box_mAP"] + scores["mask_mAP"]) / 2
        if mean > self.best:
            self.best = mean
            write_bytes(self.folder / SELECTED, _serialised(runner.model.state_dict()))
        log.info("epoch %d: %s", epoch, ", ".join(f"{name} {value:.1f}" for name, value in scores.items()))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = self.best

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        self.best = checkpoint["best"]


class _Checkpoint(Hook):
    """Writes what a run goes on from, whole or not at all, after each epoch and all other hooks.

    mmengine's own CheckpointHook overwrites files in place and stores pickled objects, the history of what was logged.
    """

    priority = "LOWEST"

    def __init__(self, run: Run) -> None:
        # What makes a checkpoint useless to another run. A longer training may go on from a shorter one.
        self.run = {"seed": run.seed, "fold": run.fold, "searching": run.search is not None}
        self.path = run.folder / CHECKPOINT

    def after_train_epoch(self, runner: Runner) -> None:
        # Of mmengine's types no checker knows that all is built by now.
        data: Any = runner.train_dataloader.dataset
        optimizer, schedulers = cast(Any, runner.optim_wrapper), cast(Any, runner.param_schedulers)
        checkpoint: dict[str, Any] = {
            "run": self.run,
            "meta": {"epoch": runner.epoch + 1, "iter": runner.iter, "dataset_meta": data.metainfo},
            "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},  # mmengine asks for them
            "state_dict": runner.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "param_schedulers": [scheduler.state_dict() for scheduler in schedulers],
        }
        runner.call_hook("before_save_checkpoint", checkpoint=checkpoint)
        write_bytes(self.path, _serialised(checkpoint))

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("run") != self.run:
            raise ValueError(
                f"cannot resume: the checkpoint is of the run {checkpoint.get('run')}, this one is {self.run}; "
                "give another folder, or do not resume"
            )


class LoadPanoptic(LoadPanopticAnnotations):
    """mmdet's transform, without the package panopticapi, of which it uses one function."""

    def __init__(self) -> None:
        LoadAnnotations.__init__(self, with_bbox=True, with_label=True, with_mask=True, with_seg=True)
        self.rgb2id = metrics.rgb_to_id


@torch.no_grad()
def predict(model: nn.Module, loader: Any) -> Iterator[Sample]:
    """The detector's predictions on the batches of a loader, image by image, in evaluation mode.

    Runs on the model's device and leaves the mode as it was.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for batch in loader:
            with quiet(), reproducible(device):
                samples = model.test_step(batch)  # type: ignore[operator]
            yield from samples
    finally:
        model.train(training)


def score(model: nn.Module, dataset: Dataset, part: Part, config: Config) -> dict[str, float]:
    """All metrics of `config` in percent on a part of a dataset: box and mask mAP by pycocotools, or PQ, SQ and RQ."""
    with quiet():
        files = dataset.part(part)
        loader = test_loader(dataset, files, config)
        if dataset.kind == "panoptic":
            return _score_panoptic(model, dataset, files, loader)
        metric = CocoMetric(ann_file=str(files.annotations), metric=["bbox", "segm"])
        evaluator = Evaluator([metric])
        evaluator.dataset_meta = {"classes": dataset.classes}
        for sample in predict(model, loader):
            evaluator.process([sample])
        found = evaluator.evaluate(len(cast(CocoDataset, loader.dataset)))
    # Nothing is reported where nothing was detected, and -1 where there is nothing to detect.
    return {
        metric.name: 100 * max(0.0, float(found.get(MMDET_NAMES[metric.name], 0.0)))
        for metric in metrics_by_config(config)
    }


MMDET_NAMES = {
    f"{ours}_mAP{ours_end}": f"coco/{theirs}_mAP{their_end}"
    for ours, theirs in (("box", "bbox"), ("mask", "segm"))
    for ours_end, their_end in (("", ""), ("50", "_50"), ("_s", "_s"), ("_m", "_m"), ("_l", "_l"))
}
"""Our names of metrics -> those of mmdet's CocoMetric."""


def _score_panoptic(model: nn.Module, dataset: Dataset, files: PartFiles, loader: DataLoader) -> dict[str, float]:
    content = json.loads(files.annotations.read_text("utf-8"))
    truths = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    category = [entry["id"] for entry in content["categories"]]
    assert files.maps is not None
    quality = metrics.PanopticQuality()
    for sample in predict(model, loader):
        truth = truths[sample.img_id]
        with Image.open(files.maps / truth["file_name"]) as image:
            ids = metrics.rgb_to_id(np.asarray(image.convert("RGB")))
        predicted, segments = panoptic_segments(sample, category)
        quality.add(ids, truth["segments_info"], predicted, segments)
    return quality.scores()


PROBED = 2
"""Images that receptive fields are measured on."""

STRIDE = 32
"""Of the coarsest feature map of all backbones."""


def probe(model: nn.Module, dataset: Dataset, part: Part, config: Config) -> Probe:
    """What to measure receptive fields on: `PROBED` images, spread evenly over the part, scaled as for prediction.

    The output is the strongest channel of the backbone's coarsest feature map: layer normalisation, which
    ends some backbones, leaves the sum of the channels without a gradient.
    """
    detector: Any = model
    with quiet():
        data = read_part(dataset, dataset.part(part), config, training=False)
        chosen = np.unique(np.linspace(0, len(data) - 1, PROBED).round().astype(int)).tolist()
        inputs = [detector.data_preprocessor(pseudo_collate([data[index]]), False)["inputs"] for index in chosen]
    return Probe(
        forward=lambda x: detector.backbone(x)[-1].amax(1, keepdim=True),
        inputs=inputs,
        unit="pixels",
        step=(1.0, 1.0),
        output="the strongest channel of the backbone's coarsest feature map",
        shift=0.0 if config.detector == "convnext" else -(STRIDE - 1) / 2,  # ConvNeXt's patches do not overlap
    )


def panoptic_segments(sample: Sample, category: list[int]) -> tuple[metrics.Ids, list[dict[str, int]]]:
    """A panoptic prediction as segment ids, (H, W), and the segments.

    category: id of each label; labels beyond are void.
    """
    found = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy().astype(np.int64)
    labels = found % INSTANCE_OFFSET
    ids = np.where(labels < len(category), found + 1, metrics.VOID)
    return ids, [
        {"id": id_, "category_id": category[(id_ - 1) % INSTANCE_OFFSET]}
        for id_ in np.unique(ids).tolist()
        if id_ != metrics.VOID
    ]


def test_loader(dataset: Dataset, files: PartFiles, config: Config) -> DataLoader:
    """Batches of a part for `predict`, in the order of its annotations."""
    data = read_part(dataset, files, config, training=False)
    return DataLoader(data, config.batch, num_workers=config.workers, collate_fn=pseudo_collate)


def read_part(dataset: Dataset, files: PartFiles, config: Config, *, training: bool) -> CocoDataset:
    """mmdet's dataset of a part: with annotations and without images that have none, or images alone."""
    recipe = recipes.recipe(config)
    pipeline = recipe.train_pipeline if training else recipe.test_pipeline
    things, stuff = dataset.classes[: dataset.things], dataset.classes[dataset.things :]
    with DefaultScope.overwrite_default_scope("mmdet"):  # registered transforms are looked up in the current scope
        return (CocoDataset if files.maps is None else CocoPanopticDataset)(
            ann_file=str(files.annotations),
            metainfo={"classes": dataset.classes, "thing_classes": things, "stuff_classes": stuff},
            data_prefix={"img": str(files.images)} | ({"seg": str(files.maps)} if files.maps else {}),
            pipeline=[LoadPanoptic() if step["type"] == "LoadPanopticAnnotations" else step for step in pipeline],
            filter_cfg={"filter_empty_gt": True, "min_size": 32} if training else None,
            test_mode=not training,
        )


def _serialised(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def device_of(name: str) -> torch.device:
    """The device of "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1", ..."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def _default_hooks(run: Run) -> dict[str, Any]:
    hooks: dict[str, Any] = {"checkpoint": None}
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
