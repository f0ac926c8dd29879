"""Does searching pay? Every method against the hand design, the tuned hand design and the published local search.

    python -m benchmarks.studies.does_search_pay 50salads --root PATH [--seeds 0 1 2] [--methods M ...]
    python -m benchmarks.studies.does_search_pay seglearn [...]
    python -m benchmarks.studies.does_search_pay --only-table

Runs the methods with a network that fits a small machine (presets "compact-...": 2 stages x 10 layers x 32 maps), and
the local search by the published rule and with two spreads. Cells that are done are kept. Then it writes the paired
differences on both data sets to results/does_search_pay/table.md.

50salads: 50 Salads' SVM scores at 1 frame per second, which are in the repository
colincsl/TemporalConvolutionalNetworks, in the layout of the MS-TCN release. seglearn: the embedded wrist sessions.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from benchmarks.methods.table import METHODS
from benchmarks.records.folder import read_all
from benchmarks.records.places import ROOT
from benchmarks.records.protocol import fingerprint, shared
from benchmarks.records.record import Key, Record, RecordError
from benchmarks.records.statistics import Values, estimate, number, paired
from benchmarks.report.gathered import gather, leave_out_odd, values_of
from benchmarks.report.markdown import pipe
from rfnext.files import explained, write_text
from tasks.command_line import parse_or_end
from tasks.plain import differences
from tasks.ranges import check_names

TASK = "action_segmentation"
METRICS = ("f1@25", "f1@50", "accuracy")
LOCAL = "local_single"
PUBLISHED = f"{LOCAL}, published rule"
REFERENCES = ("baseline", "tuned_single", PUBLISHED)
"""Labels of the rows that all others are compared with."""

Data = Literal["50salads", "seglearn"]


class Row(NamedTuple):
    """A row of the study: a method in a preset, and what the table calls it."""

    preset: str
    method: str
    label: str


VARIANTS: dict[Data, tuple[Row, ...]] = {
    "50salads": (
        Row("compact-50salads-paper-rule", LOCAL, PUBLISHED),
        Row("compact-50salads-spread-0.1", LOCAL, f"{LOCAL}, spread 0.1"),
        Row("compact-50salads", LOCAL, f"{LOCAL}, spread 0.5"),
    ),
    "seglearn": (
        Row("compact-seglearn-paper-rule", LOCAL, PUBLISHED),
        Row("compact-seglearn-spread-0.1", LOCAL, f"{LOCAL}, spread 0.1"),
        Row("compact-seglearn", LOCAL, f"{LOCAL}, spread 0.5"),
    ),
}
"""The rows of the local search."""

REST: dict[Data, str] = {"50salads": "compact-50salads-spread-0.1", "seglearn": "compact-seglearn-spread-0.1"}
"""The preset of all other methods."""

TITLES: dict[Data, str] = {
    "50salads": "50 Salads, SVM scores at 1 frame per second",
    "seglearn": "Wrist sessions (embedded) at 2.5 frames per second",
}


def rows(data: Data) -> list[Row]:
    """All rows of a data set, in the order of the methods."""
    made = []
    for method in METHODS:
        made += VARIANTS[data] if method == LOCAL else [Row(REST[data], method, method)]
    return made


@dataclass(frozen=True)
class Options:
    """All methods on one data set, and their paired differences."""

    data: tyro.conf.Positional[Data] = "seglearn"
    """Data set to run on."""
    root: Path | None = None
    """Folder of 50 Salads."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to run."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds on every fold."""
    only_table: bool = False
    """Run nothing; write the table from the records that there are."""
    results: Path = ROOT / "results"
    """Folder of the records."""

    def __post_init__(self) -> None:
        check_names(self, {"methods": METHODS})


def run(options: Options) -> int:
    """Run the cells, seed by seed, so that an interrupted study is balanced; the suite's exit status."""
    from benchmarks import suite  # the table needs no code that trains

    data = ["--root", str(options.root)] if options.data == "50salads" else []
    presets: dict[str, list[str]] = {}
    for row in rows(options.data):
        if row.method in options.methods:
            presets.setdefault(row.preset, []).append(row.method)
    status = 0
    for seed in options.seeds:
        for preset, methods in presets.items():
            words = [preset, "--task", TASK, "--name", preset, "--results", str(options.results), "--seeds", str(seed)]
            status = max(status, suite.main([*words, "--keep-committed", "--method", *methods, "--", *data]))
            if status == 130:  # interrupted
                return status
    return status


def table(records: Mapping[Key, Record], data: Data) -> str | None:
    """Markdown: every method's scores, and the paired differences to the references; None without any baseline.

    Raises:
        RecordError: if the records are of different data or networks.
    """
    shown: dict[str, list[Record]] = {}
    for row in rows(data):
        done = [r for key, r in records.items() if key[:3] == (TASK, row.preset, row.method) and r.status == "done"]
        if done:
            shown[row.label] = done
    if "baseline" not in shown:
        return None
    _refuse_mixture(data, [record for done in shown.values() for record in done])
    parts = [f"## {TITLES[data]}", ""]
    for metric in METRICS:
        values = {label: values_of(done, metric) for label, done in shown.items()}
        lines = [[label, *_scores(label, values), _epochs(shown[label])] for label in shown]
        header = ["method", f"{metric} (%)", *(f"minus {name}" for name in REFERENCES), "cells", "search epochs"]
        parts += [pipe(header, lines), ""]
    return "\n".join(parts)


def _refuse_mixture(data: Data, records: Sequence[Record]) -> None:
    """Raise RecordError unless all that differs between the records is the search."""
    kinds: dict[str, Record] = {}
    for record in records:
        same = shared(record.protocol)
        kinds.setdefault(fingerprint(same | {"config": same.get("config", {}) | {"search": None}}), record)
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        differing = ", ".join(differences(first.protocol, second.protocol))
        raise RecordError(f"{data}: {first.key} and {second.key} cannot share a table: {differing}")


def _scores(label: str, values: Mapping[str, Values]) -> list[str]:
    """A row's score, its differences to the references, and the number of its cells."""
    mine = values[label]
    differences = [
        "" if label == name else _text(paired(mine, values.get(name, {})), signed=True) for name in REFERENCES
    ]
    return [_text(mine, signed=False), *differences, str(len(mine))]


def _text(values: Values, *, signed: bool) -> str:
    found = estimate(values)
    return "–" if found is None else number(found, 1, signed=signed)


def _epochs(done: Sequence[Record]) -> str:
    epochs = {record.search.epochs for record in done}
    return f"{min(epochs)}" if len(epochs) == 1 else f"{min(epochs)}–{max(epochs)}"


SAID = (
    "Mean ± half width of the 95 % interval over folds (seeds of a fold averaged); test part, epoch chosen on "
    "validation data. Differences are paired by fold and seed. Local searches use a spread of 0.1 unless the "
    "row names another."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse_or_end(Options, arguments, description=__doc__)
    status = 0
    if not options.only_table:
        if options.data == "50salads" and options.root is None:
            print("error: give --root PATH, the folder of 50 Salads", file=sys.stderr)
            return 2
        status = run(options)
    records = read_all(options.results)
    tables = [found for found in gather(records) if found.task == TASK]
    errors = [*map(str, records.broken), *(odd for found in tables for odd in leave_out_odd(found, records.places))]
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    known = {record.key: record for found in tables for record in found.records}
    try:
        found = [text for data in TITLES if (text := table(known, data))]
    except RecordError as error:
        print(f"error: {error}; the table is not written", file=sys.stderr)
        return 1
    if found:
        text = "\n".join(["# Does searching pay? The numbers", "", SAID, "", *found])
        print(text)
        try:
            write_text(options.results / "does_search_pay/table.md", text)
        except OSError as error:
            print(f"error: {explained(error)}", file=sys.stderr)
            return 1
    return max(status, 1 if errors else 0)


if __name__ == "__main__":
    sys.exit(main())
