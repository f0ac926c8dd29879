"""Records gathered into groups that may share a table, and the statistics of their numbers."""

import functools
import logging
import math
import statistics
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scipy import stats

import tasks
from benchmarks.methods import METHODS
from benchmarks.record import (
    Cell,
    Record,
    RecordError,
    as_text,
    fingerprint,
    flat,
    in_a_name,
    protocol_differences,
    shared,
)
from tasks.spec import Metric

log = logging.getLogger(__name__)

BASELINE = "baseline"
MAIN = "tiny"
"""Preset of the main job (`benchmarks/run_all.sh` as it is), with those that go on with a dash."""

PUBLISHED = Path(__file__).with_name("published.toml")

Values = Mapping[tuple[int, int], float]
"""One number per (fold, seed)."""


@dataclass(frozen=True)
class Estimate:
    """A mean with the half width of its 95 % confidence interval, None where one unit gives no interval."""

    mean: float
    half_width: float | None
    units: int
    cells: int


def estimate(values: Values) -> Estimate | None:
    """Mean and 95 % confidence interval (Student's t) of one number per (fold, seed); None if there is none.

    The independent unit is the fold: seeds of one fold share its test videos or images, so they are averaged
    first, and the interval has (folds - 1) degrees of freedom. With a single fold the unit is the seed. Folds
    share training data, so that the interval is somewhat optimistic (Bengio and Grandvalet, JMLR 2004: no
    unbiased one exists).
    """
    folds: dict[int, list[float]] = {}
    for (fold, _), value in values.items():
        folds.setdefault(fold, []).append(value)
    units = [statistics.fmean(same) for same in folds.values()] if len(folds) > 1 else list(values.values())
    if not units:
        return None
    half = None
    if len(units) > 1:
        half = float(stats.t.ppf(0.975, len(units) - 1)) * statistics.stdev(units) / math.sqrt(len(units))
    return Estimate(statistics.fmean(units), half, len(units), len(values))


@dataclass
class Group:
    """All cells of one (task, preset). broken: what is wrong with record files that cannot be read."""

    task: str
    preset: str
    records: list[Record] = field(default_factory=list)
    broken: dict[Cell, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.task}-{self.preset}"

    @property
    def title(self) -> str:
        """The preset and what was changed in it, as it was given: names of files do without most special characters."""
        config = flat(self.records[0].protocol.get("config", {})) if self.records else {}
        return ", ".join(_unmangled(part, config) for part in self.preset.split("+"))

    @property
    def main(self) -> bool:
        """Whether the main job makes it."""
        return self.preset == MAIN or (self.preset.startswith(f"{MAIN}-") and "+" not in self.preset)

    @property
    def cells(self) -> dict[Cell, Record | str]:
        """Every cell's record, or why it cannot be read."""
        return {record.cell: record for record in self.records} | self.broken

    @functools.cached_property
    def left_out(self) -> Mapping[str, str]:
        """Methods that make no sense for the task, with the reason; none for a task that is not here."""
        if self.task not in tasks.names():
            return {}
        try:
            return tasks.load(self.task).leaves_out
        except (ImportError, ValueError) as error:  # records can be shown where their task cannot run
            log.warning("%s cannot be loaded, so the methods that it leaves out are not shown: %s", self.task, error)
            return {}

    @property
    def methods(self) -> list[str]:
        """Methods that have cells and those that the task leaves out, in the order of the rows."""
        found = {cell.method for cell in self.cells}
        rows = found | (self.left_out.keys() & METHODS.keys())
        return [name for name in METHODS if name in rows] + sorted(found - METHODS.keys())

    @property
    def columns(self) -> list[tuple[int, int]]:
        """All (fold, seed) that some method was run on."""
        return sorted({(cell.fold, cell.seed) for cell in self.cells})

    @property
    def metrics(self) -> list[Metric]:
        return self.records[0].metric_specs

    def done(self, method: str) -> dict[tuple[int, int], Record]:
        """The method's finished records by (fold, seed)."""
        return {(r.fold, r.seed): r for r in self.records if r.method == method and r.status == "done"}

    def pictures(self, results: Path) -> list[str]:
        """The tasks' pictures that are here, relative to the results.

        Pictures may show data that must not be passed on; records travel without them.
        """
        rows = sorted(self.records, key=lambda record: self.methods.index(record.method))
        named = [picture for record in rows for picture in record.pictures]
        return [picture for picture in named if (results / picture).exists()]

    def why_not(self, method: str, fold: int, seed: int) -> str | None:
        """Why a cell has no number; None if it has one."""
        missing = f"left out: {self.left_out[method]}" if method in self.left_out else "not run"
        record = self.cells.get(Cell(self.task, self.preset, method, fold, seed), missing)
        if isinstance(record, str):
            return record
        return record.reason if record.status == "failed" else None


def _unmangled(part: str, config: Mapping[str, Any]) -> str:
    """One change in a preset's name, "field=value", with the value of the config that it stands for."""
    field, equals, value = part.partition("=")
    # The end of a long name is cut off.
    if equals and field in config and in_a_name(config[field]).startswith(value):
        return f"{field}={as_text(config[field])}"
    return part


def group(records: Iterable[Record], broken: Mapping[Path, str]) -> list[Group]:
    """Sort cells into tables. A file whose name is no cell's is left to the caller's list of errors."""
    groups: dict[tuple[str, str], Group] = {}
    for record in records:
        groups.setdefault((record.task, record.preset), Group(record.task, record.preset)).records.append(record)
    for path, reason in broken.items():
        if cell := Cell.of(path):
            found = groups.setdefault((cell.task, cell.preset), Group(cell.task, cell.preset))
            found.broken[cell] = f"broken record file {path.name}: {reason.partition(': ')[2]}"
    return [groups[key] for key in sorted(groups)]


def check_protocols(found: Group, results: Path) -> None:
    """Refuse to put records of different protocols into one table.

    All records must share task version, data and config; the records of one method also its settings.

    Raises RecordError naming what differs and the files of the smaller side.
    """
    _refuse_mixture(found, found.records, shared, results)
    for method in found.methods:
        _refuse_mixture(found, [r for r in found.records if r.method == method], dict, results)


def _refuse_mixture(found: Group, records: Sequence[Record], part: Any, results: Path) -> None:
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(fingerprint(part(record.protocol)), []).append(record)
    if len(kinds) < 2:
        return
    most, *fewer = sorted(kinds.values(), key=len, reverse=True)
    lines = [
        f"{found.name}: records of {len(kinds)} protocols cannot share a table; run the suite again to "
        f"replace the outdated ones, or delete them. Against {len(most)} like {most[0].cell.path(results)}:"
    ]
    for kind in fewer:
        lines += [f"  {', '.join(protocol_differences(most[0].protocol, kind[0].protocol))} in"]
        lines += [f"    {record.cell.path(results)}" for record in kind]
    raise RecordError("\n".join(lines))


def published_rows(key: str | None, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Rows of published.toml measured on the very same data; none for a key of None."""
    if key is None:
        return []
    rows = tomllib.loads(PUBLISHED.read_text("utf-8"))["row"]
    names = {metric.name for metric in metrics}
    return [row for row in rows if row["key"] == key and names & row["values"].keys()]


def scores(found: Group, method: str, *, last: bool = False) -> dict[str, dict[tuple[int, int], float]]:
    """Metric -> (fold, seed) -> test value of a method's finished cells."""
    values: dict[str, dict[tuple[int, int], float]] = {metric.name: {} for metric in found.metrics}
    for column, record in found.done(method).items():
        for name, value in ((record.metrics_last if last else record.metrics) or {}).items():
            values[name][column] = value
    return values


def differences(found: Group, method: str) -> dict[str, dict[tuple[int, int], float]]:
    """Metric -> (fold, seed) -> method minus baseline, where both are done."""
    ours, theirs = scores(found, method), scores(found, BASELINE)
    return {
        name: {column: value - theirs[name][column] for column, value in values.items() if column in theirs[name]}
        for name, values in ours.items()
    }


@dataclass(frozen=True)
class Comparison:
    """A method's paired difference to the baseline in one metric.

    verdict: "better" or "worse" if the 95 % interval excludes 0, None if it does not or there is no interval.
    """

    method: str
    metric: Metric
    difference: Estimate
    verdict: Literal["better", "worse"] | None


def comparisons(found: Group) -> list[Comparison]:
    """All paired differences to the baseline, method by method."""
    made = []
    for method in found.methods:
        if method == BASELINE or BASELINE not in found.methods:
            continue
        for metric in found.metrics:
            if difference := estimate(differences(found, method)[metric.name]):
                made.append(Comparison(method, metric, difference, _verdict(difference, metric)))
    return made


def _verdict(difference: Estimate, metric: Metric) -> Literal["better", "worse"] | None:
    if difference.half_width is None or abs(difference.mean) <= difference.half_width:
        return None
    return "better" if (difference.mean > 0) == metric.higher_is_better else "worse"


def conclusion(found: Group) -> str:
    """One sentence or two: which differences to the baseline have a 95 % interval without 0."""
    if BASELINE not in found.methods or not found.done(BASELINE):
        return "There is no finished baseline, so nothing can be compared."
    made = comparisons(found)
    if not made:
        return "No other method has finished, so there is nothing to compare with the baseline."
    if all(one.difference.half_width is None for one in made):
        return "One run per method: differences have no interval, so nothing can be concluded."
    methods, metrics = len({one.method for one in made}), len({one.metric.name for one in made})
    total = f"{len(made)} differences to the baseline ({_count(methods, 'method')}, {_count(metrics, 'metric')})"
    clear = [one for one in made if one.verdict]
    if not clear:
        return f"None of the {total} has a 95 % interval without 0: no method is shown to be better or worse."
    named = "; ".join(
        f"{one.method} {one.metric.name} {number(one.difference, one.metric.decimals, signed=True)} ({one.verdict})"
        for one in clear
    )
    return (
        f"{len(clear)} of {total} {'has' if len(clear) == 1 else 'have'} a 95 % interval without 0: {named}. "
        "By chance alone about one in 20 would."
    )


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def number(value: Estimate, decimals: int, *, signed: bool = False) -> str:
    """ "1.6 ± 0.4", with one decimal more where rounding would hide on which side of 0 the interval ends."""
    sign = "+" if signed else ""
    if value.half_width is None:
        return f"{value.mean:{sign}.{decimals}f}"
    if signed and f"{abs(value.mean):.{decimals}f}" == f"{value.half_width:.{decimals}f}":
        decimals += 1
    return f"{value.mean:{sign}.{decimals}f} ± {value.half_width:.{decimals}f}"
