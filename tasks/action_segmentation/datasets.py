"""The data sets that a config can name: where they are, which folds they have, and what tables call them.

To add one in the layout of the MS-TCN release:
1. its name in `config.DatasetName`, and in the docstring of `config.Config.dataset`, which --help shows;
2. a preset in `config.PRESETS` with its folds, stride and group;
3. here: what tables call it in `LABELS`, where to get it in `DOWNLOADS`, its classes and videos in `CONTENTS`;
4. if papers have numbers on it: its name in `config.PAPER`, and the numbers in `benchmarks/published.toml` under
   "action_segmentation.<name>". Sets of `config.PAPER` must have the release's features (D = `I3D_SIZE`);
5. a row in the table of `README.md`.
Its folder is then data/<name>, $RFNEXT_DATA/<name> or --root PATH. Data in another format: write a converter to this
layout that makes a cache folder, as `seglearn_sessions.prepare` does, and call it in `data_folder`, `folds` and
`unavailable`.
"""

import functools
import math
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfnext.lazy import LazyModule
from tasks.action_segmentation import seglearn_sessions
from tasks.action_segmentation.config import PAPER, PRESETS, Config
from tasks.action_segmentation.ms_tcn_format.layout import (
    Layout,
    open_layout,
    read_bundle,
    read_fold,
    read_labels,
    read_mapping,
)
from tasks.action_segmentation.ms_tcn_format.lengths import Sampling, difference, read_shapes
from tasks.file_names import real_name
from tasks.spec import DataError, DataFiles, fail

if TYPE_CHECKING:
    from tasks.action_segmentation import data
    from tasks.action_segmentation.data import Dataset
else:
    data = LazyModule("tasks.action_segmentation.data")

RELEASE = "https://zenodo.org/records/3625992"
"""The data release of MS-TCN: I3D features and labels of Breakfast, 50 Salads and GTEA."""

I3D_SIZE = 2048
"""D of the release's features."""

CONTENTS = {"50salads": (19, 50), "breakfast": (48, 1712), "gtea": (11, 28)}
"""Classes and videos of the release's sets, those of padding at the ends among the classes."""

DOWNLOADS = {name: f"Download data.zip (about 30 GB) of {RELEASE} and put its data/{name} there" for name in PAPER}
"""How to get a data set that is missing."""

LABELS = {
    "seglearn": "seglearn wrist recordings in composed sessions (embedded)",
    "50salads": "50 Salads, I3D features of the MS-TCN release",
    "breakfast": "Breakfast, I3D features of the MS-TCN release",
    "gtea": "GTEA, I3D features of the MS-TCN release",
}


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
    if config.folds:
        return config.folds
    if config.dataset == "seglearn" and config.root is None:
        return seglearn_sessions.FOLDS
    return Layout(data_folder(config)).folds() or (1,)


def unavailable(config: Config) -> str | None:
    """Why the config's data cannot be used here and how to get it; None if no reason was found.

    Opens the mapping, the bundles of all folds and the header of one feature file. What is wrong inside the other
    files, `python -m tasks.action_segmentation.check` finds.
    """
    try:
        if config.dataset == "seglearn" and config.root is None:
            seglearn_sessions.source()
            return None
        folder = data_folder(config)
        if not folder.is_dir() and config.dataset in DOWNLOADS:
            advice = f"{DOWNLOADS[config.dataset]}, or set RFNEXT_DATA to the folder that holds {config.dataset}"
            return f"no folder {folder}. {advice}"
        if not folder.is_dir():
            return f"no folder {folder}; name your data by --root PATH, or link it there"
        layout = open_layout(folder, fail)
        classes, videos = len(read_mapping(layout, fail)), 0
        if _own(config) and (there := layout.folds()) and set(folds(config)) - set(there):
            named, known = (", ".join(map(str, which)) for which in (folds(config), there))
            return (
                f"{layout.root / 'splits'} has fold {known}, and the settings name {named}; give --folds "
                f"{known.replace(',', '')}, or --preset folder, which takes all that are there"
            )
        for fold in folds(config):
            videos = sum(map(len, read_fold(layout, fold, fail)))
        size = _feature_size(layout, config)
        if config.dataset in PAPER and size != I3D_SIZE:
            return (
                f"{folder} holds features of D = {size}, not the I3D features (D = {I3D_SIZE}) of {RELEASE}; "
                "use your own features by --dataset folder --root PATH"
            )
        if config.dataset in PAPER and (classes, videos) != CONTENTS[config.dataset]:
            return (
                f"{folder} has {classes} classes and {videos} videos, {LABELS[config.dataset]}, has "
                f"{'{} and {}'.format(*CONTENTS[config.dataset])}; get it whole, or use your own data by "
                "--dataset folder --root PATH"
            )
    except DataError as error:
        return str(error)
    return None


def download(config: Config) -> tuple[str, ...]:
    """Shell commands that put the MS-TCN release where its folders are looked for."""
    if config.dataset not in PAPER or config.root is not None:
        return ()
    folder = shlex.quote(str(data_folder(config).parent))
    return (
        f"mkdir -p {folder}",
        f"wget -c -O {folder}/data.zip {RELEASE}/files/data.zip  # 30 GB",
        f"unzip -q {folder}/data.zip -d {folder}/release && mv {folder}/release/data/* {folder}/",
    )


def data_files(config: Config) -> DataFiles | None:
    """What the config's folds read: the mapping, the bundles, and labels and features of the videos that they name."""
    if config.dataset == "seglearn" and config.root is None:
        return None
    layout = Layout(data_folder(config))
    bundles = [layout.bundle(part, fold) for fold in folds(config) for part in ("train", "test")]
    videos = sorted({video for bundle in bundles for video in read_bundle(bundle, lambda *problem: None)})
    labels = layout.mapping, *bundles, *map(layout.ground_truth, videos)
    return DataFiles(layout.root, labels, tuple(map(layout.features, videos)), _own(config))


def _own(config: Config) -> bool:
    return config.dataset == "folder" or (config.dataset == "seglearn" and config.root is not None)


def data_label(config: Config) -> str:
    """What the numbers are measured on."""
    if _own(config):
        return f"own data in {real_name(data_folder(config))}"
    return LABELS[config.dataset]


def published(config: Config) -> str | None:
    """Key of the papers' numbers, if the config has the data, folds and frames that they were measured on."""
    if config.dataset not in PAPER:
        return None
    preset = PRESETS[config.dataset]
    same = all(
        getattr(config, name) == getattr(preset, name) for name in ("folds", "stride", "feature_stride", "feature_rate")
    )
    return f"action_segmentation.{config.dataset}" if same else None


def facts(config: Config) -> dict[str, Any]:
    """What a network is told of the config's data: values per frame (D) and the names of its classes.

    Raises DataError if the data is unusable.
    """
    layout = open_layout(data_folder(config), fail)
    index = read_mapping(layout, fail)
    return {"features": _feature_size(layout, config), "classes": sorted(index, key=index.__getitem__)}


def longest_input(config: Config) -> int:
    """Feature vectors of the longest training or test video, after `config.stride`."""
    return _longest_input(data_folder(config), folds(config), config.sampling, _state(config))


def open_fold(config: Config, fold: int) -> "Dataset":
    """One fold of the config's data. Raises ValueError if the config lacks the fold, DataError for unusable data."""
    if fold not in folds(config):
        raise ValueError(f"fold {fold} is not one of {folds(config)}")
    return _opened(data_folder(config), fold, config.sampling, config.validation, config.group, _state(config))


State = tuple[tuple[int, int] | None, ...]
"""What changes with the data: nothing of what is kept in memory is used after that."""


def _state(config: Config) -> State:
    files = data_files(config)
    return () if files is None else files.state()


@functools.lru_cache(maxsize=1)
def _opened(root: Path, fold: int, sampling: Sampling, validation: float, group: str | None, state: State) -> "Dataset":
    # Training and scoring of one cell read the same fold; its features stay in memory from one to the next.
    return data.open_dataset(root, fold=fold, sampling=sampling, validation=validation, group=group)


@functools.lru_cache(maxsize=1)
def _longest_input(root: Path, folds: tuple[int, ...], sampling: Sampling, state: State) -> int:
    layout = open_layout(root, fail)
    names = {name: None for fold in folds for part in read_fold(layout, fold, fail) for name in part}
    _, _, vectors = data.read_videos(layout, list(names), read_mapping(layout, fail), sampling)
    return max(math.ceil(count / sampling.stride) for count in vectors.values())


def _feature_size(layout: Layout, config: Config) -> int:
    """D, read from the first training video; if its features do not fit its labels, all videos are compared."""
    fold = folds(config)[0]
    video = next(iter(read_fold(layout, fold, fail)[0]))
    ((size, vectors),) = read_shapes(layout, [video], fail).values()
    labels = read_labels(layout, video, read_mapping(layout, fail), fail)
    sampling = config.sampling
    if labels is not None and abs(difference(vectors, len(labels), sampling.feature_stride)) > sampling.tolerance:
        return open_fold(config, fold).feature_size
    return size
