"""Settings of a training, and the named presets."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rfnext import Bounds, LocalConfig
from tasks.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_names, check_ranges
from tasks.scenes import FOLDS

DatasetName = Literal["scenes", "folder"]
Network = Literal["deeplabv3", "upernet"]

SMALL = "small"
"""Backbone that trains from scratch within seconds."""

RESNETS = ("resnet50", "resnet101")
"""Other backbones of DeepLabV3, torchvision's."""

RANGES = {
    **dict.fromkeys(("image", "epochs", "validate_every", "folds", "width"), COUNT),
    "scenes": Range(least=2),  # one is held out for validation
    "batch": Range(least=2),  # batch normalisation of a single pixel has no spread
    "workers": NOT_NEGATIVE,
    "digits": Range(least=1, most=10),
    "smallest": Range(least=1, most=240),
    "largest": Range(least=1, most=8),
    **dict.fromkeys(("validation", "test"), SHARE),
    "lr": POSITIVE,
}

SEARCH = LocalConfig(interval=2, rounds=8, spread=0.5, branches=3, bounds=Bounds(1, 64))
"""The search on own data. It counts epochs, so a training has all its rounds, whatever the size of the data."""


@dataclass(frozen=True)
class Config:
    """Settings of one training. The defaults are those of a small network on the embedded data."""

    dataset: DatasetName = "scenes"
    """scenes: embedded, digits on photographs. folder: your own images/ and labels/
    (`python -m tasks.semantic_segmentation.check PATH` validates it)."""
    root: Path | None = field(default=None, metadata={"protocol": False})
    """Folder of your own data."""
    folds: tuple[int, ...] = (1,)
    """Folds of the embedded data, up to 1, 2 and 3; own data is one fold."""
    scenes: int = 240
    """Training scenes of the embedded data, validation included; there are a quarter as many test scenes."""
    digits: int = 10
    """How many of the ten digits occur in the embedded data: 0 .. digits - 1."""
    smallest: float = 15.0
    """Height of the smallest digit of the embedded data in pixels, in scenes of 256 pixels; the largest has 240."""
    validation: float = 0.2
    """Share of the training images that is held out for validation."""
    test: float = 0.2
    """Share of the images of own data that is the test part, if there is no test.txt."""

    network: Network = "deeplabv3"
    """deeplabv3: stride 8 and atrous pooling. upernet: pyramid pooling on four feature maps of a timm backbone."""
    backbone: str = SMALL
    """small, or of deeplabv3 resnet50 or resnet101 (torchvision's network), or of upernet the name of a timm network
    with four feature maps, such as convnext_tiny."""
    width: int = 256
    """Channels of the head. Not for torchvision's networks, which have 256."""
    pretrained: bool = False
    """Start from a backbone that was trained on ImageNet; it is downloaded. Not for the small one."""
    image: int = 128
    """Longer side of images in pixels."""
    largest: float = 1.0
    """If above 1, images are scaled by random factors from 1 / largest to largest, and cut, while training."""

    epochs: int = 20
    """Epochs of one training."""
    batch: int = 8
    """Images per step."""
    lr: float = 0.002
    """Learning rate of AdamW; it falls to zero along half a cosine."""
    validate_every: int = 5
    """Epochs between two scorings of the validation part, from which the best epoch is chosen."""
    workers: int = field(default=0, metadata={"protocol": False})
    """Processes that load images; 0: a thread of the training process."""

    search: LocalConfig = field(
        default_factory=lambda: LocalConfig(interval=50, rounds=8, spread=0.5, branches=3, bounds=Bounds(1, 64))
    )
    """Local search."""
    search_counts: Literal["iterations", "epochs"] = field(default="iterations", metadata={"protocol": "if changed"})
    """What the local search counts: iterations (steps of the optimizer), as published, or epochs, as in other tasks."""

    def __post_init__(self) -> None:
        for name, known in (("dataset", get_args(DatasetName)), ("network", get_args(Network))):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.dataset == "scenes" and self.root is not None:
            raise ValueError("root is of no effect on the embedded data; for data of your own give --preset folder")
        if self.network == "deeplabv3" and self.backbone not in (SMALL, *RESNETS):
            known = ", ".join((SMALL, *RESNETS))
            raise ValueError(f"deeplabv3 has no backbone {self.backbone!r}; known: {known}. upernet has any of timm")
        if not re.fullmatch(r"[a-z0-9_.]+", self.backbone):  # timm downloads what "hf-hub:..." names
            raise ValueError(f"backbone {self.backbone!r} is no name of a timm network, such as convnext_tiny")
        if self.pretrained and self.backbone == SMALL:
            raise ValueError("there is no pretrained backbone of the name small; name another by --backbone")
        check_ranges(self, RANGES)
        check_names(self, {"folds": FOLDS})
        if self.network == "upernet" and self.image < 32:
            raise ValueError(f"image is {self.image}; upernet needs 32 pixels, of which its coarsest map has one")

    def without_effect(self) -> dict[str, str]:
        """Fields that change nothing in this config, and where that is so: a command line that sets one is refused."""
        embedded = self.dataset == "scenes"
        idle = dict.fromkeys(
            ("test",) if embedded else ("scenes", "digits", "smallest", "folds"),
            f"on dataset {self.dataset}" + ("" if embedded else ", only on the embedded one"),
        )
        torchvisions = self.network == "deeplabv3" and self.backbone in RESNETS
        return idle | ({"width": f"on {self.backbone} of {self.network}"} if torchvisions else {})


PAPER: dict[str, Any] = {
    "dataset": "folder",
    "pretrained": True,
    "largest": 2.0,
    "batch": 16,
    "lr": 1e-4,
    "search_counts": "epochs",
}
"""The paper's networks on own data."""

TINY = Config(
    folds=(1, 2, 3),
    scenes=100,
    digits=2,
    smallest=96.0,
    width=48,
    image=64,
    epochs=8,
    lr=0.004,
    validate_every=4,
    search=LocalConfig(interval=15, rounds=5, spread=0.5, branches=3, bounds=Bounds(1, 24)),
)

PRESETS: dict[str, Config] = {
    # For tests and first tries: seconds per training on one core; the search runs through all its rounds.
    "tiny": TINY,
    "tiny-upernet": replace(TINY, network="upernet", epochs=10, validate_every=5),
    "small": Config(digits=5, width=96, epochs=40),
    "small-upernet": Config(digits=5, width=96, epochs=40, network="upernet"),
    "folder": Config(dataset="folder", image=256, search=SEARCH, search_counts="epochs"),
    # With the published spreads, and rounds at the published shares of the training: 8, one every 8,000 iterations, of
    # 80,000 with DeepLabV3 and of 160,000 with UPerNet.
    "folder-deeplabv3-resnet50": Config(**PAPER, backbone="resnet50", image=512, search=replace(SEARCH, spread=0.15)),
    "folder-upernet-convnext": Config(
        **PAPER, network="upernet", backbone="convnext_base", width=512, image=640, search=replace(SEARCH, interval=1)
    ),
}

SUITES = {"small": ("small", "small-upernet")}
"""Presets that are run together."""
