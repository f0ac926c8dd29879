"""Settings of a training, and the named presets."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rfnext import Bounds, LocalConfig
from tasks.action_segmentation.metrics import LastSegment
from tasks.action_segmentation.ms_tcn_format.lengths import Sampling, stride_of
from tasks.action_segmentation.seglearn_sessions import GROUP
from tasks.ranges import COUNT, DROPOUT, NOT_NEGATIVE, POSITIVE, SHARE, Range, check_ranges

DatasetName = Literal["seglearn", "50salads", "breakfast", "gtea", "folder"]
Model = Literal["ms_tcn", "ms_tcn_pp", "asrf", "c2f_tcn", "asformer", "ltcontext"]

SEARCH = LocalConfig(interval=3, rounds=10, spread=0.5, branches=3, bounds=Bounds(1, 2048))
"""The local search: published except for rule and spread, which are the library's defaults."""

RANGES = {
    **dict.fromkeys(("epochs", "batch", "micro_batch", "validate_every", "stages", "maps", "folds"), COUNT),
    **dict.fromkeys(("stride", "feature_stride"), COUNT),
    **dict.fromkeys(("layers", "prediction_layers"), Range(least=1, most=20)),  # dilations double
    **dict.fromkeys(("length_tolerance", "lr_drop_epoch", "smoothing"), NOT_NEGATIVE),
    "validation": SHARE,
    "dropout": DROPOUT,
    "lr": POSITIVE,
}


@dataclass(frozen=True)
class Config:
    """Settings of one training. The defaults are those of RF-Next's published runs, on the embedded data."""

    dataset: DatasetName = "seglearn"
    """seglearn: embedded wrist recordings. 50salads, breakfast, gtea: the MS-TCN data release. folder: your
    own data in the same layout (`python -m tasks.action_segmentation.check PATH` validates it)."""
    root: Path | None = field(default=None, metadata={"protocol": False})
    """Data folder; by default $RFNEXT_DATA/<dataset>, or data/<dataset> in this repository."""
    folds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Folds that the data has, as in splits/train.split<fold>.bundle; none given: every one in the data folder."""
    stride: int = 1
    """Use every stride-th feature vector; predictions are repeated, and scored at all frames."""
    feature_stride: int = field(default=1, metadata={"protocol": "if changed"})
    """Frames per feature vector in the feature files: 4 if they were extracted from every 4th frame. Labels are one a
    frame."""
    feature_rate: str | None = field(default=None, metadata={"protocol": "if changed"})
    """Rates of features and labels, where neither is a multiple of the other, as in 15/25, or vectors a label, as in
    0.6, instead of feature_stride. A vector gets the label nearest in time."""
    length_tolerance: int = field(default=0, metadata={"protocol": "if changed"})
    """Frames by which a video's features may cover less or more than its labels, as extractors leave them. Surplus
    features are not used. Where features are missing at the end, training leaves the frames out; they are scored with
    the class of the last feature vector."""
    validation: float = 0.2
    """Share of each fold's training videos that is held out for validation."""
    group: str | None = GROUP
    """Regular expression: videos whose names have the same match (one subject, say) are held out together."""
    last_segment: LastSegment = "i+1"
    """Where F1 ends the last segment of T frames: "i+1" at T, behind the last frame; "i" one frame earlier, at T - 1,
    as RF-Next's own score does."""

    model: Model = "ms_tcn"
    """ms_tcn: dilations 1, 2, 4, ... in every stage. ms_tcn_pp: MS-TCN++, dual dilations in the first stage. asrf: a
    second branch finds boundaries. c2f_tcn: an encoder and a decoder over time. asformer: dilated convs and
    attention in windows. ltcontext: dilated convs, attention in windows and over long distances."""
    stages: int = 4
    """Stages; each later one refines the prediction of the one before. Not for C2F-TCN."""
    layers: int = 10
    """Layers per stage (MS-TCN++: per refinement stage; C2F-TCN: how often the length is halved)."""
    prediction_layers: int = 11
    """Layers of MS-TCN++'s first stage; for it alone."""
    maps: int = 64
    """Channels of every layer (C2F-TCN: of the widest)."""
    dropout: float = 0.5
    """Dropout of every layer; not for C2F-TCN."""

    epochs: int = 65
    """Epochs of one training."""
    batch: int = 8
    """Videos per step."""
    micro_batch: int | None = field(default=None, metadata={"protocol": "if changed"})
    """Videos of one forward and backward pass; a step adds up the gradients of its passes. They are those of the whole
    batch, but for other random masks of dropout, in less memory. None: all videos of a step. C2F-TCN needs None: its
    batch normalisation is over all of them."""
    lr: float = 5e-4
    """Learning rate of Adam."""
    lr_drop_epoch: int | None = 50
    """From this epoch on, counted from 0, the learning rate is a tenth; None: never."""
    smoothing: float = 0.15
    """Weight of the smoothing loss."""
    validate_every: int = 5
    """Epochs between two scorings of the validation part, from which the best epoch is chosen."""

    search: LocalConfig = field(default_factory=lambda: SEARCH)
    """Local search, counted in epochs."""

    def __post_init__(self) -> None:
        if self.dataset not in get_args(DatasetName) or self.model not in get_args(Model):
            known = f"{', '.join(get_args(DatasetName))}; {', '.join(get_args(Model))}"
            raise ValueError(f"unknown dataset {self.dataset!r} or model {self.model!r}; known: {known}")
        check_ranges(self, RANGES)
        if self.model == "c2f_tcn" and self.micro_batch is not None and self.micro_batch < self.batch:
            raise ValueError(
                f"micro_batch is {self.micro_batch}, but the batch normalisation of c2f_tcn needs all {self.batch} "
                "videos of a step at once; set it to None"
            )
        if self.feature_rate is not None:
            stride_of(self.feature_rate)
            if self.feature_stride != 1:
                raise ValueError("feature_stride and feature_rate say the same; give one of them")

    def without_effect(self) -> dict[str, str]:
        """Fields that change nothing in this config, and where that is so: a command line that sets one is refused."""
        idle: dict[str, str] = {}
        if self.model == "c2f_tcn":
            idle |= dict.fromkeys(("stages", "dropout"), "on c2f_tcn")
        if self.model != "ms_tcn_pp":
            idle["prediction_layers"] = f"on {self.model}, only on ms_tcn_pp"
        return idle

    @property
    def sampling(self) -> Sampling:
        """Frames per feature vector and per input of the network, and the tolerance."""
        stride = self.feature_stride if self.feature_rate is None else stride_of(self.feature_rate)
        return Sampling(self.stride, stride, self.length_tolerance)


FOLDER = Config(dataset="folder", folds=(), group=None)
"""Own data: all folds of the folder, and no groups unless given."""

COMPACT = replace(FOLDER, stages=2, maps=32, batch=4, lr=2e-3, epochs=40, lr_drop_epoch=30)
"""A training in a sixth of the time: half the stages and channels, fewer epochs, more steps per epoch."""

COMPACT_50SALADS = replace(COMPACT, group=r"rgb-\d+")
COMPACT_SEGLEARN = replace(COMPACT, dataset="seglearn", stride=4)

NARROW = replace(SEARCH, spread=0.1)
"""The published spread, with the library's rule."""

AS_PUBLISHED = replace(NARROW, rule="paper")
"""The published search."""

PAPER = ("50salads", "breakfast", "gtea")
"""Data sets that papers report numbers on, and the presets with their settings."""

TINY = Config(
    stages=3,
    layers=6,
    maps=32,
    stride=4,
    epochs=32,
    lr=3e-3,
    lr_drop_epoch=24,
    search=LocalConfig(interval=2, rounds=12, spread=0.5, branches=3, bounds=Bounds(1, 128)),
)
"""Small, on the embedded data: how the networks after MS-TCN are trained. `tiny`, of the main job, has fewer epochs."""

SALADS = Config(dataset="50salads", stride=2, group=r"rgb-\d+", length_tolerance=5, micro_batch=1)

ASRF: dict[str, Any] = {"model": "asrf", "smoothing": 1.0}
"""Its smoothing spares frames of unlike features, so it may weigh more."""

PRESETS = {
    # For tests and first tries: seconds per training on one core; the search runs through all its rounds.
    "tiny": replace(TINY, epochs=26, lr_drop_epoch=20),
    # The published network on the embedded data.
    "small": Config(stride=2),
    # The papers' data, network and training, with the library's search; the published one is given by
    # --search.rule paper --search.spread 0.1.
    # The release's features and labels may differ by a few frames.
    "50salads": SALADS,
    "breakfast": Config(dataset="breakfast", folds=(1, 2, 3, 4), group=r"P\d+", length_tolerance=5, micro_batch=1),
    "gtea": Config(dataset="gtea", folds=(1, 2, 3, 4), group=r"S\d+", length_tolerance=5, micro_batch=1),
    # Own data: the published network, and a smaller one.
    "folder": FOLDER,
    "compact": COMPACT,
    # Does the search pay, and which rule and spread? Features of 50 Salads in the layout of own data (--root).
    "compact-50salads": COMPACT_50SALADS,
    "compact-50salads-spread-0.1": replace(COMPACT_50SALADS, search=NARROW),
    "compact-50salads-paper-rule": replace(COMPACT_50SALADS, search=AS_PUBLISHED),
    # The same questions on the embedded data. Validation is carved by session, as in the committed records.
    "compact-seglearn": COMPACT_SEGLEARN,
    "compact-seglearn-spread-0.1": replace(COMPACT_SEGLEARN, search=NARROW),
    "compact-seglearn-paper-rule": replace(COMPACT_SEGLEARN, search=AS_PUBLISHED),
    # The published network on SVM features of 50 Salads (--root): does the result hold for the large network?
    "full-50salads-svm-spread-0.1": replace(FOLDER, group=r"rgb-\d+", search=NARROW),
    # Later networks: small ones on the embedded data, and at their published size on the papers' data.
    "tiny-ms-tcn-pp": replace(TINY, model="ms_tcn_pp", prediction_layers=7),
    "50salads-ms-tcn-pp": replace(SALADS, model="ms_tcn_pp"),
    "tiny-asrf": replace(TINY, **ASRF),
    "50salads-asrf": replace(SALADS, **ASRF),
    "tiny-c2f-tcn": replace(TINY, model="c2f_tcn", layers=4, lr=1e-3),
    "50salads-c2f-tcn": replace(SALADS, model="c2f_tcn", layers=6, maps=256, micro_batch=None),
    "tiny-asformer": replace(TINY, model="asformer"),
    "50salads-asformer": replace(SALADS, model="asformer", batch=1),
    "tiny-ltcontext": replace(TINY, model="ltcontext"),
    "50salads-ltcontext": replace(SALADS, model="ltcontext", layers=9, dropout=0.2, batch=1),
}
