"""The data sets that a config can name: where they are, what is missing, their folds and classes.

To add one in COCO's layout:
1. its name in `config.DatasetName`, and in the docstring of `config.Config.dataset`, which --help shows;
2. a preset in `config.PRESETS`, with `train_part` and `test_part` where its parts are not train2017 and val2017;
3. here: what tables call it in `LABELS`, and where to get it in `DOWNLOADS`;
4. if one of COCO's sizes does not occur in it: its name beside "folder" in `metrics.py`;
5. if papers have numbers on it: its presets in `PUBLISHED`, the numbers in `benchmarks/published.toml`;
6. a row in the table of `README.md`.
Its folder is then data/<name> or $RFNEXT_DATA/<name>; what --root PATH names is own data. Data in another
format: write a converter that makes a cache folder, as `scenes.prepare` does, and call it in `layout_of`, `folds` and
`unavailable`.
"""

import dataclasses
import functools
import importlib.util
import os
import shlex
from pathlib import Path
from typing import Any, get_args

from tasks.coco_detection import scenes
from tasks.coco_detection.coco_format.annotations import Kind
from tasks.coco_detection.coco_format.layout import DOWNLOADS as COCO_DOWNLOADS
from tasks.coco_detection.coco_format.layout import Layout
from tasks.coco_detection.config import PRESETS, Config
from tasks.coco_detection.data import Dataset, named_files, open_dataset
from tasks.coco_detection.detector_names import BoxDetector
from tasks.file_names import real_name
from tasks.scenes import missing
from tasks.spec import DataError, DataFiles

LABELS = {"scenes": "digits on photographs (embedded)", "coco": "COCO 2017, scored on val2017"}

DOWNLOADS = {"coco": COCO_DOWNLOADS}
"""How to get a data set that is missing."""


def folds(config: Config) -> tuple[int, ...]:
    """The config's folds; data with parts of its own is one fold."""
    return config.folds if _embedded(config) else (1,)


def longest_input(config: Config) -> int:
    """Side of the finest feature map, a quarter of the image's; only stems and patch embeddings read more."""
    return (1333 if config.size == "published" else config.image) // 4


def download(config: Config) -> tuple[str, ...]:
    """Shell commands that put COCO 2017 where it is looked for."""
    if config.dataset != "coco" or config.root is not None:
        return ()
    folder, source = shlex.quote(str(layout_of(config, 1).root)), "http://images.cocodataset.org"
    images = " ".join(f"{source}/zips/{name}.zip" for name in ("train2017", "val2017"))
    annotations = ("annotations_trainval2017", "panoptic_annotations_trainval2017")
    return (
        f"mkdir -p {folder} && cd {folder}",
        f"wget -c {images}  # 19 GB",
        f"wget -c {' '.join(f'{source}/annotations/{name}.zip' for name in annotations)}  # 1 GB",
        "for file in *.zip; do unzip -q -n $file; done",
        "cd annotations && for file in panoptic_*2017.zip; do unzip -q -n $file; done; cd ../..",
    )


def unavailable(config: Config) -> str | None:
    """What to install, or to download and where to put it; None if the config can run here."""
    packages = ("mmengine", "mmcv", "mmdet", "mmpretrain", "pycocotools", "torchvision")
    lacking = [package for package in packages if importlib.util.find_spec(package) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed; in the repository: pip install '.[detection]'"
    if _embedded(config):
        return missing()
    layout = layout_of(config, 1)
    if config.dataset == "folder" and config.root is None:
        return "which folder? Give one in COCO's layout by --root PATH; python -m tasks.coco_detection.check PATH"
    for name in (layout.train, layout.test):
        for path in (layout.file(kind_of(config), name), layout.images(name)):
            if not path.exists():
                check = f"python -m tasks.coco_detection.check {layout.root} lists all problems"
                return f"{path} is missing; {DOWNLOADS.get(config.dataset, check)}"
    try:
        if config.dataset == "folder":  # COCO takes a minute to read
            open_fold(config, 1)
    except DataError as error:
        return str(error)
    return None


def _embedded(config: Config) -> bool:
    return config.dataset == "scenes"


def kind_of(config: Config) -> Kind:
    """The annotations that the config's detector needs."""
    if config.detector == "panoptic":
        return "panoptic"
    return "boxes" if config.detector in get_args(BoxDetector) else "instances"


def layout_of(config: Config, fold: int) -> Layout:
    """Where the data is, which may be missing; the embedded data is made on first use."""
    if _embedded(config):
        folder = scenes.prepare(fold, config.scenes, -(-config.scenes // 4), config.digits, config.smallest)
        return Layout(folder, "train", "test")
    default = Path(os.environ.get("RFNEXT_DATA") or Path(__file__).parents[2] / "data") / config.dataset
    return Layout(config.root or default, config.train_part, config.test_part)


def open_fold(config: Config, fold: int) -> Dataset:
    """The data of a fold.

    Raises:
        ValueError: if the config has no such fold.
        DataError: if there is no usable data.
    """
    if fold not in folds(config):
        raise ValueError(f"fold {fold} is not one of {folds(config)}")
    layout, kind = layout_of(config, fold), kind_of(config)
    states = tuple(_state(layout.file(kind, name)) for name in (layout.train, layout.test))
    return _opened(layout, kind, config.validation, states)


def facts(config: Config) -> dict[str, Any]:
    """What a detector is told of the config's data: the names of its classes, things first, and how many are things.

    Raises DataError if the data is unusable.
    """
    dataset = open_fold(config, folds(config)[0])
    return {"classes": list(dataset.classes), "things": dataset.things}


def _state(path: Path) -> tuple[int, int] | None:
    """What changes when a file is written anew."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else None


@functools.lru_cache(maxsize=1)
def _opened(layout: Layout, kind: Kind, validation: float, states: tuple[tuple[int, int] | None, ...]) -> Dataset:
    # Fitting and scoring one cell read the same annotations.
    return open_dataset(layout, kind, validation=validation)


def data_files(config: Config) -> DataFiles | None:
    """What the config's detector reads: the annotations of both parts, and the images and PNGs that they name."""
    if _embedded(config):
        return None
    layout, kind = layout_of(config, 1), kind_of(config)
    labels, inputs = [], []
    for name in (layout.train, layout.test):
        annotations = layout.file(kind, name)
        images, maps = named_files(annotations)
        labels += [annotations, *(layout.panoptic_maps(name) / file for file in maps if kind == "panoptic")]
        inputs += [layout.images(name) / file for file in images]
    return DataFiles(layout.root, tuple(labels), tuple(inputs), _own(config))


def _own(config: Config) -> bool:
    return config.dataset == "folder" or (config.root is not None and not _embedded(config))


def data_label(config: Config) -> str:
    """What the numbers are measured on."""
    if _own(config):
        return f"own data in {real_name(config.root or Path('folder'))}"
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
    """Key of the published numbers, if the config has the data, detector and schedule that they were measured with.

    Data given by --root is the user's own, whatever it is; COCO's place is data/coco or $RFNEXT_DATA/coco.
    """
    for preset, key in PUBLISHED.items():
        same = PRESETS[preset]
        if dataclasses.replace(config, workers=same.workers, validate_every=same.validate_every) == same:
            return f"coco_detection.{key}"
    return None
