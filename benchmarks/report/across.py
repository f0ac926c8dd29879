"""Tables over several presets: the networks of a suite against the papers' columns, and the cost of all searches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.records.protocol import fingerprint, shared
from benchmarks.report.content import (
    COST,
    COST_CAPTION,
    Column,
    Entry,
    Notes,
    Row,
    Table,
    costs,
    machines,
    published,
    shown,
    standing,
)
from benchmarks.report.gathered import Gathered, published_rows, scores
from tasks.spec import Metric

PAPER = {
    "baseline": "NO",
    "local_single": "single",
    "local_as_searched": "multi (search run)",
    "local_multi": "multi (retrained)",
    "local_merge": "merge",
}
"""Methods that the papers have columns for, and the papers' words for them, in their order."""

PUBLISHED_AS = {
    "hand-designed": "baseline",
    "RF-Next single": "local_single",
    "RF-Next multi (the search run itself)": "local_as_searched",
    "RF-Next multi": "local_multi",
    "RF-Next merge": "local_merge",
}
"""Names of published rows that are measurements of one of our methods."""


@dataclass(frozen=True)
class Across:
    """A table over several presets. name: of its files. task: where all of it belongs to one."""

    name: str
    table: Table
    task: str | None = None
    notes: Notes = field(default_factory=Notes)


def across(every: Sequence[Gathered]) -> list[Across]:
    """All tables over several presets that have rows."""
    made = [suite_table(name, members) for (_, name), members in suites(every).items()]
    cost = search_cost(every)
    return [*made, cost] if cost.table.rows else made


def suites(every: Sequence[Gathered]) -> dict[tuple[str, str], list[Gathered]]:
    """(task, suite) -> its presets that have records, where they are at least two."""
    found: dict[tuple[str, str], list[Gathered]] = {}
    for one in every:
        for suite, presets in (one.definition.suites if one.definition else {}).items():
            if one.preset in presets:
                found.setdefault((one.task, suite), []).append(one)
    return {name: members for name, members in found.items() if len(members) > 1}


def suite_table(suite: str, members: Sequence[Gathered]) -> Across:
    """The networks of a suite of presets against the papers' columns, one row per network and metric.

    Published numbers are shown beside ours only for records with their key.
    """
    notes, task = Notes(), members[0].task
    methods = [name for name in PAPER if any(name in found.methods for found in members)]
    known = {
        (found.preset, PUBLISHED_AS[row["name"]]): row
        for found in members
        for row in published_rows(found.published, found.metrics)
        if row["name"] in PUBLISHED_AS
    }
    rows = []
    for found in members:
        for metric in found.metrics:
            entries: list[Entry] = []
            for method in methods:
                marks = notes.missing(found, method)
                entries.append(shown(scores(found, method)[metric.name], metric, marks))
                entries += [_beside(known.get((found.preset, method)), metric, notes)] if known else []
            rows.append(Row((found.preset, Column.of(metric).title), tuple(entries), cells=found.name))
    columns = [Column(part) for name in methods for part in (PAPER[name], *(["published"] if known else []))]
    about = "; ".join(
        f"{found.preset}: {found.records[0].data}, protocol {fingerprint(shared(found.records[0].protocol))}, "
        f"cells per method: {len(found.columns)}"
        for found in members
    )
    explained = ", ".join(f"{PAPER[name]} is {name}" for name in methods)
    standings = " ".join(dict.fromkeys(standing(found) for found in members))
    said = f"In the papers' words: {explained}. {standings} {about}. ± as in the tables of the presets."
    title = f"{task}: networks of the suite {suite}"
    return Across(
        f"{task}-{suite}-suite",
        Table("suite", title, said, ("preset", "metric"), tuple(columns), tuple(rows)),
        task,
        notes,
    )


def _beside(row: Mapping[str, Any] | None, metric: Metric, notes: Notes) -> Entry:
    """The published number that is shown beside ours."""
    if row is None or metric.name not in row["values"]:
        return Entry("")
    return published(row["values"], metric, notes.mark("Source: " + row["source"]))


def search_cost(every: Sequence[Gathered]) -> Across:
    """What searching cost, over all tasks."""
    rows = []
    for found in every:
        for method in found.methods:
            searched = [record for record in found.done(method).values() if record.search.seconds > 0]
            if searched:
                names = (found.task, found.title, method, "; ".join(machines(searched)))
                rows.append(Row(names, costs(found, method)[:4], cells=found.name))
    names = ("task", "preset", "method", "machine")
    caption = (
        f"{COST_CAPTION} Seconds are of the wall clock: where other work shared the machine during one of the two, a "
        "ratio is far from that of the epochs, and says nothing."
    )
    return Across("search_cost", Table("search_cost", "Search cost", caption, names, COST[:4], tuple(rows)))
