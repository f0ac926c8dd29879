"""The cells of one (task, preset): their records, why cells have none, and paired differences to the baseline."""

import functools
import logging
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tasks
from benchmarks.methods.table import METHODS
from benchmarks.records.folder import Records
from benchmarks.records.protocol import fingerprint, shared
from benchmarks.records.record import Key, Record, RecordError
from benchmarks.records.statistics import Estimate, Values, estimate, number, paired
from tasks.plain import differences
from tasks.spec import Metric, Task

log = logging.getLogger(__name__)

BASELINE = "baseline"

MAIN = "tiny"
"""Suite of the main job, `benchmarks/run_all.sh` without arguments."""

PUBLISHED = Path(__file__).parents[1] / "published.toml"


@dataclass
class Gathered:
    """All cells of one (task, preset). broken: what is wrong with record files that cannot be read."""

    task: str
    preset: str
    records: list[Record] = field(default_factory=list)
    broken: dict[Key, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its folder of results."""
        return f"{self.task}-{self.preset}"

    @property
    def published(self) -> str | None:
        """Key of the published numbers that were measured on its data; None unless all records say the same."""
        keys = {record.published for record in self.records}
        return keys.pop() if len(keys) == 1 else None

    @property
    def title(self) -> str:
        """The preset and what was changed in it."""
        return self.records[0].title if self.records else self.preset

    @functools.cached_property
    def definition(self) -> Task[Any] | None:
        """The task; None if it is not here or cannot be loaded, which does not keep its records from being shown."""
        if self.task not in tasks.names():
            return None
        try:
            return tasks.load(self.task)
        except (ImportError, ValueError) as error:
            log.warning("%s cannot be loaded: its suites and what it leaves out are unknown (%s)", self.task, error)
            return None

    @property
    def main(self) -> bool:
        """Whether the main job makes it."""
        return self.preset in (self.definition.presets_of(MAIN) if self.definition else (MAIN,))

    @property
    def left_out(self) -> Mapping[str, str]:
        """Methods that make no sense for the task, with the reason."""
        return self.definition.leaves_out if self.definition else {}

    def leave_out(self, left: Mapping[Key, str]) -> None:
        """Show cells without their records; left: why."""
        self.records = [record for record in self.records if record.key not in left]
        self.broken = {**self.broken, **left}
        for name in ("cells", "methods", "columns", "_done"):
            vars(self).pop(name, None)

    @functools.cached_property
    def cells(self) -> dict[Key, Record | str]:
        """Every cell's record, or why it cannot be read."""
        return self.broken | {record.key: record for record in self.records}

    @functools.cached_property
    def methods(self) -> list[str]:
        """Methods that have cells and those that the task leaves out, in the order of the rows."""
        found = {key.method for key in self.cells}
        rows = found | (self.left_out.keys() & METHODS.keys())
        return [name for name in METHODS if name in rows] + sorted(found - METHODS.keys())

    @functools.cached_property
    def columns(self) -> list[tuple[int, int]]:
        """All (fold, seed) that some method was run on."""
        return sorted({(key.fold, key.seed) for key in self.cells})

    @property
    def metrics(self) -> list[Metric]:
        """What its networks are measured by; the first metric drives searches."""
        return self.records[0].metric_specs

    def done(self, method: str) -> Mapping[tuple[int, int], Record]:
        """The method's finished records by (fold, seed)."""
        return self._done.get(method, {})

    @functools.cached_property
    def _done(self) -> dict[str, dict[tuple[int, int], Record]]:
        found: dict[str, dict[tuple[int, int], Record]] = {}
        for one in self.cells.values():
            if isinstance(one, Record) and one.status == "done":
                found.setdefault(one.method, {})[one.fold, one.seed] = one
        return found

    def why_not(self, method: str, fold: int, seed: int) -> str | None:
        """Why a cell has no number; None if it has one."""
        missing = f"left out: {self.left_out[method]}" if method in self.left_out else "not run"
        record = self.cells.get(Key(self.task, self.preset, method, fold, seed), missing)
        if isinstance(record, str):
            return record
        return record.reason if record.status == "failed" else None


def gather(records: Records) -> list[Gathered]:
    """Sort records into tables, with what is broken of their cells."""
    found: dict[tuple[str, str], Gathered] = {}
    for record in records.all:
        found.setdefault((record.task, record.preset), Gathered(record.task, record.preset)).records.append(record)
    for fault in records.broken:
        for key in fault.keys:
            one = found.setdefault((key.task, key.preset), Gathered(key.task, key.preset))
            if key not in records.by_key:
                one.broken[key] = f"broken record {fault.said.removeprefix(f'{fault.path.parent}/')}"
    return [found[key] for key in sorted(found)]


def measures(record: Record) -> tuple[Any, ...]:
    """What a record's numbers are: names, units and directions of its metrics."""
    return tuple((spec.name, spec.unit, spec.higher_is_better) for spec in record.metric_specs)


def leave_out_odd(found: Gathered, places: Mapping[Key, str]) -> list[str]:
    """Take out records whose numbers are not those of the others, and return what is said of each.

    Those are other metrics, or receptive fields of another unit or number of axes.
    """
    said: dict[Key, str] = {}
    for what, of in (("metric_specs", measures), ("receptive_field", _axes)):
        kinds = Counter(kind for record in found.records if (kind := of(record)) is not None)
        usual = max(kinds, key=lambda kind: kinds[kind], default=None)
        for record in found.records:
            if (kind := of(record)) is not None and kind != usual and record.key not in said:
                said[record.key] = f"{places[record.key]}: {what} is {kind}; that of the other cells is {usual}"
    if said:
        found.leave_out({key: f"left out, {reason.rpartition('/')[2]}" for key, reason in said.items()})
    return list(said.values())


def _axes(record: Record) -> tuple[Any, ...] | None:
    field = record.receptive_field
    return None if field is None else (field["unit"], len(field["axes"]))


def check_protocols(found: Gathered, results: Path) -> None:
    """Refuse to put records of different protocols into one table.

    All records must share task version, data and config; the records of one method also its settings.

    Raises:
        RecordError: naming what differs and the files or cells of the smaller side.
    """
    _refuse_mixture(found, found.records, shared, results)
    for method in found.methods:
        _refuse_mixture(found, [r for r in found.records if r.method == method], dict, results)


def _refuse_mixture(
    found: Gathered, records: Sequence[Record], part: Callable[[Mapping[str, Any]], Any], results: Path
) -> None:
    kinds: dict[str, list[Record]] = {}
    for record in records:
        kinds.setdefault(fingerprint(part(record.protocol)), []).append(record)
    if len(kinds) < 2:
        return
    most, *fewer = sorted(kinds.values(), key=len, reverse=True)
    lines = [
        f"{found.name}: records of {len(kinds)} protocols cannot share a table; run the suite again to replace the "
        f"outdated ones, or give other data a --name of its own. Against {len(most)} like {_place(most[0], results)}:"
    ]
    for kind in fewer:
        lines += [f"  {', '.join(differences(most[0].protocol, kind[0].protocol))} in"]
        lines += [f"    {_place(record, results)}" for record in kind]
    raise RecordError("\n".join(lines))


def _place(record: Record, results: Path) -> str:
    """The file of a record: its own, or the one that holds it as a line."""
    own = record.key.path(results)
    return str(own) if own.exists() else f"{record.key} in {results / f'{record.task}-{record.preset}/records.jsonl'}"


@functools.cache
def _published() -> list[dict[str, Any]]:
    return tomllib.loads(PUBLISHED.read_text("utf-8"))["row"]


def published_rows(key: str | None, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Rows of published.toml measured on the very same data; none for a key of None."""
    names = {metric.name for metric in metrics}
    return [row for row in _published() if key is not None and row["key"] == key and names & row["values"].keys()]


def scores(found: Gathered, method: str, *, last: bool = False) -> dict[str, dict[tuple[int, int], float]]:
    """Metric -> (fold, seed) -> test value of a method's finished cells."""
    values: dict[str, dict[tuple[int, int], float]] = {metric.name: {} for metric in found.metrics}
    for column, record in found.done(method).items():
        for name, value in ((record.metrics_last if last else record.metrics) or {}).items():
            values[name][column] = value
    return values


Verdict = Literal["better", "worse"]


@dataclass(frozen=True)
class Comparison:
    """A method's paired difference to the baseline in one metric."""

    method: str
    metric: Metric
    difference: Estimate

    @property
    def verdict(self) -> Verdict | None:
        """Better or worse if the 95 % interval excludes 0, None if it does not or there is no interval."""
        return verdict(self.difference, self.metric)

    @property
    def text(self) -> str:
        """The difference with its interval."""
        return number(self.difference, self.metric.decimals, signed=True)


def verdict(difference: Estimate, metric: Metric) -> Verdict | None:
    """Better or worse if the interval of a difference excludes 0; None otherwise."""
    if not difference.decided:
        return None
    return "better" if (difference.mean > 0) == metric.higher_is_better else "worse"


def comparisons(found: Gathered) -> list[Comparison]:
    """All paired differences to the baseline, method by method."""
    made = []
    theirs = scores(found, BASELINE)
    for method in found.methods:
        if method == BASELINE:
            continue
        ours = scores(found, method)
        for metric in found.metrics:
            if difference := estimate(paired(ours[metric.name], theirs[metric.name])):
                made.append(Comparison(method, metric, difference))
    return made


def conclusion(found: Gathered) -> str:
    """One sentence or two: which differences to the baseline are decided, with their numbers."""
    if not found.done(BASELINE):
        return "There is no finished baseline, so nothing can be compared."
    made = comparisons(found)
    if not made:
        return "No other method has finished, so there is nothing to compare with the baseline."
    if all(one.difference.half_width is None for one in made):
        most = max(made, key=lambda one: one.difference.units).difference
        runs = f"{most.units} {most.over}s" if most.units > 1 else "One run"
        return f"{runs} per method: too few for an interval, so nothing can be concluded."
    methods, metrics = len({one.method for one in made}), len({one.metric.name for one in made})
    total = f"{len(made)} differences to the baseline ({_count(methods, 'method')}, {_count(metrics, 'metric')})"
    clear = [one for one in made if one.verdict]
    if not clear:
        return f"None of the {total} has a 95 % interval without 0: no method is shown to be better or worse."
    named = "; ".join(f"{one.method} {one.metric.name} {one.text} ({one.verdict})" for one in clear)
    have = "has" if len(clear) == 1 else "have"
    return f"{len(clear)} of {total} {have} a 95 % interval without 0: {named}. By chance alone about one in 20 would."


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def pairs(found: Gathered, method: str) -> int:
    """Number of (fold, seed) that both the method and the baseline have finished."""
    return len(found.done(BASELINE).keys() & found.done(method).keys())


def values_of(records: Iterable[Record], name: str) -> Values:
    """One metric of finished records by (fold, seed): test part, epoch chosen on validation."""
    return {(r.fold, r.seed): r.metrics[name] for r in records if r.metrics is not None and name in r.metrics}
