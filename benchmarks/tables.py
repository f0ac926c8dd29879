"""Records -> tables and figures. Trains nothing, imports no task; equal records give equal files.

    python -m benchmarks.tables [--results DIR]

Per task and preset, results/tables/<task>-<preset>.md (all sections), .csv (every number, one per line) and
.tex (test metrics and differences), with figures in results/figures; results/tables/README.md lists them.
"""

import csv
import io
import math
import statistics
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tyro
from scipy import stats

from benchmarks import figures
from benchmarks.methods import METHODS
from benchmarks.record import ROOT, Cell, Record, RecordError, fingerprint, read_all, shared
from rfnext.atomic import write_text
from tasks.spec import Metric

DASH = "–"
BASELINE = "baseline"
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
    def cells(self) -> dict[Cell, Record | str]:
        """Every cell's record, or why it cannot be read."""
        return {record.cell: record for record in self.records} | self.broken

    @property
    def methods(self) -> list[str]:
        """Methods that have cells, in the order of the rows."""
        found = {cell.method for cell in self.cells}
        return [name for name in METHODS if name in found] + sorted(found - METHODS.keys())

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

    def why_not(self, method: str, fold: int, seed: int) -> str | None:
        """Why a cell has no number; None if it has one."""
        record = self.cells.get(Cell(self.task, self.preset, method, fold, seed), "not run")
        if isinstance(record, str):
            return record
        return record.reason if record.status == "failed" else None


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
        lines += [f"  {_difference(most[0].protocol, kind[0].protocol)} in"]
        lines += [f"    {record.cell.path(results)}" for record in kind]
    raise RecordError("\n".join(lines))


def _difference(one: Any, other: Any, name: str = "") -> str:
    if isinstance(one, dict) and isinstance(other, dict):
        parts = [
            _difference(one.get(key), other.get(key), f"{name}.{key}" if name else key)
            for key in sorted(one.keys() | other.keys())
            if one.get(key) != other.get(key)
        ]
        return ", ".join(parts)
    return f"{name} is {other!r} instead of {one!r}"


def published_rows(key: str | None, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Rows of published.toml measured on the very same data; none for a key of None."""
    if key is None:
        return []
    rows = tomllib.loads(PUBLISHED.read_text("utf-8"))["row"]
    names = {metric.name for metric in metrics}
    return [row for row in rows if row["key"] == key and names & row["values"].keys()]


class Notes:
    """Numbered footnotes; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"


@dataclass(frozen=True)
class Sheet:
    """One section of a report: a title, a sentence about it, and the table as text."""

    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]


def sheets(found: Group, notes: Notes) -> list[Sheet]:
    """All sections of a group's report."""
    metrics = found.metrics
    titles = [f"{m.name} ({m.unit}) {'↑' if m.higher_is_better else '↓'}" for m in metrics]
    wanted = len(found.columns)

    def estimates(method: str, values: Mapping[str, Values], signed: bool = False) -> list[str]:
        reasons = [found.why_not(method, *column) for column in found.columns]
        missing = "".join(dict.fromkeys(notes.mark(reason) for reason in reasons if reason is not None))
        cells = []
        for metric in metrics:
            number = estimate(values.get(metric.name, {}))
            if number is None:
                cells.append(f"{DASH} {missing}".strip())
                continue
            text = f"{number.mean:{'+' if signed else ''}.{metric.decimals}f}"
            if number.half_width is not None:
                text += f" ± {number.half_width:.{metric.decimals}f}"
            cells.append(f"{text} {missing}".strip())
        return cells

    test, last, paired, per_cell = [], [], [], []
    for method in found.methods:
        done = found.done(method)
        count = f"{len(done)} of {wanted}" if len(done) < wanted else str(wanted)
        test.append([method, *estimates(method, scores(found, method)), count, *_cost(done.values())])
        last.append([method, *estimates(method, scores(found, method, last=True)), count])
        if method != BASELINE and BASELINE in found.methods:
            pairs = len(found.done(BASELINE).keys() & done.keys())
            paired.append([method, *estimates(method, differences(found, method), signed=True), str(pairs)])
    for row in published_rows(found.records[0].published, metrics):
        values = [f"{row['values'][m.name]:.{m.decimals}f}" if m.name in row["values"] else "" for m in metrics]
        test.append([f"published: {row['name']} {notes.mark('Source: ' + row['source'])}", *values, *[""] * 6])
    for fold, seed in found.columns:
        line = [f"fold {fold}, seed {seed}"]
        for method in found.methods:
            record, reason = found.done(method).get((fold, seed)), found.why_not(method, fold, seed)
            if record is not None and record.metrics is not None:
                line.append(f"{record.metrics[metrics[0].name]:.{metrics[0].decimals}f}")
            else:
                line.append(f"{DASH} {notes.mark(reason or 'not run')}")
        per_cell.append(line)

    cost = ["n", "search epochs", "search s", "training s", "search MiB", "training MiB"]
    return [
        Sheet("Test part, epoch chosen on the validation part", "", ["method", *titles, *cost], test),
        Sheet(
            f"Difference to {BASELINE}, paired by fold and seed",
            "Method minus baseline within the same fold and seed; an interval without 0 is a difference at "
            "95 %, before any correction for the number of comparisons.",
            ["method", *titles, "pairs"],
            paired,
        ),
        Sheet("Test part, last epoch", "", ["method", *titles, "n"], last),
        Sheet(f"Every cell: {titles[0]}, test part", "", ["", *found.methods], per_cell),
    ]


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


def _cost(records: Iterable[Record]) -> list[str]:
    """Search epochs, search seconds, training seconds, peak memory of search and of training."""
    whole = list(records)
    timed = [r for r in whole if not r.resumed]  # a resumed cell's seconds lack what came before the interruption
    search = [r.search.peak_memory_mb for r in whole if r.search.peak_memory_mb is not None]
    training = [r.training.peak_memory_mb for r in whole if r.training.peak_memory_mb is not None]
    return [
        _mean((r.search.epochs for r in whole), 0),
        _mean((r.search.seconds for r in timed), 1),
        _mean((r.training.seconds for r in timed), 1),
        f"{max(search):.0f}" if search else DASH,
        f"{max(training):.0f}" if training else DASH,
    ]


def _mean(values: Iterable[float], decimals: int) -> str:
    found = list(values)
    return f"{statistics.fmean(found):.{decimals}f}" if found else DASH


def caption(found: Group) -> str:
    """What the numbers are, on which data and machine, and what ± means."""
    first = found.records[0]
    folds = sorted({fold for fold, _ in found.columns})
    seeds = sorted({seed for _, seed in found.columns})
    machines = sorted(
        {f"{r.device['name']} ({r.device['type']}, torch threads: {r.device['threads']})" for r in found.records}
    )
    measures = sorted({c.memory_measure for r in found.records for c in (r.search, r.training) if c.memory_measure})
    meaning = {
        "cuda": "torch's peak on the GPU",
        "resident": "the process's peak resident set, libraries included",
    }
    unit = "folds (seeds of a fold averaged first)" if len(folds) > 1 else "seeds of one fold"
    return (
        f"Data: {first.data}. Protocol {fingerprint(shared(first.protocol))} "
        f"(task version {first.protocol['version']}). "
        f"Folds {', '.join(map(str, folds))}; seeds {', '.join(map(str, seeds))}. "
        f"± is the half width of a 95 % confidence interval by Student's t over {unit}; n counts cells. "
        f"The test part is scored after all choices were made on a validation part of the training data. "
        f"Machine: {'; '.join(machines)}. "
        f"A search that several methods share is counted in the cost of each. "
        f"MiB: {' or '.join(meaning[m] for m in measures) or 'not measured'}; the largest of all cells."
    )


def markdown(found: Group, parts: Sequence[Sheet], notes: Notes, pictures: Sequence[str]) -> str:
    """The whole report of a group."""
    lines = [f"# {found.task}, preset {found.preset}", "", caption(found), ""]
    for sheet in parts:
        if sheet.rows:
            lines += [f"## {sheet.title}", "", *([sheet.caption, ""] if sheet.caption else [])]
            lines += [_row(sheet.header), _row(["---", *["---:"] * (len(sheet.header) - 1)])]
            lines += [*map(_row, sheet.rows), ""]
    if notes.texts:
        lines += ["## Notes", "", *(f"- [{i}] {_escape(text)}" for i, text in enumerate(notes.texts, 1)), ""]
    known = [name for name in found.methods if name in METHODS]
    lines += ["## Methods", "", *(f"- {name}: {METHODS[name].description}" for name in known), ""]
    if pictures:
        lines += ["## Figures", "", *(f"![{name}](../{quote(name)})" for name in pictures), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escape, cells)) + " |"


def _escape(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    DASH: "--",
}


def latex(found: Group, parts: Sequence[Sheet], notes: Notes) -> str:
    """Test metrics and differences as two tables for the booktabs package, without the cost columns."""
    lines = [r"% \usepackage{booktabs}"]
    for sheet in parts[:2]:
        if not sheet.rows:
            continue
        width = 2 + len(found.metrics)
        used = [text for i, text in enumerate(notes.texts, 1) if any(f"[{i}]" in c for r in sheet.rows for c in r)]
        marks = " ".join(f"[{notes.texts.index(text) + 1}] {text}." for text in used)
        about = " ".join(part for part in (f"{sheet.title}.", sheet.caption, caption(found), marks) if part)
        lines += [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(found.task)}, {_tex(found.preset)}. {_tex(about)}}}",
        ]
        lines += [rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}", r"\toprule"]
        lines += [" & ".join(map(_tex, sheet.header[:width])) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_tex, row[:width])) + r" \\" for row in sheet.rows]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _tex(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)


def numbers(found: Group) -> str:
    """Every number as CSV: table, method, metric, unit, mean, ci95_half_width, units, cells."""
    buffer = io.StringIO()
    out = csv.writer(buffer, lineterminator="\n")
    out.writerow(["table", "method", "metric", "unit", "mean", "ci95_half_width", "units", "cells"])
    for method in found.methods:
        tables = {"test": scores(found, method), "test_last_epoch": scores(found, method, last=True)}
        if method != BASELINE:
            tables["difference"] = differences(found, method)
        for table, values in tables.items():
            for metric in found.metrics:
                number = estimate(values[metric.name])
                mean = "" if number is None else f"{number.mean:.6g}"
                half = "" if number is None or number.half_width is None else f"{number.half_width:.6g}"
                counts = [0, 0] if number is None else [number.units, number.cells]
                out.writerow([table, method, metric.name, metric.unit, mean, half, *counts])
        for name, text in zip(("epochs", "search", "training"), _cost(found.done(method).values())[:3], strict=True):
            unit = "1" if name == "epochs" else "s"
            out.writerow(
                [
                    "cost",
                    method,
                    f"search_{name}" if unit == "1" else f"{name}_seconds",
                    unit,
                    text,
                    "",
                    "",
                    "",
                ]
            )
    return buffer.getvalue()


def draw(found: Group, results: Path) -> list[str]:
    """Draw the group's figures; returns their paths and those of the tasks' pictures, from the results."""
    folder, paths = Path("figures"), []
    if any(found.done(method) for method in found.methods):
        name = folder / f"{found.name}-bars.svg"
        panels = [
            figures.Panel(
                metric.name,
                metric.unit,
                [
                    None if number is None else (number.mean, number.half_width)
                    for number in (estimate(scores(found, method)[metric.name]) for method in found.methods)
                ],
            )
            for metric in found.metrics
        ]
        figures.bars(results / name, found.methods, panels)
        paths.append(name.as_posix())
    sharing = [method for method in found.methods if method in METHODS and METHODS[method].shares_search]
    searched = [record for method in sharing for record in found.done(method).values() if record.history]
    if searched:
        first = min(searched, key=lambda r: (r.fold, r.seed))
        name = folder / f"{found.name}-dilations.svg"
        title = f"{found.task} {found.preset}: local search of fold {first.fold}, seed {first.seed}"
        figures.dilations(results / name, first.history, title)
        paths.append(name.as_posix())
    pictures = [picture for record in found.records for picture in record.pictures]
    # Pictures may show data that must not be passed on; records travel without them.
    return paths + [picture for picture in pictures if (results / picture).exists()]


def make(results: Path) -> tuple[list[Path], list[str]]:
    """Write all tables and figures of a results folder: (Markdown files, what was refused or is broken)."""
    records, broken = read_all(results)
    errors, written, lines = list(broken.values()), [], []
    for found in group(records, broken):
        if not found.records:  # nothing but broken files: their errors say all there is
            continue
        try:
            check_protocols(found, results)
        except RecordError as error:
            errors.append(str(error))
            lines.append(f"- {found.task}, preset {found.preset}: refused, its records have different protocols")
            continue
        notes = Notes()
        parts = sheets(found, notes)
        path = results / "tables" / f"{found.name}.md"
        write_text(path, markdown(found, parts, notes, draw(found, results)))
        write_text(path.with_name(f"{found.name}.csv"), numbers(found))
        write_text(path.with_name(f"{found.name}.tex"), latex(found, parts, notes))
        written.append(path)
        done = sum(record.status == "done" for record in found.records)
        lines.append(
            f"- [{found.task}, preset {found.preset}]({quote(path.name)}): {found.records[0].data}; "
            f"{done} of {len(found.methods) * len(found.columns)} cells"
        )
    if (results / "tables" / "speed.md").exists():
        lines.append("- [speed](speed.md): cost of searching, by `python -m benchmarks.speed`")
    if not lines:
        return written, errors
    about = "Made from the records in ../runs by `python -m benchmarks.tables`; do not edit."
    write_text(results / "tables" / "README.md", "\n".join(["# Tables", "", about, "", *lines, ""]))
    return written, errors


@dataclass(frozen=True)
class Options:
    """Make tables and figures from the records; trains nothing."""

    results: Path = ROOT / "results"
    """Folder of the records; tables and figures are written there too."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 if a record is broken or protocols are mixed (the other tables are still written)."""
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks.tables")
    written, errors = make(options.results)
    for path in written:
        print(path)
    if not written and not errors:
        print(f"no records in {options.results / 'runs'}: run `python -m benchmarks.suite tiny` first")
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
