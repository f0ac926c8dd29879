"""The data sets that a config can name: where they are, and what tables call them."""

import functools
import logging
import os
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tasks.file_names import real_name
from tasks.load_forecasting import metrics, series
from tasks.load_forecasting.config import Config
from tasks.load_forecasting.csv_file import NAME, read_csv
from tasks.load_forecasting.data import Fold, Sizes, sizes_of, split
from tasks.load_forecasting.series import Series
from tasks.spec import DataError, DataFiles, fail

log = logging.getLogger(__name__)

EMBEDDED = {name: getattr(series, name) for name in series.PLACES}
KNOWN = {"elecdemand": ("WorkDay",)}
"""Covariates of the embedded sets that are known in advance."""

FILES = {"etth1": "ETTh1.csv", "etth2": "ETTh2.csv", "folder": NAME}

CUT = ("dataset", "root", "time", "target", "known", "split", "horizon", "seasons", "burn_in", "trailing")
"""Fields of a config that decide its folds."""

LABELS = {
    "elecdemand": "half-hourly electricity demand of Victoria, 2014 (embedded)",
    "taylor": "half-hourly electricity demand of England and Wales, 2000 (embedded)",
    "calls": "calls to a bank per five minutes, 2003 (embedded)",
    "births": "births in the United States per day, 1969 to 1988 (embedded)",
    "departures": "flights that left New York per hour, 2013 (embedded)",
    "motorway": "emissions of the cars on a Swiss motorway per hour, 2004 (embedded)",
    "stops": "stops by police in Minneapolis per hour, 2017 (embedded)",
    "treering": "widths of tree rings per year (embedded)",
    "sunspots": "sunspots per month, 1749 to 2013 (embedded)",
    "ridership": "passengers of a station in Chicago per day, 2001 to 2016 (embedded)",
    "temperature": "temperature at an airport of New York per hour, 2013 (embedded)",
    "tweets": "tweets by Donald Trump per hour, 2013 (embedded)",
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
    if path is None:
        if (config.time, config.target, config.known) != (Config.time, Config.target, Config.known):
            raise DataError(f"{config.dataset} is embedded; --time, --target and --known are for a {NAME} of your own")
        return _embedded(config.dataset)
    found = _read(path, config.time, config.target, _state(config))
    if unknown := set(known(config)) - set(found.columns[1:]):
        raise DataError(f"{path}: there is no covariate {min(unknown)!r}; --known names some of {found.columns[1:]}")
    return found


@functools.lru_cache(maxsize=2)
def _embedded(name: str) -> Series:
    return EMBEDDED[name]()  # every network that is built asks for the columns


@functools.lru_cache(maxsize=1)
def _read(path: Path, time: str, target: str, state: object) -> Series:
    found = read_csv(path, time, target, fail)
    assert found is not None  # `fail` raises
    return found


def _state(config: Config) -> object:
    """What changes when the config's file does."""
    files = data_files(config)
    return files and (files.labels, files.state())


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
    """The series of a config, cut for one fold.

    Raises:
        DataError: if there is no such fold, the series is too short for it, or has nothing to forecast in it.
    """
    # Trainings that differ in other fields share one copy of the data.
    return _open_fold(Config(**{name: getattr(config, name) for name in CUT}), fold, _state(config))


@functools.lru_cache(maxsize=2)
def _open_fold(config: Config, number: int, state: object) -> Fold:
    found, path = read(config), data_file(config)
    try:
        return _cut(found, config, number)
    except DataError as error:
        raise DataError(f"{path}: {error}" if path else str(error)) from None


def _cut(found: Series, config: Config, number: int) -> Fold:
    fold = split(found, known(config), sizes(config), number)
    past = max(config.trailing, *metrics.lags(config.horizon, config.seasons))
    if past > fold.ends[0]:
        raise DataError(
            f"the training part of fold {number} has {fold.ends[0]} steps, and --horizon, --seasons and --trailing "
            f"need {past}; lower them, or leave fold {number} out"
        )
    target = fold.inputs[0, : fold.ends[0]]
    if target.min() == target.max():
        raise DataError(
            f"the target is {target[0]:g} in the whole training part of fold {number}; leave fold {number} out, or cut "
            "the series"
        )
    seen = fold.inputs[1:, : fold.positions("train").stop]
    if still := [name for name, row in zip(found.columns[1:], seen, strict=True) if row.min() == row.max()]:
        told = "covariates that do not change in the training part of fold %d are left out of its forecasts: %s"
        log.warning(told, number, ", ".join(still))
    for part in ("validation", "test"):
        if metrics.best_persistence(fold, part, config.seasons) == 0:
            raise DataError(
                f"the {part} part of fold {number} only repeats older values, so nothing is left to forecast; leave "
                f"fold {number} out"
            )
    return fold


def download(config: Config) -> tuple[str, ...]:
    """Shell commands that put ETTh1 or ETTh2 where it is looked for."""
    path = data_file(config)
    if path is None or config.dataset not in ("etth1", "etth2") or config.root is not None:
        return ()
    folder, source = (
        shlex.quote(str(path.parent)),
        "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small",
    )
    return (f"mkdir -p {folder}", f"wget -c -P {folder} {source}/{path.name}")


def unavailable(config: Config) -> str | None:
    """Why the config's data cannot be used here and how to get it; None if no reason was found."""
    path = data_file(config)
    if path is not None and not path.is_file():
        if config.dataset in ("etth1", "etth2"):
            return f"no file {path}. Download {path.name} of {DOWNLOAD} and put it there, or set RFNEXT_DATA"
        return f"no file {path}; name the folder of your {path.name} by --root PATH"
    try:
        for fold in folds(config):
            open_fold(config, fold)
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
    return f"own data in {real_name(path.parent)}" if own(config) and path else LABELS[config.dataset]


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
