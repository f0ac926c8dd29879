"""The published tables in their published layout: which rows there are, what runs each of them here, what that takes.

The published numbers themselves are in `published.toml`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from benchmarks.methods.table import METHODS
from benchmarks.report.gathered import PUBLISHED
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
        the memory of its trainings. epochs: of one training, where no measurement tells.
    folds: of the published mean. seeds: that the command runs. needs: the data.
    hours: GPU-hours of one training by an estimate; estimate: what that follows from. said: a caption. Without an
        estimate, `needs.need` knows what was measured.
    """

    title: str
    task: str
    preset: str
    key: str
    names: tuple[str, ...]
    metrics: tuple[Metric, ...]
    lines: tuple[Line, ...]
    needs: str
    said: str
    hours: float | None = None
    estimate: str = ""
    folds: int = 1
    seeds: tuple[int, ...] = (0,)
    memory: str | None = None
    epochs: int | None = None

    def command(self, line: Line) -> str:
        """The one command that runs a row and fills its cells."""
        words = ["bash benchmarks/run_all.sh", self.preset, "--task", self.task, "--method", line.method or ""]
        words += ["--seeds", *map(str, self.seeds)] if self.seeds != (0,) else []
        given = [f"--{name.replace('_', '-')} {value}" for name, value in line.fields.items()]
        return " ".join([*words, *(["--", *given] if given else [])])

    def work(self, line: Line) -> float:
        """GPU-hours that the row takes by the estimate: of all its folds and seeds, the search included.

        Raises ValueError if there is none.
        """
        if self.hours is None:
            raise ValueError(f"{self.title} has no estimate; see needs.need")
        method = METHODS[line.method or ""]
        trainings = sum(search.trainings for search in method.searches) + method.finish.trains
        return self.hours * trainings * self.folds * len(self.seeds)


def published_memory() -> dict[str, Any]:
    """GB of trainings on 2 images, a search and a single branch, by the key of a detector."""
    return tomllib.loads(PUBLISHED.read_text("utf-8"))["coco_training_memory_gb"]


def rounded(value: float) -> str:
    """A number with two digits: an estimate has no more."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 1 else f"{value:.1g}"


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
        epochs=epochs,
    )


def _videos(title: str, name: str, *, folds: int, others: tuple[Line, ...]) -> Published:
    """A table of action segmentation. others: rows of other networks."""
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
        said=(
            f"Means over {folds} folds. Ours: a validation part of 20 % chooses the epoch, and all networks are "
            "trained by one schedule of 65 epochs, which need not be that of their authors. The rows of RF-MS-TCN and "
            "Global2Local could not be verified in any source, so their published cells are empty. Where the last "
            "column is empty, the row repeats a network above or is of one that this repository lacks."
        ),
        folds=folds,
        seeds=(0, 1, 2),
    )


def _quoted(*names: str) -> tuple[Line, ...]:
    return tuple(Line((name,), name) for name in names)


ASFORMER = Line(("ASFormer",), "ASFormer", "baseline", MappingProxyType({"model": "asformer", "batch": 1}))
LTCONTEXT = Line(
    ("LTContext",),
    "LTContext",
    "baseline",
    MappingProxyType({"model": "ltcontext", "layers": 9, "dropout": 0.2, "batch": 1}),
)
"""Sizes of the presets `50salads-asformer` and `50salads-ltcontext`."""

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
        others=(*_quoted("MS-TCN++, rerun"), ASFORMER, LTCONTEXT, *_quoted("DiffAct")),
    ),
    _videos("Action segmentation on GTEA", "gtea", folds=4, others=()),
    _videos(
        "Action segmentation on Breakfast",
        "breakfast",
        folds=4,
        others=(LTCONTEXT, *_quoted("RF-Next (RF++-SSTDA), only the accuracy could be verified")),
    ),
)
"""In the papers' order."""

SPEECH = (
    Published(
        title="HiFi-GAN V1 on LJSpeech",
        task="tts_vocoder",
        preset="ljspeech",
        key="",
        names=("Network",),
        metrics=(),
        lines=(
            Line(("HiFi-GAN V1",), None, "baseline"),
            Line(("HiFi-GAN V1, local search, retrained",), None, "local_single"),
        ),
        needs="LJSpeech-1.1",
        said="HiFi-GAN's published schedule. RF-Next published neither settings nor numbers for speech.",
        seeds=(0, 1, 2),
    ),
)
"""Published schedules without published numbers: `needs` says what they take, tables have no row of them."""
