"""What the tables say: groups of records as titled sheets of text, for any format to print."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.groups import (
    BASELINE,
    Estimate,
    Group,
    Values,
    differences,
    estimate,
    number,
    published_rows,
    scores,
)
from benchmarks.methods import METHODS
from benchmarks.record import Record, fingerprint, shared
from tasks.spec import Metric

DASH = "–"

PAPER = {
    "baseline": "NO",
    "local_single": "single",
    "local_search_run": "multi (search run)",
    "local_multi": "multi (retrained)",
    "local_merge": "merge",
}
"""Methods that the papers have columns for, and the papers' words for them, in their order."""

PUBLISHED_AS = {
    "hand-designed": "baseline",
    "RF-Next single": "local_single",
    "RF-Next multi (the search run itself)": "local_search_run",
    "RF-Next multi": "local_multi",
    "RF-Next merge": "local_merge",
}
"""Names of published rows that are measurements of one of our methods."""


class Notes:
    """Numbered footnotes; equal texts share a number."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def missing(self, found: Group, method: str) -> str:
        """Marks of the reasons why cells of a method have no number, e.g. "[1][3]"."""
        reasons = [found.why_not(method, *column) for column in found.columns]
        return "".join(dict.fromkeys(self.mark(reason) for reason in reasons if reason is not None))


@dataclass(frozen=True)
class Sheet:
    """One table as text: a title, a sentence about it, the header and the rows; names: leading columns of words."""

    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    names: int = 1


@dataclass(frozen=True)
class Sheets:
    """The sheets of a group, with their notes."""

    test: Sheet
    difference: Sheet
    receptive_field: Sheet
    last: Sheet
    cost: Sheet
    cells: Sheet
    notes: Notes = field(default_factory=Notes)

    @property
    def all(self) -> list[Sheet]:
        """Those that have rows, in the order of a report."""
        order = (self.test, self.difference, self.receptive_field, self.last, self.cost, self.cells)
        return [sheet for sheet in order if sheet.rows]


def heading(metric: Metric) -> str:
    """Name, unit and direction: "f1@10 (%) ↑"."""
    return f"{metric.name} ({metric.unit}) {'↑' if metric.higher_is_better else '↓'}"


def sheets(found: Group) -> Sheets:
    """All sheets of a group's report."""
    notes = Notes()
    metrics = found.metrics
    titles = [heading(metric) for metric in metrics]

    def row(method: str, values: Mapping[str, Values], signed: bool = False) -> list[str]:
        missing = notes.missing(found, method)
        return [method, *(shown(estimate(values.get(m.name, {})), m, missing, signed=signed) for m in metrics)]

    test, paired, last, cost, cells = [], [], [], [], []
    for method in found.methods:
        done = found.done(method)
        count = f"{len(done)} of {len(found.columns)}" if len(done) < len(found.columns) else str(len(done))
        epochs = _mean((record.search.epochs for record in done.values()), 0)
        test.append([*row(method, scores(found, method)), count, epochs])
        last.append([*row(method, scores(found, method, last=True)), count])
        cost.append([method, *costs(found, method)])
        if method != BASELINE and BASELINE in found.methods:
            pairs = len(found.done(BASELINE).keys() & done.keys())
            paired.append([*row(method, differences(found, method), signed=True), str(pairs)])
    for published in published_rows(found.records[0].published, metrics):
        values = [_published(published["values"], metric) for metric in metrics]
        test.append([f"published: {published['name']} {notes.mark('Source: ' + published['source'])}", *values, "", ""])
    for fold, seed in found.columns:
        line = [f"fold {fold}, seed {seed}"]
        for method in found.methods:
            record, reason = found.done(method).get((fold, seed)), found.why_not(method, fold, seed)
            if record is not None and record.metrics is not None:
                line.append(f"{record.metrics[metrics[0].name]:.{metrics[0].decimals}f}")
            else:
                line.append(f"{DASH} {notes.mark(reason or 'not run')}")
        cells.append(line)
    return Sheets(
        Sheet("Test part, epoch chosen on the validation part", "", ["method", *titles, "n", "search epochs"], test),
        Sheet(
            f"Difference to {BASELINE}, paired by fold and seed",
            "Method minus baseline within the same fold and seed; an interval without 0 is a difference at "
            "95 %, before any correction for the number of comparisons.",
            ["method", *titles, "pairs"],
            paired,
        ),
        receptive_fields(found),
        Sheet("Test part, last epoch", "", ["method", *titles, "n"], last),
        Sheet("Cost", COST_CAPTION, ["method", *COST], cost),
        Sheet(f"Every cell: {titles[0]}, test part", "", ["", *found.methods], cells),
        notes,
    )


def shown(value: Estimate | None, metric: Metric, missing: str, *, signed: bool = False) -> str:
    """A cell: mean ± half width, or a dash; then the marks of what is missing."""
    text = DASH if value is None else number(value, metric.decimals, signed=signed)
    return f"{text} {missing}".strip()


def _published(values: Mapping[str, float], metric: Metric) -> str:
    return f"{values[metric.name]:.{metric.decimals}f}" if metric.name in values else ""


def receptive_fields(found: Group) -> Sheet:
    """How far the scored networks look; no rows where no record says."""
    rows, about = [], {}
    for method in found.methods:
        measured = [r.receptive_field for r in found.done(method).values() if r.receptive_field]
        if measured:
            about = measured[0]
            radii = (
                " × ".join(
                    _brief(statistics.fmean(axis["radius"][share] for axis in axes)) for axes in _by_axis(measured)
                )
                for share in ("0.5", "0.95")
            )
            rows.append([method, *radii, " × ".join(map(_farthest, _by_axis(measured))), str(len(measured))])
    if not rows:
        return Sheet("Receptive fields", "", [], [])
    unit, axes = about["unit"], about["axes"]
    size = " × ".join(f"{axis['size'] * axis['step']:.0f}" for axis in axes)
    said = (
        f"How far from the centre the input matters to {about['output']}, as means over the cells"
        f"{', per axis' if len(axes) > 1 else ''}. Effective: the distance within which 50 % or 95 % of the gradient "
        f"lies, on {about['inputs']} inputs of the {about['part']} part, of {size} {unit} at most. Theoretical: how "
        "far away anything can matter at all, found on longer inputs (very large ones excepted); > where it is farther "
        "than these reach, as with attention, which has no end."
    )
    header = ["method", f"effective 50 % ({unit})", f"effective 95 % ({unit})", f"theoretical ({unit})", "n"]
    return Sheet("Receptive fields", said, header, rows)


def _by_axis(measured: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], ...]]:
    """What was measured, per axis: that of every cell."""
    return list(zip(*(one["axes"] for one in measured), strict=True))


def _farthest(axes: Sequence[Mapping[str, Any]]) -> str:
    """The mean theoretical reach of the cells along an axis."""
    open_ended = [axis["farther_than"] for axis in axes if axis["theoretical"] is None]
    if open_ended:
        return f"> {_brief(min(open_ended))}"
    return _brief(statistics.fmean(max(map(abs, axis["theoretical"])) for axis in axes))


def _brief(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == round(value) else f"{value:.1f}"


COST = [
    "search epochs",
    "search (s)",
    "search / one training",
    "search (MiB)",
    "training (s)",
    "training (MiB)",
]
COST_CAPTION = (
    "Means over the cells; peak memory is the largest. One training is the baseline's, of the same fold and seed. "
    "A search that several methods share is counted in the cost of each."
)


def costs(found: Group, method: str) -> list[str]:
    """What a method's cells cost, as in `COST`."""
    whole = list(found.done(method).values())
    timed = [r for r in whole if not r.resumed]  # a resumed cell's seconds lack what came before the interruption
    return [
        _mean((r.search.epochs for r in whole), 0),
        _mean((r.search.seconds for r in timed), 1),
        _mean(_ratios(found, method), 2),
        _largest(r.search.peak_memory_mb for r in whole),
        _mean((r.training.seconds for r in timed), 1),
        _largest(r.training.peak_memory_mb for r in whole),
    ]


def _ratios(found: Group, method: str) -> list[float]:
    """Seconds of the search over those of the baseline's training, where both ran through on the same device."""
    ratios, baseline = [], found.done(BASELINE)
    for column, record in found.done(method).items():
        plain = baseline.get(column)
        if plain is None or plain.resumed or record.resumed or plain.device != record.device:
            continue
        if record.search.seconds > 0 and plain.training.seconds > 0:
            ratios.append(record.search.seconds / plain.training.seconds)
    return ratios


def _mean(values: Iterable[float], decimals: int) -> str:
    found = list(values)
    return f"{statistics.fmean(found):.{decimals}f}" if found else DASH


def _largest(values: Iterable[float | None]) -> str:
    found = [value for value in values if value is not None]
    return f"{max(found):.0f}" if found else DASH


def caption(found: Group) -> str:
    """What the numbers are, on which data and machine, and what ± means."""
    first = found.records[0]
    folds = sorted({fold for fold, _ in found.columns})
    seeds = sorted({seed for _, seed in found.columns})
    measures = sorted({c.memory_measure for r in found.records for c in (r.search, r.training) if c.memory_measure})
    meaning = {
        "cuda": "torch's peak on the GPU",
        "resident": "the process's peak resident set, libraries included",
    }
    unit = "folds (seeds of a fold averaged first)" if len(folds) > 1 else "seeds of one fold"
    return (
        f"Data: {first.data}. {_standing(found)} Protocol {fingerprint(shared(first.protocol))} "
        f"(task version {first.protocol['version']}). "
        f"Folds {', '.join(map(str, folds))}; seeds {', '.join(map(str, seeds))}. "
        f"± is the half width of a 95 % confidence interval by Student's t over {unit}; n counts cells. "
        f"The test part is scored after all choices were made on a validation part of the training data. "
        f"Machine: {'; '.join(machines(found.records))}. "
        f"MiB: {' or '.join(meaning[m] for m in measures) or 'not measured'}; the largest of all cells."
    )


def machines(records: Iterable[Record]) -> list[str]:
    """What the records ran on."""
    return sorted({f"{r.device['name']} ({r.device['type']}, torch threads: {r.device['threads']})" for r in records})


def _standing(found: Group) -> str:
    if found.records[0].published is None:
        return "These are not the data of a published table, and the numbers do not compare to any."
    return "Published rows were measured on the same data."


@dataclass(frozen=True)
class Gathered:
    """A sheet over several groups; groups: that of each row. task: where all of it belongs to one."""

    sheet: Sheet
    groups: list[Group]
    task: str | None = None
    notes: Notes = field(default_factory=Notes)


def family(groups: Sequence[Group]) -> Gathered:
    """The networks of a family of presets against the papers' columns, one row per network and metric.

    Published numbers stand beside ours for records that carry their key, and nowhere else.
    """
    notes = Notes()
    methods = [name for name in PAPER if any(name in found.methods for found in groups)]
    published = {
        (found.preset, PUBLISHED_AS[row["name"]]): row
        for found in groups
        for row in published_rows(found.records[0].published, found.metrics)
        if row["name"] in PUBLISHED_AS
    }
    rows, owners = [], []
    for found in groups:
        for metric in found.metrics:
            owners.append(found)
            line = [found.preset, heading(metric)]
            for method in methods:
                line.append(shown(estimate(scores(found, method)[metric.name]), metric, notes.missing(found, method)))
                if published:
                    row = published.get((found.preset, method))
                    text = _published(row["values"], metric) if row else ""
                    line.append(f"{text} {notes.mark('Source: ' + row['source'])}" if row and text else "")
            rows.append(line)
    header = [part for name in methods for part in ([PAPER[name], "published"] if published else [PAPER[name]])]
    about = "; ".join(
        f"{found.preset}: {found.records[0].data}, protocol {fingerprint(shared(found.records[0].protocol))}, "
        f"{len(found.columns)} cells per method"
        for found in groups
    )
    explained = ", ".join(f"{PAPER[name]} is {name}" for name in methods)
    standing = " ".join(dict.fromkeys(_standing(found) for found in groups))
    said = f"In the papers' words: {explained}. {standing} {about}. ± as in the tables of the presets."
    task, header = groups[0].task, ["preset", "metric", *header]
    return Gathered(
        Sheet(f"{task}: networks of {groups[0].preset.partition('-')[0]}", said, header, rows, 2), owners, task, notes
    )


def families(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Families of at least two presets by name: "task-word" for the presets word, word-a, word-b of a task.

    Presets with overridden fields belong to none.
    """
    found: dict[str, list[Group]] = {}
    for one in groups:
        if "+" not in one.preset:
            found.setdefault(f"{one.task}-{one.preset.partition('-')[0]}", []).append(one)
    return {name: members for name, members in found.items() if len(members) > 1}


def search_cost(groups: Sequence[Group]) -> Gathered:
    """What searching cost, over all tasks."""
    rows, owners = [], []
    for found in groups:
        for method in found.methods:
            searched = [record for record in found.done(method).values() if record.search.seconds > 0]
            if searched:
                owners.append(found)
                rows.append([found.task, found.title, method, "; ".join(machines(searched)), *costs(found, method)[:4]])
    header = ["task", "preset", "method", "machine", *COST[:4]]
    return Gathered(Sheet("Search cost", COST_CAPTION, header, rows, 4), owners)


def described(methods: Sequence[str]) -> dict[str, str]:
    """What the methods are, as far as they are known."""
    return {name: METHODS[name].description for name in methods if name in METHODS}
