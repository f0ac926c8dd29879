"""What the page opens on: whether searching paid, in two sentences and one chart, then one line per task."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from benchmarks.methods.method import Kind
from benchmarks.methods.table import METHODS
from benchmarks.records.statistics import Estimate, estimate, number, paired
from benchmarks.report.content import DASH, Column, Entry, Row, Table
from benchmarks.report.gathered import BASELINE, Gathered, Verdict, comparisons, scores, verdict
from tasks.spec import Metric

LEAD = ("load_forecasting", "tiny")
"""Task and preset whose result the page opens on: real data, five folds, and a task in which dilations matter."""


@dataclass(frozen=True)
class Bar:
    """A row of the chart. left, mean, right: of its interval, in percent of the chart's width."""

    method: str
    kind: Kind
    text: str
    left: float
    mean: float
    right: float


@dataclass(frozen=True)
class Chart:
    """Differences to the hand design with their intervals, one row per method.

    ticks: (percent of the width, text). zero: where the difference is 0, in percent of the width.
    """

    title: str
    bars: Sequence[Bar]
    ticks: Sequence[tuple[float, str]]
    zero: float

    @property
    def tuned(self) -> dict[str, str]:
        """What the rows of tuned designs are, since the answer names them."""
        return {bar.method: METHODS[bar.method].description for bar in self.bars if bar.kind == "tuning"}


@dataclass(frozen=True)
class Tally:
    """The searches of one (task, preset) against one of its rows, in its first metric.

    differences: search -> its paired difference to the row.
    """

    found: Gathered
    row: str
    differences: dict[str, Estimate]

    @property
    def metric(self) -> Metric:
        """The task's first."""
        return self.found.metrics[0]

    def those(self, wanted: Verdict) -> list[str]:
        """Searches that are better or worse, at an interval without 0."""
        return [name for name, one in self.differences.items() if verdict(one, self.metric) == wanted]

    @property
    def decidable(self) -> bool:
        """Whether there are intervals at all."""
        return any(one.half_width is not None for one in self.differences.values())

    @property
    def verdict(self) -> str:
        """In a word or three: yes and no are for more than half of the searches and none the other way."""
        if not self.decidable:
            return "cannot be said"
        better, worse, half = len(self.those("better")), len(self.those("worse")), len(self.differences) / 2
        if better and not worse:
            return "yes" if better > half else "in part"
        return "no" if worse > half and not better else "not shown"

    @property
    def counts(self) -> str:
        """ "5 of 6 better, 1 not decided"."""
        better, worse = len(self.those("better")), len(self.those("worse"))
        rest = len(self.differences) - better - worse
        parts = [f"{better} of {len(self.differences)} better"]
        parts += [f"{worse} worse"] if worse else []
        parts += [f"{rest} not decided"] if rest else []
        return ", ".join(parts)


def of_kind(found: Gathered, kind: Kind) -> list[str]:
    """Finished methods of a kind."""
    return [name for name in found.methods if name in METHODS and METHODS[name].kind == kind and found.done(name)]


def tally(found: Gathered, row: str | None) -> Tally | None:
    """All searches against a row; None where the row or every search is missing."""
    if row is None or not found.done(row):
        return None
    name = found.metrics[0].name
    theirs = scores(found, row)[name]
    made = {search: estimate(paired(scores(found, search)[name], theirs)) for search in of_kind(found, "search")}
    differences = {search: one for search, one in made.items() if one is not None}
    return Tally(found, row, differences) if differences else None


def best_tuned(found: Gathered) -> str | None:
    """The tuned hand design of the best mean. The best is chosen after the test, which favours tuning."""
    means = {name: _mean(found, name) for name in of_kind(found, "tuning")}
    sign = -1 if found.metrics[0].higher_is_better else 1
    return min(means, key=lambda name: sign * means[name], default=None)


def _mean(found: Gathered, method: str) -> float:
    value = estimate(scores(found, method)[found.metrics[0].name])
    assert value is not None
    return value.mean


def sentences(found: Gathered | None) -> list[str]:
    """The answer: against the hand design, and against tuning it."""
    if found is None:
        task, preset = LEAD
        return [
            f"There are no records of {task} here, so this page cannot say it for the task that it opens on.",
            f"`bash benchmarks/run_all.sh {preset} --task {task}` makes them.",
        ]
    said = []
    if (hand := tally(found, BASELINE)) is None:
        said.append(f"On {found.records[0].data} nothing can be said: no hand design and search have both finished.")
    else:
        said.append(f"Against the hand design, {hand.verdict}: {_against_hand(hand)}")
    tuned = tally(found, best_tuned(found))
    if tuned is None:
        said.append("Against tuning it, nothing can be said: no tuned design has finished.")
    else:
        said.append(f"Against tuning it, {tuned.verdict}: {_against_tuned(tuned)}")
    return said


def _against_hand(hand: Tally) -> str:
    metric, count = hand.metric, len(hand.differences)
    if not hand.decidable:
        few = next(iter(hand.differences.values()))
        runs = f"{few.units} {few.over}s" if few.units > 1 else "one run"
        return f"on {hand.found.records[0].data} there is {runs} per method, too few for an interval."
    before = _mean(hand.found, BASELINE)
    shares = [100 * abs(hand.differences[name].mean / before) for name in hand.those("better")] if before else []
    way = "higher" if metric.higher_is_better else "lower"
    extent = f", by {_range(shares)} %" if shares else ""
    worse = len(hand.those("worse"))
    return (
        f"on {hand.found.records[0].data}, {len(hand.those('better'))} of {count} searched networks have a {way} "
        f"{metric.name} than the hand design{extent}, at 95 % intervals without 0"
        f"{f'; {worse} are worse' if worse else ''}."
    )


def _against_tuned(tuned: Tally) -> str:
    found, metric = tuned.found, tuned.metric
    epochs = [_epochs(found, name) for name in tuned.differences]
    rest = "" if tuned.decidable else ", too few runs for an interval"
    return (
        f"of the same networks, {tuned.counts}, compared with the best tuned design ({tuned.row}, {metric.name} "
        f"{_mean(found, tuned.row):.{metric.decimals}f}){rest}; tuning takes {_epochs(found, tuned.row):.0f} search "
        f"epochs, a search {_range(epochs)}."
    )


def _epochs(found: Gathered, method: str) -> float:
    return statistics.fmean(record.search.epochs for record in found.done(method).values())


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def chart(found: Gathered) -> Chart | None:
    """Differences to the hand design in the first metric, paired by fold and seed; None where none has an interval."""
    metric = found.metrics[0]
    compared = {one.method: one.difference for one in comparisons(found) if one.metric == metric}
    kinds: tuple[Kind, ...] = ("tuning", "search")
    rows: list[tuple[str, Kind, Estimate]] = [
        (name, kind, compared[name]) for kind in kinds for name in of_kind(found, kind) if name in compared
    ]
    ends = [_ends(one) for *_, one in rows]
    if all(one.half_width is None for *_, one in rows):
        return None
    low, high = min(0.0, *(left for left, _ in ends)), max(0.0, *(right for _, right in ends))
    pad = 0.04 * (high - low)
    low, width = low - pad, high - low + 2 * pad

    def place(value: float) -> float:
        return round(100 * (value - low) / width, 2)

    bars = [
        Bar(name, kind, number(one, metric.decimals, signed=True), place(left), place(one.mean), place(right))
        for (name, kind, one), (left, right) in zip(rows, ends, strict=True)
    ]
    values = [float(value) for value in MaxNLocator(4).tick_values(low, high) if low < value < low + width]
    title = f"{Column.of(metric).title}, minus that of the hand design"
    return Chart(title, bars, [(place(value), f"{value:+g}" if value else "0") for value in values], place(0.0))


def _ends(one: Estimate) -> tuple[float, float]:
    half = one.half_width or 0.0
    return one.mean - half, one.mean + half


def lines(main: Sequence[Gathered]) -> Table:
    """One line per task: the searches of its main preset against the hand design and against tuning it."""
    rows = []
    for found in main:
        metric, tuned = found.metrics[0], best_tuned(found)
        entries = [
            _score(found, BASELINE),
            _score(found, tuned),
            _searched(found),
            Entry(_said(tally(found, BASELINE))),
            Entry(_said(tally(found, tuned))),
        ]
        rows.append(Row((found.task, Column.of(metric).title), tuple(entries), cells=found.name))
    names = ("hand design", "best tuned", "searched", "searches against the hand design", "searches against tuning")
    return Table("tasks", "One line per task", "", ("task", "metric"), tuple(map(Column, names)), tuple(rows))


def _score(found: Gathered, method: str | None) -> Entry:
    value = estimate(scores(found, method)[found.metrics[0].name]) if method else None
    return Entry(DASH if value is None else number(value, found.metrics[0].decimals))


def _searched(found: Gathered) -> Entry:
    means = [_mean(found, name) for name in of_kind(found, "search")]
    if not means:
        return Entry(DASH)
    low, high = (f"{value:.{found.metrics[0].decimals}f}" for value in (min(means), max(means)))
    return Entry(low if low == high else f"{low} to {high}")


def _said(one: Tally | None) -> str:
    if one is None:
        return DASH
    if one.decidable:
        return one.counts
    few = next(iter(one.differences.values()))
    return f"{few.units} {few.over}s: too few to say" if few.units > 1 else "one run each: too few to say"
