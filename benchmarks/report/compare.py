"""Two results folders side by side: of two commits, two machines, two versions of a package.

    python -m benchmarks.compare A B [--csv FILE]

Prints, as Markdown, the difference B - A of every metric, paired by fold and seed over the cells that both folders
have, with its 95 % interval. Cells whose protocols differ are not compared: it is said in what they differ. Reads whole
records and records.jsonl files alike.

Exit status: 0, 1 if something was refused or is broken, 2 if there is nothing to compare.
"""

import csv
import io
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tyro

from benchmarks.methods.table import METHODS
from benchmarks.records.folder import read_all
from benchmarks.records.record import Key, Record
from benchmarks.records.statistics import TOO_FEW, Estimate, estimate, number, paired
from benchmarks.report.content import Column
from benchmarks.report.gathered import measures, values_of, verdict
from benchmarks.report.markdown import pipe
from rfnext.files import explained, write_text
from tasks.plain import differences
from tasks.spec import Metric


@dataclass(frozen=True)
class Options:
    """Compare the records of two results folders: prints B - A of every metric; trains nothing.

    Exit status: 0 compared, 1 if something was refused or is broken, 2 if there is nothing to compare."""

    a: tyro.conf.Positional[Path]
    """A, the reference results folder."""
    b: tyro.conf.Positional[Path]
    """B, the results folder that is compared with A; B - A is printed."""
    csv: Path | None = None
    """Also write every number to this file."""


@dataclass(frozen=True)
class Compared:
    """One metric of a method: test part, epoch chosen on validation.

    a, b: means over the compared cells. difference: of the pairs, b - a. equal: the two of every pair are.
    """

    task: str
    preset: str
    method: str
    metric: Metric
    a: float
    b: float
    difference: Estimate
    equal: bool

    @property
    def verdict(self) -> Literal["better", "worse", "equal", ""]:
        """Whether b is better or worse, where the interval excludes 0."""
        return "equal" if self.equal else verdict(self.difference, self.metric) or ""


@dataclass
class Comparison:
    """rows: in the order of tasks, presets and methods. refused: why cells that both have are not compared.

    only_a, only_b: finished cells that the other folder lacks.
    """

    rows: list[Compared] = field(default_factory=list)
    pairs: list[tuple[Record, Record]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    only_a: list[Key] = field(default_factory=list)
    only_b: list[Key] = field(default_factory=list)


def compare(a: Sequence[Record], b: Sequence[Record]) -> Comparison:
    """Pair the finished records of two folders by cell and take their differences."""
    before, after = ({r.key: r for r in records if r.status == "done"} for records in (a, b))
    found = Comparison(only_a=sorted(before.keys() - after.keys()), only_b=sorted(after.keys() - before.keys()))
    rows: dict[tuple[str, str, str], list[tuple[Record, Record]]] = {}
    refused: dict[str, list[Key]] = {}
    for key in sorted(before.keys() & after.keys()):
        old, new = before[key], after[key]
        if differing := differences(old.protocol, new.protocol) or _other_metrics(old, new, rows):
            refused.setdefault(f"{key.task} {key.preset} {key.method}: {', '.join(differing)}", []).append(key)
        else:
            rows.setdefault((key.task, key.preset, key.method), []).append((old, new))
    found.refused = [f"{reason} ({len(keys)} cells)" for reason, keys in refused.items()]
    order = {name: place for place, name in enumerate(METHODS)}
    for name in sorted(rows, key=lambda row: (*row[:2], order.get(row[2], len(order)), row[2])):
        found.pairs += rows[name]
        found.rows += _compared(*name, rows[name])
    return found


def _other_metrics(old: Record, new: Record, rows: Mapping[Any, Sequence[tuple[Record, Record]]]) -> list[str]:
    """In what the metrics of a pair differ from each other, or from those of the pairs before; empty if in nothing."""
    name = new.task, new.preset, new.method
    expected = measures(rows[name][0][1] if name in rows else old)
    return [f"metric_specs is {measures(one)} instead of {expected}" for one in (new, old) if measures(one) != expected]


def _compared(task: str, preset: str, method: str, pairs: Sequence[tuple[Record, Record]]) -> list[Compared]:
    made = []
    for metric in pairs[0][1].metric_specs:
        a, b = (values_of(side, metric.name) for side in zip(*pairs, strict=True))
        difference = estimate(paired(b, a))
        if difference is not None:
            means = statistics.fmean(a.values()), statistics.fmean(b.values())
            made.append(Compared(task, preset, method, metric, *means, difference, a == b))
    return made


def markdown(found: Comparison, a: Path, b: Path) -> str:
    """The comparison as Markdown."""
    lines = [f"# {b} compared with {a}", "", f"A: {_origin([old for old, _ in found.pairs])}", ""]
    lines += [f"B: {_origin([new for _, new in found.pairs])}", ""]
    lines += [
        "B - A in the same cell, mean ± half width of the 95 % interval by Student's t over folds (seeds of a fold "
        "averaged first; of one fold, over seeds); test part, epoch chosen on the validation part. An interval without "
        f"0 is called better or worse, before any correction for the number of comparisons. {TOO_FEW}",
        "",
    ]
    for task, preset in dict.fromkeys((row.task, row.preset) for row in found.rows):
        rows = [_line(row) for row in found.rows if (row.task, row.preset) == (task, preset)]
        lines += [f"## {task}, preset {preset}", ""]
        lines += [pipe(["method", "metric", "A", "B", "B - A", "verdict", "pairs"], rows, words=2), ""]
    for name, keys in (("A", found.only_a), ("B", found.only_b)):
        if keys:
            lines += [f"Only in {name}: {len(keys)} finished cells ({keys[0]}, ...)", ""]
    return "\n".join(lines)


def _line(row: Compared) -> list[str]:
    digits = row.metric.decimals
    means = [f"{row.a:.{digits}f}", f"{row.b:.{digits}f}"]
    difference = number(row.difference, digits, signed=True)
    return [row.method, Column.of(row.metric).title, *means, difference, row.verdict, str(row.difference.cells)]


def _origin(records: Sequence[Record]) -> str:
    commits = sorted({record.commit or "unknown" for record in records})
    machines = sorted({f"{r.device['name']} ({r.device['type']})" for r in records})
    versions = sorted({f"torch {record.versions.get('torch')}" for record in records})
    return f"commit {', '.join(commits)}; {', '.join(machines)}; {', '.join(versions)}; {len(records)} cells"


def table(found: Comparison) -> str:
    """The comparison as CSV, one metric per line."""
    buffer = io.StringIO()
    out = csv.writer(buffer, lineterminator="\n")
    out.writerow(["task", "preset", "method", "metric", "unit", "a", "b", "difference", "ci95_half_width", "pairs"])
    for row in found.rows:
        half = row.difference.half_width
        numbers = [f"{value:.6g}" for value in (row.a, row.b, row.difference.mean)]
        numbers.append("" if half is None else f"{half:.6g}")
        out.writerow(
            [row.task, row.preset, row.method, row.metric.name, row.metric.unit, *numbers, row.difference.cells]
        )
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m benchmarks.compare")
    both = []
    for folder in (options.a, options.b):
        records = read_all(folder)
        if not records.by_key and not records.broken:
            print(f"error: {folder} is no results folder: it has no records", file=sys.stderr)
            return 2
        both.append(records)
    errors = [str(fault) for records in both for fault in records.broken]
    comparison = compare(*(records.all for records in both))
    if comparison.rows:
        print(markdown(comparison, options.a, options.b))
    for error in [*errors, *(f"not compared, the protocols differ: {reason}" for reason in comparison.refused)]:
        print(f"error: {error}", file=sys.stderr)
    if not comparison.rows:
        print(f"error: {options.a} and {options.b} have no finished cell of one protocol in common", file=sys.stderr)
        return 2
    if options.csv is not None:
        try:
            write_text(options.csv, table(comparison))
        except OSError as error:
            print(f"error: {explained(error)}", file=sys.stderr)
            return 1
    return 1 if errors or comparison.refused else 0
