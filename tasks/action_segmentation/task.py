"""Action segmentation: which of a few classes every frame of a video belongs to.

Lightning and matplotlib are imported where they are used: they take seconds that --help can do without.
"""

import dataclasses
import functools
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from rfnext import Bounds, LocalConfig
from tasks.action_segmentation import models, seglearn_sessions
from tasks.action_segmentation.data import (
    Dataset,
    Layout,
    fail,
    open_dataset,
    open_layout,
    read_fold,
    read_mapping,
    read_shapes,
)
from tasks.action_segmentation.metrics import LastSegment
from tasks.spec import DataError, Metric, Probe, Run, Split, Task

DatasetName = Literal["seglearn", "50salads", "breakfast", "gtea", "folder"]
Model = Literal["ms_tcn", "ms_tcn_pp"]

RELEASE = "https://zenodo.org/records/3625992"
"""The data release of MS-TCN: I3D features and labels of Breakfast, 50 Salads and GTEA."""

I3D_SIZE = 2048
"""D of the release's features."""


@dataclass(frozen=True)
class Config:
    """Settings of one training. The defaults are those of RF-Next's published runs, on the embedded data."""

    dataset: DatasetName = "seglearn"
    """seglearn: embedded wrist recordings. 50salads, breakfast, gtea: the MS-TCN data release. folder: your
    own data in the same layout (`python -m tasks.action_segmentation.check PATH` validates it)."""
    root: Path | None = field(default=None, metadata={"protocol": False})
    """Data folder; by default $RFNEXT_DATA/<dataset>, or data/<dataset> in this repository."""
    folds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Numbers of the train/test splits, as in splits/train.split<fold>.bundle; none: every one in the data folder."""
    stride: int = 1
    """Use every stride-th frame; predictions are up-sampled and scored at all frames."""
    validation: float = 0.2
    """Share of each fold's training videos that is held out for validation."""
    group: str | None = seglearn_sessions.GROUP
    """Regular expression: videos whose names match alike (of one subject, say) are held out together."""
    last_segment: LastSegment = "i+1"
    """Where F1 takes the last segment to end: "i+1", or "i" as RF-Next's own score does."""

    model: Model = "ms_tcn"
    """ms_tcn: dilations 1, 2, 4, ... in every stage. ms_tcn_pp: MS-TCN++, dual dilations in the first stage."""
    stages: int = 4
    """Stages; each later one refines the prediction of the one before."""
    layers: int = 10
    """Layers per stage (MS-TCN++: per refinement stage)."""
    prediction_layers: int = 11
    """Layers of MS-TCN++'s first stage; of no effect on MS-TCN."""
    maps: int = 64
    """Channels of every layer."""
    dropout: float = 0.5
    """Dropout of every layer."""

    epochs: int = 65
    """Epochs of one training."""
    batch: int = 8
    """Videos per step."""
    lr: float = 5e-4
    """Learning rate of Adam."""
    lr_drop_epoch: int | None = 50
    """From this epoch on, counted from 0, the learning rate is a tenth; None: never."""
    smoothing: float = 0.15
    """Weight of the smoothing loss."""
    validate_every: int = 5
    """Epochs between two scorings of the validation part, from which the best epoch is chosen."""

    search: LocalConfig = field(
        default_factory=lambda: LocalConfig(interval=3, rounds=10, spread=0.1, branches=3, bounds=Bounds(1, 2048))
    )
    """Local search, counted in epochs; published except for the rule."""

    def __post_init__(self) -> None:
        if self.dataset not in get_args(DatasetName) or self.model not in get_args(Model):
            known = f"{', '.join(get_args(DatasetName))}; {', '.join(get_args(Model))}"
            raise ValueError(f"unknown dataset {self.dataset!r} or model {self.model!r}; known: {known}")
        for name in ("epochs", "batch", "stride", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


PRESETS = {
    # Small enough for seconds per training on one core; its search runs through all its rounds.
    "tiny": Config(
        stages=3,
        layers=6,
        maps=32,
        stride=4,
        epochs=32,
        lr=3e-3,
        lr_drop_epoch=24,
        search=LocalConfig(interval=2, rounds=12, spread=0.1, branches=3, bounds=Bounds(1, 128)),
    ),
    "small": Config(stride=2),
    "50salads": Config(dataset="50salads", stride=2, group=r"rgb-\d+"),
    "breakfast": Config(dataset="breakfast", folds=(1, 2, 3, 4), group=r"P\d+"),
    "gtea": Config(dataset="gtea", folds=(1, 2, 3, 4), group=r"S\d+"),
    "folder": Config(dataset="folder", folds=(), group=None),
    # Own data in a sixth of the time: half the stages and maps, fewer epochs, more steps per epoch.
    "compact": Config(
        dataset="folder",
        folds=(),
        group=None,
        stages=2,
        maps=32,
        batch=4,
        lr=2e-3,
        epochs=40,
        lr_drop_epoch=30,
    ),
}


def build(config: Config) -> nn.Module:
    """The untrained network for the config's data. Raises DataError if there is no usable data."""
    layout = open_layout(data_folder(config), fail)
    classes = len(read_mapping(layout, fail))
    feature_size = _feature_size(layout, config)
    sizes = {"stages": config.stages, "layers": config.layers, "maps": config.maps, "dropout": config.dropout}
    if config.model == "ms_tcn_pp":
        return models.ms_tcn_pp(feature_size, classes, prediction_layers=config.prediction_layers, **sizes)
    return models.ms_tcn(feature_size, classes, **sizes)


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """See `training.fit`."""
    from tasks.action_segmentation import training

    training.fit(model, _dataset(config, run.fold), config, run)


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    """f1@10, f1@25, f1@50, edit and accuracy in percent; see `metrics.score`."""
    from tasks.action_segmentation import training

    dataset = _dataset(config, split.fold)
    return training.score(model, dataset, dataset.part(split.part), config.last_segment)


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """One picture: truth and prediction of up to four videos as coloured strips."""
    from tasks.action_segmentation.illustrate import strips

    dataset = _dataset(config, split.fold)
    path = folder / f"fold{split.fold}-{split.part}.png"
    strips(model, dataset, dataset.part(split.part), path)
    return [path]


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    """The last stage's logit of the predicted class of a frame, on up to four videos of the part."""
    from tasks.action_segmentation import training

    dataset = _dataset(config, split.fold)
    return training.probe(model, dataset.part(split.part), dataset.stride)


def data_folder(config: Config) -> Path:
    """The folder of the config's data, which may be missing; the embedded data is made on first use.

    Raises DataError if the embedded data cannot be made.
    """
    if config.root is not None:
        return config.root
    if config.dataset == "seglearn":
        return seglearn_sessions.prepare()
    here = os.environ.get("RFNEXT_DATA") or Path(__file__).parents[2] / "data"
    return Path(here) / config.dataset


def folds(config: Config) -> tuple[int, ...]:
    """The config's folds; if it names none, those of the data folder, and (1,) while that is missing."""
    return config.folds or Layout(data_folder(config)).folds() or (1,)


def unavailable(config: Config) -> str | None:
    """Why the config's data cannot be used here and how to get it; None if nothing stands out.

    Opens the mapping, the bundles of all folds and the header of one feature file; what is wrong inside of
    the others, `python -m tasks.action_segmentation.check` finds.
    """
    try:
        if config.dataset == "seglearn" and config.root is None:
            seglearn_sessions.source()
            return None
        folder = data_folder(config)
        if not folder.is_dir() and config.dataset == "folder":
            return f"no folder {folder}; name your data by --root PATH, or link it there"
        if not folder.is_dir():
            return (
                f"no folder {folder}. Download data.zip (about 30 GB) of {RELEASE} and put its "
                f"data/{config.dataset} there, or set RFNEXT_DATA to the folder that holds {config.dataset}"
            )
        layout = open_layout(folder, fail)
        read_mapping(layout, fail)
        for fold in folds(config):
            read_fold(layout, fold, fail)
        size = _feature_size(layout, config)
        if config.dataset in PUBLISHED and size != I3D_SIZE:
            return (
                f"{folder} holds features of D = {size}, not the I3D features (D = {I3D_SIZE}) of {RELEASE}; "
                "use your own features by --dataset folder --root PATH"
            )
    except DataError as error:
        return str(error)
    return None


def longest_input(config: Config) -> int:
    """Frames of the longest training or test video, after `config.stride`."""
    return _longest_input(data_folder(config), folds(config), config.stride)


def shortened(config: Config, factor: int) -> Config:
    """The config with every `factor`-th of its frames; it is scored at all frames all the same."""
    return dataclasses.replace(config, stride=config.stride * factor)


@functools.lru_cache(maxsize=1)
def _longest_input(root: Path, folds: tuple[int, ...], stride: int) -> int:
    layout = open_layout(root, fail)
    names = {name for fold in folds for part in read_fold(layout, fold, fail) for name in part}
    return max(math.ceil(frames / stride) for _, frames in read_shapes(layout, sorted(names), fail).values())


def _feature_size(layout: Layout, config: Config) -> int:
    train, _ = read_fold(layout, folds(config)[0], fail)
    ((size, _),) = read_shapes(layout, [next(iter(train))], fail).values()
    return size


def _dataset(config: Config, fold: int) -> Dataset:
    if fold not in folds(config):
        raise ValueError(f"fold {fold} is not one of {folds(config)}")
    return _opened(data_folder(config), fold, config.stride, config.validation, config.group)


@functools.lru_cache(maxsize=1)
def _opened(root: Path, fold: int, stride: int, validation: float, group: str | None) -> Dataset:
    # Fitting and scoring one cell read the same fold; its features stay in memory from one to the next.
    return open_dataset(root, fold=fold, stride=stride, validation=validation, group=group)


PUBLISHED = ("50salads", "breakfast", "gtea")
"""Datasets and presets whose numbers papers report."""

LABELS = {
    "seglearn": "seglearn wrist recordings in composed sessions (embedded)",
    "50salads": "50 Salads, I3D features of the MS-TCN release",
    "breakfast": "Breakfast, I3D features of the MS-TCN release",
    "gtea": "GTEA, I3D features of the MS-TCN release",
}


def data_label(config: Config) -> str:
    """What the numbers are measured on."""
    if config.dataset == "folder" or (config.dataset == "seglearn" and config.root is not None):
        return f"own data in {data_folder(config).resolve().name}"
    return LABELS[config.dataset]


def published(config: Config) -> str | None:
    """Key of the papers' numbers, if the config has the data, folds and frames that they were measured on."""
    if config.dataset not in PUBLISHED:
        return None
    preset = PRESETS[config.dataset]
    same = (config.folds, config.stride) == (preset.folds, preset.stride)
    return f"action_segmentation.{config.dataset}" if same else None


TASK = Task(
    name="action_segmentation",
    version=1,
    # In the papers' order; so the first, which drives searches, is the one that Global2Local ranks by.
    metrics=(Metric("f1@10"), Metric("f1@25"), Metric("f1@50"), Metric("edit"), Metric("accuracy")),
    presets=PRESETS,
    build=build,
    fit=fit,
    evaluate=evaluate,
    where=models.searched,
    unavailable=unavailable,
    folds=folds,
    data_label=data_label,
    published=published,
    illustrate=illustrate,
    longest_input=longest_input,
    probe=probe,
    probability_batches=("train", "held_out"),
    shortened=shortened,
)
