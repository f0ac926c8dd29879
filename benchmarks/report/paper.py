"""The published tables with our numbers beside the published ones: results/paper/.

A cell of ours is filled by records of the row's preset and method. Those of other data or settings are shown in our
columns and marked; published columns hold what `published.toml` says and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.records.record import Record
from benchmarks.report import markdown
from benchmarks.report.content import DASH, Column, Entry, Notes, Row, Table, published, shown
from benchmarks.report.gathered import Gathered, published_rows, scores
from benchmarks.report.latex import latex
from benchmarks.report.needs import need
from benchmarks.report.paper_rows import TABLES, Line, Published, published_memory, rounded
from rfnext.files import write_text
from tasks.spec import Metric

NAME = "paper"
"""Its folder of results."""

TITLE = "The published tables, and ours beside them"


@dataclass(frozen=True)
class Ours:
    """What fills a row here. differs: from what was published, in words; nothing if it is of the very same setting."""

    found: Gathered
    method: str
    differs: tuple[str, ...]

    @property
    def records(self) -> list[Record]:
        """Its finished records."""
        return list(self.found.done(self.method).values())


def ours(table: Published, line: Line, every: Sequence[Gathered]) -> Ours | None:
    """The records that fill a row: those of the published data and setting if there are any, else the newest others.

    Others are of the same preset with fields changed or on other data. A network of another row's fields is none.
    """
    if line.method is None:
        return None
    of_rows = {name for one in table.lines for name in one.fields}
    candidates = []
    for found in every:
        if found.task != table.task or not found.done(line.method):
            continue
        record = next(iter(found.done(line.method).values()))
        fields = {name: record.overrides.get(name) for name in of_rows}
        if (record.base or record.preset) == table.preset and fields == {n: line.fields.get(n) for n in of_rows}:
            candidates.append(Ours(found, line.method, _differs(table, line, record)))
    newest_first = sorted(candidates, key=lambda one: max(record.finished for record in one.records), reverse=True)
    return min(newest_first, key=lambda one: len(one.differs) > 0, default=None)


def _differs(table: Published, line: Line, record: Record) -> tuple[str, ...]:
    changed = [f"{name}={value}" for name, value in record.overrides.items() if name not in line.fields]
    said = [] if record.published == table.key else [f"not the published data: {record.data}"]
    return (*said, *([f"changed: {', '.join(changed)}"] if changed else []))


def tables(every: Sequence[Gathered], notes: Notes) -> list[Table]:
    """All published tables, and that of memory and cost."""
    return [*(_table(one, every, notes) for one in TABLES), _cost(every)]


def _table(table: Published, every: Sequence[Gathered], notes: Notes) -> Table:
    known = {row["name"]: row for row in published_rows(table.key, table.metrics)}
    rows = []
    for line in table.lines:
        theirs, mine = known.get(line.published or ""), ours(table, line, every)
        entries = []
        for metric in table.metrics:
            entries += [published(theirs["values"], metric) if theirs else Entry(DASH), _score(mine, metric)]
        source = theirs["source"] if theirs else "none could be verified"
        rows.append(Row((*line.words, source), (*entries, Entry(_standing(table, line, mine, notes)))))
    columns = [
        Column(f"{metric.name} {whose}", metric.unit, Column.of(metric).arrow)
        for metric in table.metrics
        for whose in ("published", "ours")
    ]
    names = (*table.names, "source")
    return Table(table.key, table.title, table.said, names, (*columns, Column("ours")), tuple(rows))


def _score(mine: Ours | None, metric: Metric) -> Entry:
    values = scores(mine.found, mine.method).get(metric.name) if mine else None
    return shown(values, metric, "") if values else Entry(DASH)


def _standing(table: Published, line: Line, mine: Ours | None, notes: Notes) -> str:
    """How ours was measured; or, where it was not, what it needs."""
    if line.method is None:
        return ""
    if mine is None:
        return f"not run: needs {table.needs}, {_work(table, line, notes)}"
    done = mine.found.done(mine.method)
    folds, seeds = sorted({fold for fold, _ in done}), sorted({seed for _, seed in done})
    told = f"{len(folds)} of {table.folds} fold{'s' if table.folds > 1 else ''}, seed{'s' if len(seeds) > 1 else ''} "
    data = notes.mark(f"Ours was measured on {mine.records[0].data}, {mine.records[0].protocol['data']}.")
    return "; ".join([told + ", ".join(map(str, seeds)), *mine.differs]) + f" {data}"


def _work(table: Published, line: Line, notes: Notes) -> str:
    """GB and hours of a row."""
    one = need(table, line)
    memory = f"{one.memory:.0f} GB on one GPU, " if table.memory else ""
    if table.hours is not None:
        return f"{memory}about {rounded(table.work(line))} GPU-hours {notes.mark(f'Estimated {table.estimate}.')}"
    if one.hours is None:
        return "hours unknown"
    said = (
        "CPU time of one core, from steps measured at full size: results/full_size/table.md. GPU-hours: not measured."
    )
    if one.rough:
        said += " From less than a tenth of two epochs."
    return f"about {rounded(one.hours)} core-hours {notes.mark(said)}"


COST = (
    Column("search, published", "GB"),
    Column("single, published", "GB"),
    Column("search / single, published"),
    Column("search, ours", "GiB"),
    Column("single, ours", "GiB"),
    Column("search / single, ours"),
    Column("seconds: search / training, ours"),
)


def _cost(every: Sequence[Gathered]) -> Table:
    """Memory of searching and of training the found network."""
    content = published_memory()
    rows = []
    for table in TABLES:
        if table.memory is None:
            continue
        search, single = content[table.memory]
        theirs = [Entry(f"{search:.1f}", search), Entry(f"{single:.1f}", single), _ratio(search, single)]
        rows.append(Row((table.title,), (*theirs, *_our_cost(table, every))))
    said = (
        f"Published: GPU memory of 2 images on each of 8 V100, a search and the training of the network that it found. "
        f"Source: {content['source']}. Ours: 16 images on one GPU, so only the ratios compare; peak of torch on a GPU. "
        "The commands of the tables above fill it; a dash is not run."
    )
    return Table("cost", "Memory and cost of searching", said, ("table",), COST, tuple(rows))


def _our_cost(table: Published, every: Sequence[Gathered]) -> list[Entry]:
    lines = {line.method: line for line in table.lines if line.method}
    found = {method: ours(table, line, every) for method, line in lines.items()}
    same = {method: one.records for method, one in found.items() if one and not one.differs}
    search = _peak(same.get("local_as_searched", []), "search")
    single = _peak(same.get("local_single", []), "training")
    seconds = [
        sum(cost.seconds for cost in costs) / len(costs) if costs else None
        for costs in (
            [r.search for r in same.get("local_as_searched", []) if not r.resumed],
            [r.training for r in same.get("baseline", []) if not r.resumed],
        )
    ]
    memory = [Entry(DASH) if value is None else Entry(f"{value:.1f}", value) for value in (search, single)]
    return [*memory, _ratio(search, single), _ratio(*seconds)]


def _peak(records: Sequence[Record], stage: str) -> float | None:
    """GiB of a stage's peak on a GPU."""
    costs = [getattr(record, stage) for record in records]
    peaks = [c.peak_memory_mb / 1024 for c in costs if c.memory_measure == "cuda" and c.peak_memory_mb]
    return max(peaks, default=None)


def _ratio(one: float | None, other: float | None) -> Entry:
    return Entry(f"{one / other:.2f}", one / other) if one and other else Entry(DASH)


def counts(every: Sequence[Gathered]) -> tuple[int, int]:
    """How many rows of the published setting have been run here, and how many could be."""
    rows = [(table, line) for table in TABLES for line in table.lines if line.method]
    found = [ours(table, line, every) for table, line in rows]
    return sum(one is not None and not one.differs for one in found), len(rows)


def write(results: Path, every: Sequence[Gathered]) -> Path:
    """Write the folder and its LaTeX tables; returns the path of its page."""
    notes = Notes()
    made = tables(every, notes)
    run, rows = counts(every)
    about = (
        f"{run} of {rows} rows that this repository can measure have been run on the published data. The command below "
        "a table runs its row and fills the cells. ± is the half width of a 95 % interval over folds, or over seeds "
        "where there is one fold. A number of ours from other data or settings says so in its row; published columns "
        "hold what the source says and nothing else. Published rows of tasks that are not in this repository (semantic "
        "segmentation, ImageNet-S) are in benchmarks/published.toml."
    )
    lines = [f"# {TITLE}", "", markdown.escape(about), ""]
    commands = {table.title: table for table in TABLES}
    for one in made:
        lines += [f"## {one.title}", "", markdown.escape(one.caption), "", markdown.table(one), ""]
        lines += _commands(commands[one.title]) if one.title in commands else []
    write_text(results / NAME / "table.md", "\n".join([*lines, *markdown.notes(notes)]))
    write_text(results / NAME / "table.csv", markdown.numbers(made))
    write_text(results / f"latex/{NAME}.tex", latex(TITLE, made, notes, about))
    return results / NAME / "table.md"


def _commands(table: Published) -> list[str]:
    runs = [(table.command(line), line.words) for line in table.lines if line.method]
    width = max(len(command) for command, _ in runs)
    return ["```bash", *(f"{command:<{width}}  # {', '.join(words)}" for command, words in runs), "```", ""]
