"""The data sets that a config can name: where they are, and what tables call them."""

import functools
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tasks.load_forecasting import series
from tasks.load_forecasting.config import Config
from tasks.load_forecasting.csv_file import NAME, read_csv
from tasks.load_forecasting.data import Fold, Sizes, sizes_of, split
from tasks.load_forecasting.series import Series
from tasks.spec import DataError, DataFiles, fail

EMBEDDED = {"elecdemand": series.elecdemand, "taylor": series.taylor}
KNOWN = {"elecdemand": ("WorkDay",)}
"""Covariates of the embedded sets that are known in advance."""

FILES = {"etth1": "ETTh1.csv", "etth2": "ETTh2.csv", "folder": NAME}

LABELS = {
    "elecdemand": "half-hourly electricity demand of Victoria, 2014 (embedded)",
    "taylor": "half-hourly electricity demand of England and Wales, 2000 (embedded)",
    "etth1": "ETTh1, hourly oil temperature of a transformer",
    "etth2": "ETTh2, hourly oil temperature of a transformer",
}
DOWNLOAD = "https://github.com/zhouhaoyi/ETDataset, folder ETT-small"


def own(config: Config) -> bool:
    """Whether the config is on the user's own data."""
    return config.dataset == "folder" or (config.dataset in EMBEDDED and config.root is not None)


def data_file(config: Config) -> Path | None:
    """The file of the config's series, which may be missing; None for the embedded ones."""
    if config.root is None and config.dataset in EMBEDDED:
        return None
    here = Path(os.environ.get("RFNEXT_DATA") or Path(__file__).parents[2] / "data") / config.dataset
    return (config.root or here) / FILES.get(config.dataset, NAME)


def read(config: Config) -> Series:
    """The config's series. Raises DataError at the first problem."""
    path = data_file(config)
    found = EMBEDDED[config.dataset]() if path is None else read_csv(path, config.time, config.target, fail)
    assert found is not None  # `fail` raises
    if unknown := set(known(config)) - set(found.columns[1:]):
        raise DataError(f"{path}: there is no covariate {min(unknown)!r}; --known names some of {found.columns[1:]}")
    return found


def known(config: Config) -> tuple[str, ...]:
    """Covariates that are known in advance."""
    return KNOWN.get(config.dataset, ()) if config.root is None and config.dataset in KNOWN else config.known


def sizes(config: Config) -> Sizes:
    """How the config cuts a series into parts."""
    return Sizes(config.horizon, config.burn_in, config.split)


def folds(config: Config) -> tuple[int, ...]:
    """The config's folds."""
    return (1,) if config.split else config.folds


def open_fold(config: Config, fold: int) -> Fold:
    """The series of a config, cut for one fold. Raises DataError where it is too short or there is no such fold."""
    path = data_file(config)
    return _open_fold(config, fold, None if path is None else DataFiles(path.parent, (path,), (), own(config)).state())


@functools.lru_cache(maxsize=8)
def _open_fold(config: Config, fold: int, state: object) -> Fold:
    return split(read(config), known(config), sizes(config), fold)


def unavailable(config: Config) -> str | None:
    """Why the config's data cannot be used here and how to get it; None if no reason was found."""
    path = data_file(config)
    try:
        if path is None:
            series.source(config.dataset)
            return None
        if not path.is_file() and config.dataset in ("etth1", "etth2"):
            return f"no file {path}. Download {path.name} of {DOWNLOAD} and put it there, or set RFNEXT_DATA"
        if not path.is_file():
            return f"no file {path}; name the folder of your {path.name} by --root PATH"
        found = read(config)
        for fold in folds(config):
            sizes_of(found.values.shape[1], sizes(config), fold)
    except DataError as error:
        return str(error)
    return None


def data_files(config: Config) -> DataFiles | None:
    """The one file that the config reads."""
    path = data_file(config)
    return None if path is None else DataFiles(path.parent, (path,), (), own(config))


def data_label(config: Config) -> str:
    """What the numbers are measured on."""
    path = data_file(config)
    return f"own data in {path.parent.resolve().name}" if own(config) and path else LABELS[config.dataset]


def facts(config: Config) -> dict[str, Any]:
    """What a network is told of the data: the names of the columns that it reads, the target first."""
    return {"columns": list(read(config).columns)}


def longest_input(config: Config) -> int:
    """Steps of the shortest training part."""
    try:
        length = read(config).values.shape[1]
        return min(sizes_of(length, sizes(config), fold)[0] for fold in folds(config))
    except DataError:
        return 1024


def times(config: Config, positions: np.ndarray) -> list[Any]:
    """Times of steps of the series."""
    found = read(config)
    return [found.start + timedelta(seconds=found.step * int(position)) for position in positions]
