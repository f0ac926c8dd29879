"""Settings of one training, and the presets.

The detectors of the presets are the five that RF-Next searched.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from rfnext import Bounds, LocalConfig
from tasks import fingerprints
from tasks.coco_detection.detector_names import BoxDetector, Detector, Size
from tasks.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_ranges

DatasetName = Literal["scenes", "coco", "folder"]

SMALL_LR = 0.012
"""Learning rate of small detectors, for 16 images a step."""

RANGES = {
    **dict.fromkeys(("batch", "image", "scenes", "validate_every", "folds"), COUNT),
    **dict.fromkeys(("epochs", "workers"), NOT_NEGATIVE),
    "digits": Range(least=1, most=10),
    "smallest": Range(least=1, most=240),
    "validation": SHARE,
    "lr": POSITIVE,
}


@dataclass(frozen=True)
class Config:
    """Settings of one training. The defaults are those of small detectors on the embedded data."""

    dataset: DatasetName = "scenes"
    """scenes: embedded, digits on photographs. coco: COCO 2017. folder: your own data in COCO's layout
    (`python -m tasks.coco_detection.check PATH` validates it)."""
    root: Path | None = field(default=None, metadata={"protocol": False})
    """Data folder; by default $RFNEXT_DATA/<dataset>, or data/<dataset> in this repository."""
    train_part: str = "train2017"
    """Training part: images in ROOT/<part>, annotations in ROOT/annotations/instances_<part>.json."""
    test_part: str = "val2017"
    """Test part, likewise. Not for the embedded data."""
    folds: tuple[int, ...] = (1,)
    """Folds that the data has: up to 1, 2 and 3 of the embedded data; all other data is one fold."""
    scenes: int = 240
    """Training scenes of the embedded data, validation included; there are a quarter as many test scenes."""
    digits: int = 10
    """How many of the ten digits occur in the embedded data: 0 .. digits - 1."""
    smallest: float = field(default=15.0, metadata={"protocol": "if changed"})
    """Height of the smallest digit of the embedded data in pixels, in scenes of 256 pixels; the largest has 240."""
    validation: float = 0.2
    """Share of the training images that is held out for validation."""

    detector: Detector | BoxDetector = "res2net"
    """convnext, res2net, hrnet: Cascade Mask R-CNN. pvtv2: Mask R-CNN. panoptic: Res2Net Panoptic FPN. With -boxes
    (res2net-boxes): trained and scored on boxes alone, for annotations without masks. rtmdet: RTMDet-tiny, boxes
    alone."""
    size: Size = "small"
    """published, or a narrow and shallow detector of the same family: small, tiny."""
    image: int = 128
    """Longer side of images in pixels; not for the size "published", which scales as published."""

    init: Path | None = field(default=None, metadata={"protocol": False})
    """File whose network every training starts from, searches too: the model.pt of a cell, the selected.pt of a
    training, or what `python -m tasks.coco_detection.published` makes of a released one. None: the usual start."""
    init_fingerprint: str | None = field(default=None, metadata={"protocol": "if changed"})
    """Of the content of init; found by itself."""

    epochs: int = 10
    """Epochs of one training; 0: the network of init is scored as it is."""
    batch: int = 8
    """Images per step."""
    lr: float | None = SMALL_LR
    """Learning rate for 16 images a step, as in mmdet's configs (RTMDet at its published size: for 256); scaled
    linearly with the batch. None: 0.012 of a small detector, the published one at the size "published"."""
    validate_every: int = 5
    """Epochs between two scorings of the validation part, from which the best epoch is chosen."""
    workers: int = field(default=0, metadata={"protocol": False})
    """Processes that load images; 0: the training process itself."""

    search: LocalConfig = field(
        default_factory=lambda: LocalConfig(interval=1, rounds=9, spread=0.5, branches=2, bounds=Bounds(1, 24))
    )
    """Local search, counted in epochs."""

    def __post_init__(self) -> None:
        detectors = get_args(Detector) + get_args(BoxDetector)
        for name, known in (("dataset", get_args(DatasetName)), ("detector", detectors), ("size", get_args(Size))):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.dataset == "scenes" and self.root is not None:
            raise ValueError("root is of no effect on the embedded data; for data of your own give --preset folder")
        fingerprints.recognise(self, "init")
        if self.epochs == 0 and self.init is None and self.init_fingerprint is None:
            raise ValueError("epochs is 0, which scores the network of a file as it is; name it by --init FILE")
        check_ranges(self, RANGES)

    def without_effect(self) -> dict[str, str]:
        """Fields that change nothing in this config, and where that is so: a command line that sets one is refused."""
        embedded = self.dataset == "scenes"
        idle = dict.fromkeys(
            ("train_part", "test_part") if embedded else ("scenes", "digits", "smallest", "folds"),
            f"on dataset {self.dataset}" + ("" if embedded else ", only on the embedded one"),
        )
        return idle | ({"image": "at the size published"} if self.size == "published" else {})


def _for_all(preset: str, config: Config) -> dict[str, Config]:
    """A preset for each detector: that of Res2Net has the name alone."""
    names = {detector: preset if detector == "res2net" else f"{preset}-{detector}" for detector in get_args(Detector)}
    order: list[Detector] = sorted(get_args(Detector), key=lambda detector: detector != "res2net")
    return {names[detector]: dataclasses.replace(config, detector=detector) for detector in order}


def _published(detector: Detector | BoxDetector, epochs: int, lr: float, rounds: int, interval: int = 1) -> Config:
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
        search=LocalConfig(interval=interval, rounds=rounds, spread=0.5, branches=2, bounds=Bounds(1, 24)),
    )


TINY = Config(
    folds=(1, 2, 3),
    scenes=100,
    digits=1,
    smallest=96.0,
    size="tiny",
    image=64,
    epochs=10,
    validate_every=5,
    search=LocalConfig(interval=1, rounds=5, spread=0.5, branches=2, bounds=Bounds(1, 24)),
)
"""Zeros on photographs. A training takes 13 seconds on one core, after which Res2Net has 54 to 80 box mAP50 on the
three folds; the search runs through all its rounds."""

PRESETS: dict[str, Config] = {
    "tiny": TINY,
    # Its setting for the other four detectors.
    **{name: config for name, config in _for_all("families", TINY).items() if name != "families"},
    **_for_all("small", Config(digits=5)),
    "tiny-rtmdet": dataclasses.replace(TINY, detector="rtmdet", digits=2, epochs=16, validate_every=8),
    "small-rtmdet": Config(digits=5, detector="rtmdet"),
    "coco-convnext": _published("convnext", epochs=36, lr=2e-4, rounds=11),
    "coco-pvtv2": _published("pvtv2", epochs=12, lr=2e-4, rounds=10),
    "coco-res2net": _published("res2net", epochs=20, lr=0.02, rounds=11),
    "coco-hrnet": _published("hrnet", epochs=20, lr=0.02, rounds=11),
    "coco-panoptic": _published("panoptic", epochs=12, lr=0.02, rounds=10),
    # Not a detector that RF-Next searched. mmdet's schedule, and as many rounds, one every 10 of 300 epochs.
    "coco-rtmdet": dataclasses.replace(
        _published("rtmdet", epochs=300, lr=0.004, rounds=11, interval=10), batch=32, validate_every=10
    ),
    "folder": Config(dataset="folder", image=256, lr=None),
    "folder-rtmdet": Config(dataset="folder", image=256, lr=None, detector="rtmdet"),
}

SUITES = {
    "small": tuple(_for_all("small", Config())),
    "families": tuple(name for name in PRESETS if name.startswith("families-")),
    "paper": tuple(f"coco-{detector}" for detector in get_args(Detector)),
}
"""Presets that are run together: the same setting for several detectors."""
