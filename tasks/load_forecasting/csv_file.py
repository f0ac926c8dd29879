"""A series in a CSV file of one's own: a column of time stamps, the target, and covariates.

Every problem is reported with its line. Values are parsed by float(), time stamps by datetime.fromisoformat().
"""

import csv
import io
import itertools
import logging
import math
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from rfnext.files import open_file, reason
from tasks.load_forecasting.series import Series
from tasks.spec import Report

log = logging.getLogger(__name__)

NAME = "series.csv"
"""The file in the data folder."""

STEPS = 5_000_000
"""Most steps of a series: 47 years of 5 minutes. A training holds all of them in memory."""

LARGEST = 1e100
"""Most that a value may be, and the inverse of the least that a column may vary by: squares must stay finite."""

LONGEST = 2**20
"""Characters of a line."""

LONGEST_NAME = 200
"""Characters of a column's name."""

RELATIVE = 1e-9
"""Least that a column must vary by, as a share of its values: numbers have 16 digits."""


MONTHS = "; months and years differ in length: number them by equal steps, one day each for example"


class Row(NamedTuple):
    """One line of the file, from 1: when, and the values in the order of the columns."""

    line: int
    when: datetime
    values: list[float]


def read_csv(path: Path, time: str, target: str, report: Report) -> Series | None:
    """The series of a file, or None where a problem was reported.

    Args:
        path: the file; UTF-8, a header, commas.
        time, target: names of columns; every other column is a covariate.
        report: called for each problem: a missing or repeated column, a line of another number of values, a value that
            is no finite number, a time stamp that is none, or not later than the one before, a gap, a step of another
            length, a column that is constant or nearly so.
    """
    problems = 0

    def told(line: int | None, what: str, fix: str) -> None:
        nonlocal problems
        problems += 1
        report(path, line, what, fix)

    rows, columns = [], []
    try:
        with io.TextIOWrapper(open_file(path), encoding="utf-8-sig", newline="") as file:
            lines = _lines(csv.reader(_limited(file), strict=True))
            _, columns = next(lines, (1, []))
            if _check_header(columns, time, target, told):
                few = itertools.islice(lines, STEPS)
                rows = [row for line, cells in few if (row := _row(line, cells, columns, time, told))]
                if more := next(lines, None):
                    told(more[0], f"it has more than {STEPS} steps", "cut it, or average over longer steps")
    except FileNotFoundError:
        told(None, "no such file", f"name the folder of your {NAME} by --root PATH")
    except UnicodeDecodeError:
        told(None, "it is not UTF-8", "save it as UTF-8")
    except (OSError, csv.Error) as error:
        told(None, f"it cannot be read ({reason(error)})", "write it as comma-separated values")
    if problems:
        return None
    step = _check_times(rows, told)
    names = [target, *(name for name in columns if name not in (time, target))]
    order = [[name for name in columns if name != time].index(name) for name in names]
    values = np.array([row.values for row in rows], np.float64).T[order] if rows else np.empty((0, 0))
    for name, column in zip(names, values, strict=False):
        _check_column(name, column, told)
        if mark := _mark(column):
            log.warning("%s: column %r is %s; if that marks missing values, fill them in", path, name, mark)
    return None if problems or step is None else Series(tuple(names), values, rows[0].when, step)


def _check_column(name: str, column: NDArray[np.float64], told) -> None:
    """Whether a column varies, and enough for the digits that numbers have."""
    if not len(column):
        return
    least, most = column.min(), column.max()
    if least == most:
        told(None, f"column {name!r} is {least:g} in every line", "remove the column, or the file is the wrong one")
    elif most - least < max(1 / LARGEST, RELATIVE * np.abs(column).max()):
        what = f"column {name!r} varies by only {most - least:g} around {most:g}, too little for 16 digits"
        told(None, what, "subtract a constant from it, or use another unit")


def _mark(column: NDArray[np.float64]) -> str | None:
    """A value at either end that several steps have and that lies far from all others, as -9999 does: it counts."""
    values, counts = np.unique(column, return_counts=True)
    for end, others in ((0, values[1:]), (-1, values[:-1])):
        if len(others) < 3 or counts[end] < 2:
            continue
        least, most = others[0], others[-1]
        if max(least - values[end], values[end] - most) > 3 * (most - least):
            return f"{values[end]:g} in {counts[end]} steps and {least:g} to {most:g} in all others"
    return None


def _limited(file: TextIO) -> Iterator[str]:
    """The lines of a file; csv.Error at one without an end, as in a file that was only made long."""
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise csv.Error(f"a line has more than {LONGEST} characters")
        yield line


def _lines(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not empty, with their numbers from 1."""
    for cells in reader:
        if cells:
            yield reader.line_num, cells  # type: ignore[attr-defined]  # csv's readers have it


def _check_header(columns: list[str], time: str, target: str, told) -> bool:
    """Whether the header names the columns that are needed, and each column once."""
    twice = sorted(name for name, count in Counter(columns).items() if count > 1)
    missing = [name for name in (time, target) if name not in columns]
    unnamed = [number for number, name in enumerate(columns, 1) if not name.strip() and name not in (time, target)]
    long = next((number for number, name in enumerate(columns, 1) if len(name) > LONGEST_NAME), None)
    if long:
        told(1, f"column {long} has a name of {len(columns[long - 1])} characters", f"give at most {LONGEST_NAME}")
    elif twice:
        told(1, f"column {twice[0]!r} appears twice", "rename one")
    elif time == target:
        told(1, f"column {time!r} is both time and target", "give two columns by --time and --target")
    elif missing:
        has = f"the header has {', '.join(map(repr, columns[:8])) or 'no column'}"
        commas = "separate columns by commas, or " if len(columns) == 1 else ""
        told(
            1,
            f"there is no column {missing[0]!r}; {has}",
            f"{commas}name the columns by --time and --target, here {time!r} and {target!r}",
        )
    elif unnamed:
        told(1, f"column {unnamed[0]} has no name", "name it, or leave it out (pandas: to_csv(..., index=False))")
    return not long and not twice and time != target and not missing and not unnamed


def _row(line: int, cells: list[str], columns: list[str], time: str, told) -> Row | None:
    if len(cells) != len(columns):
        told(line, f"{len(cells)} values, but the header has {len(columns)}", "write one value per column")
        return None
    named = dict(zip(columns, cells, strict=True))
    try:
        when = datetime.fromisoformat(named.pop(time).strip())
    except ValueError:
        told(line, f"{cells[columns.index(time)][:40]!r} is no time stamp", "write it as 2014-01-31 23:30")
        return None
    values = []
    for name, text in named.items():
        try:
            value = math.nan if "_" in text else float(text)  # 1_000 is a number to Python alone
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            mend = "fill the value in, cut the series there, or remove the column"
            told(line, f"{name!r} is {text[:40]!r}, not a finite number", mend)
            return None
        if abs(value) > LARGEST:
            told(line, f"{name!r} is {text[:40]!r}, above {LARGEST:g}", "use another unit")
            return None
        values.append(value)
    return Row(line, when, values)


def _check_times(rows: list[Row], told) -> float | None:
    """Seconds of a step, the most frequent one; None if there is none."""
    if len(rows) < 2:
        told(None, f"{len(rows)} lines of values", "a series has thousands")
        return None
    if len({row.when.tzinfo is None for row in rows}) > 1:
        told(None, "some time stamps have a time zone, others have none", "write all of them in UTC")
        return None
    steps = [(after.when - before.when).total_seconds() for before, after in itertools.pairwise(rows)]
    step = Counter(step for step in steps if step > 0).most_common(1)
    if not step:
        told(rows[1].line, "no time stamp is later than the one before", "sort the lines by time")
        return None
    usual = step[0][0]
    for before, after, found in zip(rows, rows[1:], steps, strict=False):
        if found == usual:
            continue
        if found == 0:
            told(
                after.line,
                f"{after.when} is there twice",
                "remove one line; if clocks were set back, write times in UTC",
            )
        elif found < 0:
            told(after.line, f"{after.when} is before {before.when}, the line above", "sort the lines by time")
        elif found % usual == 0:
            missing = int(found // usual) - 1
            fix = "fill them in" + ("" if after.when.tzinfo else "; if clocks were put forward, write times in UTC")
            told(after.line, f"{missing} steps are missing between {before.when} and {after.when}", fix)
        else:
            told(
                after.line,
                f"{found:g} s after the line above, others {usual:g} s",
                "resample to one step" + MONTHS * (found > 27 * 86400),
            )
    return usual
