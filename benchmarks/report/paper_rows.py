"""The published tables in their published layout: which rows there are, what runs each of them here, what that takes.

The published numbers themselves are in `published.toml`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from benchmarks.methods.table import METHODS
from tasks.spec import Metric


@dataclass(frozen=True)
class Line:
    """A row of a published table.

    words: its leading columns. published: the name of its numbers in `published.toml`; None: none could be verified.
    method: what measures it here; None where this repository has no such network. fields: of the preset's config that
        differ for it, as JSON values by dotted name.
    """

    words: tuple[str, ...]
    published: str | None
    method: str | None = None
    fields: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Published:
    """A published table.

    preset: of the task, with the published data, network and schedule. key: in `published.toml`. memory: likewise, of
        the memory of its trainings.
    folds: of the published mean. seeds: that the command runs. needs: the data.
    hours: of one training in one fold and seed, in `unit`; estimate: what that follows from. said: a caption.
    """

    title: str
    task: str
    preset: str
    key: str
    names: tuple[str, ...]
    metrics: tuple[Metric, ...]
    lines: tuple[Line, ...]
    needs: str
    hours: float
    unit: str
    estimate: str
    said: str
    folds: int = 1
    seeds: tuple[int, ...] = (0,)
    memory: str | None = None

    def command(self, line: Line) -> str:
        """The one command that runs a row and fills its cells."""
        words = ["bash benchmarks/run_all.sh", self.preset, "--task", self.task, "--method", line.method or ""]
        words += ["--seeds", *map(str, self.seeds)] if self.seeds != (0,) else []
        given = [f"--{name.replace('_', '-')} {value}" for name, value in line.fields.items()]
        return " ".join([*words, *(["--", *given] if given else [])])

    def work(self, line: Line) -> float:
        """Hours that the row takes: of all its folds and seeds, the search included."""
        method = METHODS[line.method or ""]
        trainings = sum(search.trainings for search in method.searches) + method.finish.trains
        return self.hours * trainings * self.folds * len(self.seeds)


BOXES = (Metric("box_mAP"), Metric("mask_mAP"))
SEGMENTS = (Metric("PQ"), Metric("SQ"), Metric("RQ"))
FRAMES = (Metric("f1@10"), Metric("f1@25"), Metric("f1@50"), Metric("edit"), Metric("accuracy"))

COCO_IMAGES = 117_266
"""Images of train2017 with an annotation: an epoch of mmdet."""

SUSTAINED = 8e12
"""Operations per second of the estimates on GPUs: half the float32 peak of a V100."""


def _detector(
    title: str, preset: str, key: str, words: tuple[str, str, str], cost: tuple[float, int], memory: str
) -> Published:
    """A table of COCO.

    words: backbone, method, schedule. cost: 1e9 multiply-adds of a forward pass, and epochs. memory: key of what its
    trainings took.
    """
    backbone, method, schedule = words
    work, epochs = cost
    rows = (
        (backbone, "NO", "hand-designed", "baseline"),
        (f"RF-{backbone}", "Single-Branch", "RF-Next single", "local_single"),
        (f"RF-{backbone}", "Multiple-Branch", "RF-Next multi (the search run itself)", "local_as_searched"),
    )
    operations = 3 * 2 * work * 1e9 * COCO_IMAGES * epochs
    return Published(
        title=title,
        task="coco_detection",
        preset=preset,
        key=f"coco_detection.{key}",
        names=("Backbone", "Method", "RFNext", "Lr Schd"),
        metrics=SEGMENTS if "panoptic" in key else BOXES,
        lines=tuple(Line((name, method, mode, schedule), published, row) for name, mode, published, row in rows),
        needs="COCO 2017",
        hours=operations / SUSTAINED / 3600,
        unit="GPU-hours",
        estimate=(
            f"from the published schedule, not measured on a GPU: 3 passes x 2 x {work:.0f} G multiply-adds (counted "
            f"at 1216 x 800 pixels) x {COCO_IMAGES:,} images x {epochs} epochs a training, at 8 TFLOP/s (half of a "
            "V100's peak), without loading and scoring. Memory: of 16 images, 8 times the published of 2. "
            "python -m tasks.coco_detection.train_published CONFIG --estimate measures the hours on your GPU"
        ),
        said=(
            "Published: the last epoch, no seeds and no deviation; Multiple-Branch was measured on the search run "
            "itself. Ours: a validation part of 2 % chooses the epoch, and the search rounds by the library's rule."
        ),
        memory=memory,
    )


FRAME = 8e-5
"""Seconds of one core (AMD EPYC) for a frame of a training step: 3.2 s for 8 x 5,000 frames of 2,048 features."""

EPOCHS = 65


def _videos(title: str, name: str, *, folds: int, size: tuple[int, int], others: tuple[Line, ...]) -> Published:
    """A table of action segmentation.

    size: training videos of a fold, and frames of a video. others: rows that are not measured here.
    """
    videos, frames = size
    unverified = tuple(
        Line((f"MS-TCN, {words}",), None, method)
        for words, method in (
            ("local search, retrained (RF-Next, single)", "local_single"),
            ("local search as it is (RF-Next, multi)", "local_as_searched"),
        )
    )
    return Published(
        title=title,
        task="action_segmentation",
        preset=name,
        key=f"action_segmentation.{name}",
        names=("Network",),
        metrics=FRAMES,
        lines=(
            Line(("MS-TCN",), "MS-TCN", "baseline"),
            Line(("MS-TCN, rerun by others",), "MS-TCN, rerun"),
            Line(("MS-TCN++",), "MS-TCN++", "baseline", MappingProxyType({"model": "ms_tcn_pp"})),
            *others,
            *unverified,
        ),
        needs="I3D features of the MS-TCN release (30 GB)",
        hours=0.8 * videos * frames * EPOCHS * FRAME / 3600,
        unit="core-hours",
        estimate=(
            f"from measured training steps of MS-TCN: {FRAME * 1e6:.0f} microseconds a frame on one core (AMD EPYC) x "
            f"{frames:,} frames a video (the length that the published genetic search resizes to) x 80 % of {videos:,} "
            f"training videos x {EPOCHS} epochs a training, without loading and scoring; MS-TCN++ is counted as MS-TCN"
        ),
        said=(
            f"Means over {folds} folds. Ours: a validation part of 20 % chooses the epoch. The rows of RF-MS-TCN and "
            "Global2Local could not be verified in any source, so their published cells are empty. Where the last "
            "column is empty, the row repeats a network above or is of one that this repository lacks."
        ),
        folds=folds,
        seeds=(0, 1, 2),
    )


def _quoted(*names: str) -> tuple[Line, ...]:
    return tuple(Line((name,), name) for name in names)


TABLES = (
    _detector(
        "ConvNeXt on COCO",
        "coco-convnext",
        "convnext_t_cascade_mask_3x",
        ("ConvNeXt-T", "Cascade Mask R-CNN", "3x"),
        (394, 36),
        "convnext_t",
    ),
    _detector(
        "PVTv2 on COCO",
        "coco-pvtv2",
        "pvtv2_b0_mask_1x",
        ("PVTv2-b0", "Mask R-CNN", "1x"),
        (132, 12),
        "pvtv2_b0",
    ),
    _detector(
        "Res2Net on COCO",
        "coco-res2net",
        "res2net101_cascade_mask_20e",
        ("Res2Net-101", "Cascade Mask R-CNN", "20e"),
        (297, 20),
        "res2net101",
    ),
    _detector(
        "HRNet on COCO",
        "coco-hrnet",
        "hrnetv2p_w18_cascade_mask_20e",
        ("HRNetV2p-W18", "Cascade Mask R-CNN", "20e"),
        (207, 20),
        "hrnetv2p_w18",
    ),
    _detector(
        "Res2Net on COCO panoptic",
        "coco-panoptic",
        "res2net50_panoptic_fpn_1x",
        ("Res2Net-50", "Panoptic FPN", "1x"),
        (231, 12),
        "panoptic_res2net50",
    ),
    _videos(
        "Action segmentation on 50 Salads",
        "50salads",
        folds=5,
        size=(40, 5000),
        others=_quoted("MS-TCN++, rerun", "ASFormer", "LTContext", "DiffAct"),
    ),
    _videos("Action segmentation on GTEA", "gtea", folds=4, size=(21, 1000), others=()),
    _videos(
        "Action segmentation on Breakfast",
        "breakfast",
        folds=4,
        size=(1284, 2000),
        others=_quoted("LTContext", "RF-Next (RF++-SSTDA), only the accuracy could be verified"),
    ),
)
"""In the papers' order."""
