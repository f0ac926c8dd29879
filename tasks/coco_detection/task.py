"""COCO detection: boxes and masks, or panoptic segments, by the five detectors that RF-Next searched.

mmdet and matplotlib are imported where they are used: they take seconds that --help can do without.
"""

import dataclasses
import functools
import importlib.util
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from torch import nn

from rfnext import Bounds, LocalConfig
from tasks.coco_detection import detectors, scenes
from tasks.coco_detection.data import DOWNLOADS, Dataset, Kind, Layout, open_dataset
from tasks.coco_detection.detectors import Detector, Size
from tasks.spec import DataError, Metric, Probe, Run, Split, Task

DatasetName = Literal["scenes", "coco", "folder"]


@dataclass(frozen=True)
class Config:
    """Settings of one training. The defaults are those of small detectors on the embedded data."""

    dataset: DatasetName = "scenes"
    """scenes: embedded, digits on photographs. coco: COCO 2017. folder: your own data in COCO's layout
    (`python -m tasks.coco_detection.check PATH` validates it)."""
    root: Path | None = field(default=None, metadata={"protocol": False})
    """Data folder; by default $RFNEXT_DATA/coco, or data/coco in this repository."""
    train_part: str = "train2017"
    """Training part: images in ROOT/<part>, annotations in ROOT/annotations/instances_<part>.json."""
    test_part: str = "val2017"
    """Test part, likewise. Of no effect on the embedded data."""
    folds: tuple[int, ...] = (1,)
    """Folds to run: 1 to 3 of the embedded data; all other data is one fold."""
    scenes: int = 240
    """Training scenes of the embedded data, validation included; there are a quarter as many test scenes."""
    digits: int = 10
    """How many of the ten digits occur in the embedded data: 0 .. digits - 1."""
    validation: float = 0.2
    """Share of the training images that is held out for validation."""

    detector: Detector = "res2net"
    """convnext, res2net, hrnet: Cascade Mask R-CNN. pvtv2: Mask R-CNN. panoptic: Res2Net Panoptic FPN."""
    size: Size = "small"
    """published, or a narrow and shallow detector of the same family: small, tiny."""
    image: int = 128
    """Longer side of images in pixels; of no effect at the size "published", which scales as published."""

    epochs: int = 10
    """Epochs of one training."""
    batch: int = 8
    """Images per step."""
    lr: float = 0.012
    """Learning rate for 16 images a step; scaled linearly with the batch."""
    validate_every: int = 5
    """Epochs between two scorings of the validation part, from which the best epoch is chosen."""
    workers: int = field(default=0, metadata={"protocol": False})
    """Processes that load images; 0: the training process itself."""

    search: LocalConfig = field(
        default_factory=lambda: LocalConfig(interval=1, rounds=9, spread=0.5, branches=2, bounds=Bounds(1, 24))
    )
    """Local search, counted in epochs."""

    def __post_init__(self) -> None:
        for name, known in (("dataset", DatasetName), ("detector", Detector), ("size", Size)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(get_args(known))}")
        for name in ("epochs", "batch", "image", "scenes", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def _for_all(preset: str, config: Config) -> dict[str, Config]:
    """A preset for each detector: that of Res2Net has the name alone."""
    names = {detector: preset if detector == "res2net" else f"{preset}-{detector}" for detector in get_args(Detector)}
    order: list[Detector] = sorted(get_args(Detector), key=lambda detector: detector != "res2net")
    return {names[detector]: dataclasses.replace(config, detector=detector) for detector in order}


def _published(detector: Detector, epochs: int, lr: float, rounds: int) -> Config:
    """mmdet's schedule of a detector, with the settings of RF-Next's search."""
    return Config(
        dataset="coco",
        validation=0.02,
        detector=detector,
        size="published",
        epochs=epochs,
        batch=16,
        lr=lr,
        validate_every=4,
        workers=4,
        search=LocalConfig(interval=1, rounds=rounds, spread=0.5, branches=2, bounds=Bounds(1, 24)),
    )


PRESETS: dict[str, Config] = {
    # Small enough for seconds per training on one core; the search runs through all its rounds.
    **_for_all(
        "tiny",
        Config(
            scenes=100,
            digits=3,
            size="tiny",
            image=96,
            epochs=6,
            validate_every=3,
            search=LocalConfig(interval=1, rounds=5, spread=0.5, branches=2, bounds=Bounds(1, 24)),
        ),
    ),
    **_for_all("small", Config(digits=5)),
    "coco-convnext": _published("convnext", epochs=36, lr=2e-4, rounds=11),
    "coco-pvtv2": _published("pvtv2", epochs=12, lr=2e-4, rounds=10),
    "coco-res2net": _published("res2net", epochs=20, lr=0.02, rounds=11),
    "coco-hrnet": _published("hrnet", epochs=20, lr=0.02, rounds=11),
    "coco-panoptic": _published("panoptic", epochs=12, lr=0.02, rounds=10),
    "folder": Config(dataset="folder", image=256),
}


def build(config: Config) -> nn.Module:
    """The initialised detector for the config's data. Raises DataError if there is no usable data."""
    dataset = _dataset(config, folds(config)[0])
    return detectors.build(config.detector, config.size, len(dataset.classes), dataset.things)


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """See `training.fit`."""
    from tasks.coco_detection import training

    training.fit(model, _dataset(config, run.fold), config, run)


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    """Box and mask mAP, or PQ, SQ and RQ, in percent; see `training.score`."""
    from tasks.coco_detection import training

    return training.score(model, _dataset(config, split.fold), split.part, config)


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """One picture: four images with the predicted boxes and masks, or panoptic segments."""
    from tasks.coco_detection.illustrate import gallery

    path = folder / f"fold{split.fold}-{split.part}.png"
    gallery(model, _dataset(config, split.fold), split.part, config, path)
    return [path]


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    """The backbone's coarsest feature map, on two images of the part."""
    from tasks.coco_detection import training

    return training.probe(model, _dataset(config, split.fold), split.part, config)


def classes(config: Config) -> tuple[str, ...]:
    """Names of the classes in the order of the detector's labels. Raises DataError if there is no usable data."""
    return _dataset(config, folds(config)[0]).classes


def folds(config: Config) -> tuple[int, ...]:
    """The config's folds; data with parts of its own is one fold."""
    return config.folds if _embedded(config) else (1,)


def longest_input(config: Config) -> int:
    """Side of the finest feature map, a quarter of the image's; only stems and patch embeddings read more."""
    return (1333 if config.size == "published" else config.image) // 4


def unavailable(config: Config) -> str | None:
    """What to install, or to download and where to put it; None if the config can run here."""
    packages = ("mmengine", "mmcv", "mmdet", "mmpretrain", "pycocotools", "torchvision")
    lacking = [package for package in packages if importlib.util.find_spec(package) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed; in the repository: pip install '.[detection]'"
    if _embedded(config):
        return scenes.missing()
    layout = _layout(config, 1)
    if config.dataset == "folder" and config.root is None:
        return "which folder? Give one in COCO's layout by --root PATH; python -m tasks.coco_detection.check PATH"
    for name in (layout.train, layout.test):
        for path in (layout.file(_kind(config), name), layout.images(name)):
            if not path.exists():
                advice = DOWNLOADS if config.dataset == "coco" else "python -m tasks.coco_detection.check says more"
                return f"{path} is missing; {advice}"
    try:
        if config.dataset == "folder":  # COCO takes a minute to read
            _dataset(config, 1)
    except DataError as error:
        return str(error)
    return None


def _embedded(config: Config) -> bool:
    return config.dataset == "scenes"


def _kind(config: Config) -> Kind:
    return "panoptic" if config.detector == "panoptic" else "instances"


def _layout(config: Config, fold: int) -> Layout:
    """Where the data is, which may be missing; the embedded data is made on first use."""
    if _embedded(config):
        return Layout(scenes.prepare(fold, config.scenes, -(-config.scenes // 4), config.digits), "train", "test")
    default = Path(os.environ.get("RFNEXT_DATA") or Path(__file__).parents[2] / "data") / "coco"
    return Layout(config.root or default, config.train_part, config.test_part)


def _dataset(config: Config, fold: int) -> Dataset:
    if fold not in folds(config):
        raise ValueError(f"fold {fold} is not one of {folds(config)}")
    return _opened(_layout(config, fold), _kind(config), config.validation)


@functools.lru_cache(maxsize=1)
def _opened(layout: Layout, kind: Kind, validation: float) -> Dataset:
    # Fitting and scoring one cell read the same annotations.
    return open_dataset(layout, kind, validation=validation)


LABELS = {"scenes": "digits on photographs (embedded)", "coco": "COCO 2017, scored on val2017"}


def data_label(config: Config) -> str:
    """What the numbers are measured on."""
    if config.dataset == "folder" or (config.dataset == "coco" and config.root is not None):
        return f"own data in {(config.root or Path('folder')).resolve().name}"
    return LABELS[config.dataset]


PUBLISHED: dict[str, str] = {
    "coco-convnext": "convnext_t_cascade_mask_3x",
    "coco-pvtv2": "pvtv2_b0_mask_1x",
    "coco-res2net": "res2net101_cascade_mask_20e",
    "coco-hrnet": "hrnetv2p_w18_cascade_mask_20e",
    "coco-panoptic": "res2net50_panoptic_fpn_1x",
}
"""Presets whose numbers are published -> key in `benchmarks/published.toml`."""


def published(config: Config) -> str | None:
    """Key of the published numbers, if the config has the data, detector and schedule that they were measured with."""
    for preset, key in PUBLISHED.items():
        same = PRESETS[preset]
        if dataclasses.replace(config, root=None, workers=same.workers, validate_every=same.validate_every) == same:
            return f"coco_detection.{key}"
    return None


METRICS = tuple(Metric(f"{what}_mAP{which}") for which in ("", "50", "_s", "_m", "_l") for what in ("box", "mask"))
PANOPTIC_METRICS = (Metric("PQ"), Metric("SQ"), Metric("RQ"))


def metrics_by_config(config: Config) -> tuple[Metric, ...]:
    """Panoptic configs have their own; own data has no mAP by size, which is undefined where a size does not occur."""
    if _kind(config) == "panoptic":
        return PANOPTIC_METRICS
    return METRICS[:4] if config.dataset == "folder" else METRICS


TASK = Task(
    name="coco_detection",
    version=1,
    metrics=METRICS,
    presets=PRESETS,
    build=build,
    fit=fit,
    evaluate=evaluate,
    where=detectors.searched,
    unavailable=unavailable,
    folds=folds,
    data_label=data_label,
    published=published,
    illustrate=illustrate,
    metrics_by_config=metrics_by_config,
    longest_input=longest_input,
    probe=probe,
)
