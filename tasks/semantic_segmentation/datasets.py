"""The data sets that a config can name: where they are, and what tables call them."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

from tasks import scenes
from tasks.file_names import real_name
from tasks.semantic_segmentation.config import Config
from tasks.semantic_segmentation.data import Dataset, held_out, open_own, open_scenes, scene_classes
from tasks.semantic_segmentation.folder import Folder, read_folder
from tasks.spec import DataError, DataFiles, SearchUnit, fail

CHECK = "python -m tasks.semantic_segmentation.check"
PACKAGES = ("lightning", "PIL", "timm", "torchvision")


def folds(config: Config) -> tuple[int, ...]:
    """The config's folds; own data is one."""
    return config.folds if config.dataset == "scenes" else (1,)


def unavailable(config: Config) -> str | None:
    """What to install, or what is wrong with the data; None if the config can run here."""
    lacking = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if lacking:
        return f"{', '.join(lacking)} not installed; in the repository: pip install '.[semantic]'"
    if config.dataset == "scenes":
        return scenes.missing()
    try:
        open_fold(config, 1)
    except DataError as error:
        return str(error)
    return None


def open_fold(config: Config, fold: int) -> Dataset:
    """The data of a fold.

    Raises:
        ValueError: if the config has no such fold.
        DataError: if there is no usable data.
    """
    if fold not in folds(config):
        raise ValueError(f"fold {fold} is not one of {folds(config)}")
    if config.dataset == "scenes":
        cut = config.scenes, -(-config.scenes // 4), config.digits, config.smallest, config.validation
        return _scenes(fold, *cut)
    root = _root(config)
    return open_own(root, _listed(config), config.validation, config.test)


@functools.lru_cache(maxsize=1)
def _scenes(fold: int, train: int, test: int, digits: int, smallest: float, validation: float) -> Dataset:
    # Training and scoring of one cell read the same scenes.
    return open_scenes(fold, train, test, digits, smallest, validation)


def _root(config: Config) -> Path:
    if config.root is None:
        raise DataError(f"which folder? Give one with images/, labels/ and classes.txt by --root PATH; {CHECK} PATH")
    return config.root


def _listed(config: Config) -> Folder:
    files = data_files(config)
    return _read(_root(config), files and (files.labels, files.inputs, files.state()))


@functools.lru_cache(maxsize=1)
def _read(root: Path, state: object) -> Folder:
    found = read_folder(root, fail)
    assert found is not None  # `fail` never returns
    return found


def facts(config: Config) -> dict[str, Any]:
    """What a network is told of the data: the names of the classes. Raises DataError if the data is unusable."""
    known = scene_classes(config.digits) if config.dataset == "scenes" else _listed(config).classes
    return {"classes": list(known)}


def longest_input(config: Config) -> int:
    """Side of the largest feature map that a searched conv reads."""
    return -(-config.image // (8 if config.network == "deeplabv3" else 4))


def search_length(config: Config) -> tuple[int, SearchUnit]:
    """How long a full training is, in what its local search counts. Raises DataError if own data is unusable."""
    if config.search_counts == "epochs":
        return config.epochs, "epochs"
    if config.dataset == "scenes":  # without composing them
        images = config.scenes - held_out(config.scenes, config.validation)
    else:
        images = len(open_fold(config, 1).train)
    return config.epochs * max(1, images // config.batch), "iterations"


def data_files(config: Config) -> DataFiles | None:
    """All files of own data: lists and labels, and images."""
    if config.dataset == "scenes" or config.root is None:
        return None
    root = config.root
    labels = tuple(sorted((root / "labels").glob("*.png")))
    images = tuple(path for path in sorted((root / "images").glob("*")) if not path.name.startswith("."))
    return DataFiles(root, (root / "classes.txt", root / "test.txt", *labels), images, own=True)


def data_label(config: Config) -> str:
    """What the numbers are measured on."""
    if config.dataset == "scenes":
        return "digits on photographs (embedded)"
    return f"own data in {real_name(config.root or Path('folder'))}"
