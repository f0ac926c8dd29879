"""What the tables of one (task, preset) say, as rows of text and numbers for any format to print."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.methods.table import METHODS
from benchmarks.records.protocol import fingerprint, shared
from benchmarks.records.record import Record
from benchmarks.records.statistics import FEWEST, TOO_FEW, Estimate, Values, estimate, number
from benchmarks.report.gathered import (
    BASELINE,
    Comparison,
    Gathered,
    comparisons,
    conclusion,
    pairs,
    published_rows,
    scores,
)
from tasks.spec import Metric

DASH = "–"


@dataclass(frozen=True)
class Column:
    """A column of numbers: its name, the unit, and an arrow towards better values."""

    name: str
    unit: str = ""
    arrow: str = ""

    @property
    def title(self) -> str:
        """Name, unit and direction: "f1@10 (%) ↑"."""
        return f"{self.name}{f' ({self.unit})' if self.unit else ''} {self.arrow}".strip()

    @classmethod
    def of(cls, metric: Metric) -> "Column":
        """The column of a metric."""
        return cls(metric.name, metric.unit, "↑" if metric.higher_is_better else "↓")


@dataclass(frozen=True)
class Entry:
    """An entry of a table as text; value: its number; marks: those of its notes, e.g. "[1][3]"."""

    text: str
    value: Estimate | float | None = None
    marks: str = ""
    comparison: Comparison | None = None

    def __str__(self) -> str:
        return f"{self.text} {self.marks}".strip()


@dataclass(frozen=True)
class Row:
    """A row: leading words, then entries. published: not measured here. cells: the preset's folder, for links."""

    names: tuple[str, ...]
    entries: tuple[Entry, ...]
    published: bool = False
    cells: str = ""


@dataclass(frozen=True)
class Table:
    """A table. key: its name in the CSV file. names: headers of the leading columns of words."""

    key: str
    title: str
    caption: str
    names: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def header(self) -> list[str]:
        """Titles of all columns."""
        return [*self.names, *(column.title for column in self.columns)]

    @property
    def lines(self) -> list[list[str]]:
        """All rows as text."""
        return [[*row.names, *map(str, row.entries)] for row in self.rows]


class Notes:
    """Numbered footnotes; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: dict[str, int] = {}

    def mark(self, text: str) -> str:
        """The mark of a note, e.g. "[1]"; adds the note if it is new."""
        return f"[{self.texts.setdefault(text, len(self.texts) + 1)}]"

    def missing(self, found: Gathered, method: str) -> str:
        """Marks of the reasons why cells of a method have no number, e.g. "[1][3]"."""
        reasons = [found.why_not(method, *column) for column in found.columns]
        return "".join(dict.fromkeys(self.mark(reason) for reason in reasons if reason is not None))


@dataclass(frozen=True)
class Content:
    """Everything that is said about the cells of one (task, preset)."""

    found: Gathered
    caption: str
    conclusion: str
    test: Table
    difference: Table
    receptive_field: Table
    last: Table
    cost: Table
    cells: Table
    methods: Mapping[str, str]
    notes: Notes = field(default_factory=Notes)

    @property
    def tables(self) -> list[Table]:
        """Those that have rows, in the order of a report."""
        order = (self.test, self.difference, self.receptive_field, self.last, self.cost, self.cells)
        return [table for table in order if table.rows]


def content(found: Gathered) -> Content:
    """All tables of a preset's report."""
    notes = Notes()
    compared = {(one.method, one.metric.name): one for one in comparisons(found)}
    return Content(
        found,
        caption(found),
        conclusion(found),
        _test(found, notes, compared),
        _difference(found, notes, compared),
        receptive_fields(found),
        _last(found, notes),
        Table("cost", "Cost", COST_CAPTION, ("method",), COST, tuple(_row(m, costs(found, m)) for m in found.methods)),
        _cells(found, notes),
        {name: METHODS[name].description for name in found.methods if name in METHODS},
        notes,
    )


def _row(name: str, entries: Iterable[Entry]) -> Row:
    return Row((name,), tuple(entries))


def _test(found: Gathered, notes: Notes, compared: Mapping[tuple[str, str], Comparison]) -> Table:
    rows = []
    for method in found.methods:
        values, missing = scores(found, method), notes.missing(found, method)
        entries = [shown(values[m.name], m, missing, comparison=compared.get((method, m.name))) for m in found.metrics]
        epochs = _mean((record.search.epochs for record in found.done(method).values()), 0)
        rows.append(_row(method, [*entries, _count(found, method), epochs]))
    for row in published_rows(found.published, found.metrics):
        name = f"published: {row['name']} {notes.mark('Source: ' + row['source'])}"
        numbers = [published(row["values"], metric) for metric in found.metrics]
        rows.append(Row((name,), (*numbers, Entry(""), Entry("")), published=True))
    columns = (*map(Column.of, found.metrics), Column("n"), Column("search epochs"))
    return Table("test", "Test part, epoch chosen on the validation part", "", ("method",), columns, tuple(rows))


def _difference(found: Gathered, notes: Notes, compared: Mapping[tuple[str, str], Comparison]) -> Table:
    rows = []
    for method in found.methods:
        if method == BASELINE or BASELINE not in found.methods:
            continue
        missing = notes.missing(found, method)
        entries = []
        for metric in found.metrics:
            one = compared.get((method, metric.name))
            entries.append(Entry(one.text, one.difference, missing) if one else Entry(DASH, None, missing))
        count = pairs(found, method)
        rows.append(_row(method, [*entries, Entry(str(count), count)]))
    columns = (*map(Column.of, found.metrics), Column("pairs"))
    said = (
        "Method minus baseline within the same fold and seed. An interval without 0 is a difference at 95 %, before "
        "any correction for the number of comparisons."
    )
    title = f"Difference to {BASELINE}, paired by fold and seed"
    return Table("difference", title, said, ("method",), columns, tuple(rows))


def _last(found: Gathered, notes: Notes) -> Table:
    rows = []
    for method in found.methods:
        values, missing = scores(found, method, last=True), notes.missing(found, method)
        rows.append(_row(method, [*(shown(values[m.name], m, missing) for m in found.metrics), _count(found, method)]))
    columns = (*map(Column.of, found.metrics), Column("n"))
    return Table("last_epoch", "Test part, last epoch", "", ("method",), columns, tuple(rows))


def _cells(found: Gathered, notes: Notes) -> Table:
    metric = found.metrics[0]
    rows = []
    for fold, seed in found.columns:
        entries = []
        for method in found.methods:
            record, reason = found.done(method).get((fold, seed)), found.why_not(method, fold, seed)
            if record is not None and record.metrics is not None:
                value = record.metrics[metric.name]
                entries.append(Entry(f"{value:.{metric.decimals}f}", value))
            else:
                entries.append(Entry(DASH, None, notes.mark(reason or "not run")))
        rows.append(_row(f"fold {fold}, seed {seed}", entries))
    title = f"Every cell: {Column.of(metric).title}, test part"
    return Table("cell", title, "", ("cell",), tuple(map(Column, found.methods)), tuple(rows))


def shown(values: Values, metric: Metric, marks: str, *, comparison: Comparison | None = None) -> Entry:
    """An entry: mean ± half width, or a dash; then the marks of what is missing."""
    value = estimate(values)
    text = DASH if value is None else number(value, metric.decimals)
    return Entry(text, value, marks, comparison)


def published(values: Mapping[str, float], metric: Metric, marks: str = "") -> Entry:
    """A published number; empty where there is none."""
    if metric.name not in values:
        return Entry("")
    return Entry(f"{values[metric.name]:.{metric.decimals}f}", values[metric.name], marks)


def _count(found: Gathered, method: str) -> Entry:
    done, cells = len(found.done(method)), len(found.columns)
    return Entry(f"{done} of {cells}" if done < cells else f"{done}", done)


COST = (
    Column("search epochs"),
    Column("search", "s"),
    Column("search / one training"),
    Column("search", "MiB"),
    Column("training", "s"),
    Column("training", "MiB"),
)
COST_CAPTION = (
    "Means over the cells; peak memory is the largest. One training is the baseline's, of the same fold and seed. "
    "A search that several methods share is counted in the cost of each."
)


def costs(found: Gathered, method: str) -> tuple[Entry, ...]:
    """What a method's cells cost, as in `COST`."""
    whole = list(found.done(method).values())
    timed = [r for r in whole if not r.resumed]  # a resumed cell's seconds lack what came before the interruption
    return (
        _mean((r.search.epochs for r in whole), 0),
        _mean((r.search.seconds for r in timed), 1),
        _mean(_ratios(found, method), 2),
        _largest(r.search.peak_memory_mb for r in whole),
        _mean((r.training.seconds for r in timed), 1),
        _largest(r.training.peak_memory_mb for r in whole),
    )


def _ratios(found: Gathered, method: str) -> list[float]:
    """Seconds of the search over those of the baseline's training, where both ran through on the same device."""
    ratios, baseline = [], found.done(BASELINE)
    for column, record in found.done(method).items():
        plain = baseline.get(column)
        if plain is None or plain.resumed or record.resumed or plain.device != record.device:
            continue
        if record.search.seconds > 0 and plain.training.seconds > 0:
            ratios.append(record.search.seconds / plain.training.seconds)
    return ratios


def _mean(values: Iterable[float], decimals: int) -> Entry:
    found = list(values)
    return Entry(f"{statistics.fmean(found):.{decimals}f}", statistics.fmean(found)) if found else Entry(DASH)


def _largest(values: Iterable[float | None]) -> Entry:
    found = [value for value in values if value is not None]
    return Entry(f"{max(found):.0f}", max(found)) if found else Entry(DASH)


def receptive_fields(found: Gathered) -> Table:
    """Receptive fields of the scored networks; no rows where no record has them."""
    rows, about = [], {}
    for method in found.methods:
        measured = [r.receptive_field for r in found.done(method).values() if r.receptive_field]
        if measured:
            about = measured[0]
            axes = list(zip(*(one["axes"] for one in measured), strict=True))
            entries = []
            for share in ("0.5", "0.95"):
                radii = [statistics.fmean(one["radius"][share] for one in axis) for axis in axes]
                entries.append(Entry(" × ".join(map(_brief, radii)), radii[0] if len(radii) == 1 else None))
            entries += [Entry(" × ".join(map(_theoretical, axes))), Entry(str(len(measured)), len(measured))]
            rows.append(_row(method, entries))
    if not rows:
        return Table("receptive_field", "Receptive fields", "", (), (), ())
    unit, axes = about["unit"], about["axes"]
    size = " × ".join(f"{axis['size'] * axis['step']:.0f}" for axis in axes)
    said = (
        f"Distances from the centre, as means over the cells{', per axis' if len(axes) > 1 else ''}. Effective: the "
        f"distance within which 50 % or 95 % of the gradient of {about['output']} lies, on {about['inputs']} inputs of "
        f"the {about['part']} part, of {size} {unit} at most. Theoretical: the largest distance at which the input can "
        "change the output, found on longer inputs (very large ones excepted); > where it is beyond the longest input "
        "that was tried. With attention it has no end."
    )
    columns = (Column("effective 50 %", unit), Column("effective 95 %", unit), Column("theoretical", unit), Column("n"))
    return Table("receptive_field", "Receptive fields", said, ("method",), columns, tuple(rows))


def _theoretical(axes: Sequence[Mapping[str, Any]]) -> str:
    """The mean theoretical radius of the cells along an axis."""
    open_ended = [axis["farther_than"] for axis in axes if axis["theoretical"] is None]
    if open_ended:
        return f"> {_brief(min(open_ended))}"
    return _brief(statistics.fmean(max(map(abs, axis["theoretical"])) for axis in axes))


def _brief(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == round(value) else f"{value:.1f}"


MEMORY = {"cuda": "torch's peak on the GPU", "resident": "the process's peak resident set, libraries included"}


def caption(found: Gathered) -> str:
    """What the numbers are, on which data and machine, and what ± means."""
    first = found.records[0]
    folds = sorted({fold for fold, _ in found.columns})
    seeds = sorted({seed for _, seed in found.columns})
    measures = sorted({c.memory_measure for r in found.records for c in (r.search, r.training) if c.memory_measure})
    units, unit = (folds, "folds (seeds of a fold averaged first)") if len(folds) > 1 else (seeds, "seeds of one fold")
    interval = f"± is the half width of a 95 % confidence interval by Student's t over {unit}"
    said = f"{interval}; n counts cells." if len(units) >= FEWEST else f"{TOO_FEW} n counts cells."
    return (
        f"Data: {first.data}. {standing(found)} Protocol {fingerprint(shared(first.protocol))} "
        f"(task version {first.protocol['version']}). "
        f"Folds {', '.join(map(str, folds))}; seeds {', '.join(map(str, seeds))}. "
        f"{said} The test part is scored after all choices were made on a validation part of the training data. "
        f"Machine: {'; '.join(machines(found.records))}. "
        f"MiB: {' or '.join(MEMORY[m] for m in measures) or 'not measured'}; the largest of all cells."
    )


def machines(records: Iterable[Record]) -> list[str]:
    """What the records ran on."""
    return sorted({f"{r.device['name']} ({r.device['type']}, torch threads: {r.device['threads']})" for r in records})


def standing(found: Gathered) -> str:
    """Whether published numbers compare with those of the records."""
    if found.published is None:
        return "These are not the data of a published table, and the numbers do not compare to any."
    return "Published rows were measured on the same data."
