"""Tables and figure of the study `search_at_equal_cost`, from its measurements."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.records.statistics import FEWEST, Estimate, Values, estimate, number, paired
from benchmarks.report.figures import INK, STYLE, svg
from benchmarks.report.markdown import pipe
from benchmarks.studies import equal_cost_references
from benchmarks.studies.equal_cost_searches import ROWS
from rfnext.files import write_bytes, write_text
from tasks.load_forecasting.datasets import LABELS

REFERENCES = ("hand", "tuned")
"""What every method is compared with, at as many layers."""

SEARCHED = ("tuned", "one_shot", "one_shot_ranked", "one_shot_to_local")
"""Methods that are compared with hand designs of other numbers of layers."""

BOUND = "oracle"
"""Chosen on the test part: no method, so that it is in no count of decided differences."""

DRAWN = ("hand", "tuned", "random", "local", "one_shot", "one_shot_ranked", "one_shot_to_local")
"""Lines of the figure's first panels."""

COMPARED = ("expert", "one_shot_periods", "periods_to_local", "periods_or_local")
"""Points of its last panel."""

WIDEST = 45
"""Percent that this panel shows, each way."""

SEARCHES = (
    "genetic",
    "local",
    "one_shot",
    "one_shot_argmax",
    "one_shot_periods",
    "one_shot_ranked",
    "periods_ranked",
    "one_shot_to_local",
    "periods_to_local",
    "one_shot_or_local",
    "periods_or_local",
)
"""Rows of the tables that come first."""

OPPONENTS = {
    "tuned": "the tuned design, which takes 3 trainings",
    "tuned_fine": "the design that is tuned over all powers of two, which takes 10 trainings",
    "tuned_periods": "the design that is tuned with the periods of the series, which takes 3 trainings",
    "expert": "the design of an expert, who is told the seasons",
}
"""What searches are compared with in those tables."""

CONFIRMING = ("sunspots", "ridership", "temperature", "tweets")
"""Sets of the confirmation."""

CONFIRMED = "periods_or_local"
"""The rule that is tested on them."""

WHOLE = 15
"""Pairs of fold and seed that a set of the confirmation must have to be counted."""

REFERENCE_LAYERS = 3
"""The figure shows errors in percent of those of the hand design with so many layers."""

Lines = Sequence[dict[str, Any]]
Comparison = tuple[str, Estimate]
"""What was compared, and by how much it differs."""


class Measured:
    """The measurements of one data set, by layers and method."""

    def __init__(self, lines: Iterable[dict[str, Any]]) -> None:
        self.lines = list(lines)
        self.layers = sorted({one["layers"] for one in self.lines})
        self.methods = [name for name in ROWS if any(name in one["methods"] for one in self.lines)]

    def entries(self, layers: int, method: str) -> dict[tuple[int, int], dict[str, Any]]:
        """(fold, seed) -> what the method has there."""
        return {
            (one["fold"], one["seed"]): one["methods"][method]
            for one in self.lines
            if one["layers"] == layers and method in one["methods"]
        }

    def values(self, layers: int, method: str, metric: str = "mse") -> Values:
        """(fold, seed) -> score of the test part."""
        return {key: entry[metric] for key, entry in self.entries(layers, method).items()}

    def change(self, ours: tuple[int, str], theirs: tuple[int, str]) -> Values:
        """Change of the mean squared error in percent, of the same fold and seed."""
        mine, other = self.values(*ours), self.values(*theirs)
        return {key: 100 * (value / other[key] - 1) for key, value in mine.items() if key in paired(mine, other)}

    def multiply_adds(self, layers: int) -> int:
        """Of one forecast."""
        return next(one["multiply_adds"] for one in self.lines if one["layers"] == layers)


def write(folder: Path, lines: Lines) -> str:
    """Write table.md and cost.svg, of these lines and what the folder has to compare them with; returns the table."""
    sets = {data: Measured(one for one in lines if one["data"] == data) for data in dict.fromkeys(_names(lines))}
    text = table(sets, equal_cost_references.read(folder))
    write_text(folder / "table.md", text)
    if drawn := draw(sets):
        write_bytes(folder / "cost.svg", drawn)
    return text


def _names(lines: Lines) -> list[str]:
    return [one["data"] for one in lines]


def table(sets: dict[str, Measured], references: Lines = ()) -> str:
    """All sets, as Markdown; with `references`, also what they are compared with besides."""
    parts = ["# Search at equal cost: the numbers", "", SAID, "", "![cost.svg](cost.svg)", ""]
    parts += [part for opponent in OPPONENTS for part in _overview(sets, opponent)]
    parts += _confirmation({data: sets[data] for data in CONFIRMING if data in sets})
    parts += equal_cost_references.table(references, sets)
    for data, measured in sets.items():
        parts += [f"## {data}: {_label(data)}", ""]
        compared: list[Comparison] = []
        for layers in measured.layers:
            parts += [_heading(measured, layers), "", *_table(measured, layers, compared), ""]
        parts += [*_verdict(compared), "", *_replaced(measured), ""]
    return "\n".join(parts)


def _label(data: str) -> str:
    name, *bound = data.split("-")
    return LABELS[name] + (", searched up to an eighth of the training part" if bound else "")


def _overview(sets: dict[str, Measured], opponent: str) -> list[str]:
    """The searches on the sets that have the opponent, with the number of layers that most is measured with; nothing
    without intervals."""
    layers, rows, found = REFERENCE_LAYERS, list[list[str]](), list[Estimate]()
    sets = {data: one for data, one in sets.items() if one.entries(layers, opponent)}
    for method in SEARCHES:
        changes = [one.change((layers, method), (layers, opponent)) for one in sets.values()]
        rows.append([method, *(_text(one, 1, signed=True) for one in changes)])
        found += [one for one in map(estimate, changes) if one is not None and one.half_width is not None]
    if not found:
        return []
    decided = [one.mean for one in found if one.decided]
    better = sum(mean < 0 for mean in decided)
    verdict = (
        f"{better} of {len(found)} are decided for the search, {len(decided) - better} against it; by chance alone "
        f"about {len(found) / 40:.1f} would be, each way."
    )
    counts = [max(len(one.change((layers, ours), (layers, opponent))) for ours in SEARCHES) for one in sets.values()]
    names = [f"{data}, n = {count}" for data, count in zip(sets, counts, strict=True)]
    heading = f"## Searches with {layers} layers against {OPPONENTS[opponent]}"
    return [heading, "", f"Change of the mse in percent. {verdict}", "", pipe(["search", *names], rows), ""]


def _confirmation(sets: dict[str, Measured]) -> list[str]:
    """The rule on the sets that were named for it, and its mean over those that are whole."""
    ours, rows, means = (REFERENCE_LAYERS, CONFIRMED), list[list[str]](), dict[tuple[int, int], float]()
    for data, measured in sets.items():
        tuned, expert, hand = (
            measured.change(ours, (REFERENCE_LAYERS, other)) for other in ("tuned", "expert", "hand")
        )
        without = measured.change((REFERENCE_LAYERS, "periods_to_local"), (REFERENCE_LAYERS, "tuned"))
        skill, first, second = measured.values(*ours, "skill"), estimate(tuned), estimate(expert)
        if first is None or second is None:
            continue
        counts = "unfinished"
        if len(tuned) == len(expert) == WHOLE:
            means[len(means), 0] = first.mean
            counts = "yes" if _counts(first, second, fmean(skill.values())) else "no"
        changes = [_text(one, 1, signed=True) for one in (tuned, expert, hand, without)]
        rows.append([data, *changes, _text(skill, 1), str(len(tuned)), counts])
    if not rows:
        return []
    if len(means) >= FEWEST:
        rows.append([f"mean of {len(means)} sets", _text(means, 1, signed=True), *[""] * 6])
    header = ["set", "against tuned", "against expert", "against hand", "without the rule, against tuned"]
    said = (
        f"{CONFIRMED} with {REFERENCE_LAYERS} layers, change of the mse in percent, on the sets that the protocol "
        "names for it. A set counts if the interval against tuned is below 0, that against the expert is not above 0, "
        "and the mean skill is above 0. The units of the mean's interval are the sets."
    )
    return ["## The confirmation", "", said, "", pipe([*header, "skill (%)", "n", "counts"], rows), ""]


def _counts(tuned: Estimate, expert: Estimate, skill: float) -> bool:
    return tuned.decided and tuned.mean < 0 and not (expert.decided and expert.mean > 0) and skill > 0


SAID = (
    "Made by `python -m benchmarks.studies.search_at_equal_cost`, whose first lines are the protocol. Test part, epoch "
    "chosen on validation; mse in units of the training part's variance; skill against the better of the persistence "
    "forecasts. Means ± half width of the 95 % interval by Student's t over folds, seeds of a fold averaged first. "
    "Changes of the mse in percent are of the same fold and seed; below 0 is better. Look-back: steps from the present "
    "to the oldest value that a forecast reads through the convs. Step: CPU time of a step of the final training, one "
    "thread of a machine with other load, so it is rough. n counts pairs of fold and "
    "seed, in the first tables the most that a row has. The row oracle is chosen on the test part: it is no method, "
    "but tells how much there is to find."
)


def _heading(measured: Measured, layers: int) -> str:
    seeds = sorted({one["seed"] for one in measured.lines if one["layers"] == layers})
    folds = sorted({one["fold"] for one in measured.lines if one["layers"] == layers})
    count = f"folds {', '.join(map(str, folds))}; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"### {layers} layers: {measured.multiply_adds(layers):,} multiply-adds per forecast; {count}"


def _table(measured: Measured, layers: int, compared: list[Comparison]) -> list[str]:
    rows = []
    for method in measured.methods:
        entries = measured.entries(layers, method)
        if not entries:
            continue
        row = [method, _text(measured.values(layers, method), 3), _text(measured.values(layers, method, "skill"), 1)]
        for reference in REFERENCES:
            found = estimate(measured.change((layers, method), (layers, reference))) if method != reference else None
            row.append("" if found is None else number(found, 1, signed=True))
            # hand against tuned is tuned against hand.
            if found is not None and found.half_width is not None and method not in ("hand", BOUND):
                compared.append((f"{method}, {layers} layers, against {reference}", found))
        back = fmean(2 * sum(entry["dilations"]) for entry in entries.values())
        epochs = fmean(entry["epochs"] for entry in entries.values())
        step = fmean(entry["step_ms"] for entry in entries.values())
        rows.append([*row, f"{back:.0f}", f"{epochs:.0f}", f"{step:.0f}", str(len(entries))])
    header = ["method", "mse ↓", "skill (%) ↑", *(f"against {name} (%)" for name in REFERENCES)]
    return [pipe([*header, "look-back (steps)", "search epochs", "step (ms)", "n"], rows)]


def _verdict(compared: Sequence[Comparison]) -> list[str]:
    decided = [f"{what} {number(found, 1, signed=True)}" for what, found in compared if found.decided]
    if not compared:
        return ["Too few folds for intervals."]
    chance = f"By chance alone about {len(compared) / 20:.1f} would."
    listed = f": {'; '.join(decided)}" if decided else ""
    return [f"{len(decided)} of {len(compared)} differences have a 95 % interval without 0{listed}. {chance}"]


def _replaced(measured: Measured) -> list[str]:
    """Searched networks against hand designs of every number of layers."""
    rows = []
    for layers in measured.layers:
        for method in SEARCHED:
            if measured.entries(layers, method):
                changes = [measured.change((layers, method), (other, "hand")) for other in measured.layers]
                rows.append([f"{method}, {layers} layers", *(_text(one, 1, signed=True) for one in changes)])
    header = ["mse against the hand design (%) of", *(f"{layers} layers" for layers in measured.layers)]
    return [pipe(header, rows)]


def _text(values: Values, decimals: int, *, signed: bool = False) -> str:
    found = estimate(values)
    return "–" if found is None else number(found, decimals, signed=signed)


def draw(sets: dict[str, Measured]) -> bytes | None:
    """Error over cost, a panel for each set that has several numbers of layers, and changes against the tuned design, a
    panel for all sets; None where nothing can be compared."""
    shown = {data: one for data, one in sets.items() if one.entries(REFERENCE_LAYERS, "hand")}
    if not shown:
        return None
    curves = {data: one for data, one in shown.items() if len(one.layers) > 1}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4 * (len(curves) + 1), 3.6), layout="constrained")
        panels = figure.subplots(1, len(curves) + 1, squeeze=False).flatten()
        for panel, (data, measured) in zip(panels, curves.items(), strict=False):
            _panel(panel, data, measured)
        _forest(panels[-1], sets)
        for panel in panels:
            if panel.get_legend_handles_labels()[0]:  # an empty legend is a warning
                panel.legend(fontsize=6)
        return svg(figure)


def _forest(panel: Axes, sets: dict[str, Measured]) -> None:
    """Change of the error against the tuned design, a row per set."""
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    names = list(sets)
    for index, method in enumerate(COMPARED):
        points = []
        for row, measured in enumerate(sets.values()):
            found = estimate(measured.change((REFERENCE_LAYERS, method), (REFERENCE_LAYERS, "tuned")))
            if found is not None and found.half_width is not None:
                points.append((found.mean, row + 0.15 * (index - (len(COMPARED) - 1) / 2), found.half_width))
        if points:
            x, y, half = zip(*points, strict=True)
            panel.errorbar(x, y, xerr=half, fmt="o", label=method, color=colours[index], markersize=3, elinewidth=0.8)
    panel.axvline(0, color=INK, linewidth=0.5, linestyle="--")
    panel.set_xlim(-WIDEST, WIDEST)
    panel.set_yticks(range(len(names)), names)
    panel.invert_yaxis()
    panel.set_xlabel("mse against tuned (%); what lies beyond is cut")
    panel.set_title(f"{REFERENCE_LAYERS} layers, all series")


def _panel(panel: Axes, data: str, measured: Measured) -> None:
    colours = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
    for index, method in enumerate(DRAWN):
        points = []
        for layers in measured.layers:
            found = estimate(measured.change((layers, method), (REFERENCE_LAYERS, "hand")))
            if found is not None:
                aside = 60 * (index - len(DRAWN) / 2)  # else intervals hide each other
                points.append((measured.multiply_adds(layers) + aside, 100 + found.mean, found.half_width or 0.0))
        if points:
            x, y, half = zip(*points, strict=True)
            style: dict[str, Any] = {
                "linewidth": 1.0,
                "elinewidth": 0.6,
                "capsize": 1.5,
                "marker": "o",
                "markersize": 2.5,
            }
            panel.errorbar(x, y, yerr=half, label=method, color=colours[index], **style)
    panel.axhline(100, color=INK, linewidth=0.5, linestyle="--")
    ticks = {measured.multiply_adds(layers): layers for layers in measured.layers}
    panel.set_xticks(list(ticks), [f"{layers}\n{adds / 1000:.1f}" for adds, layers in ticks.items()])
    panel.set_xlabel("layers, and thousands of multiply-adds per forecast")
    panel.set_ylabel(f"mse (% of hand, {REFERENCE_LAYERS} layers)")
    panel.set_title(data)
