"""The figures of one (task, preset), drawn with matplotlib. Equal records give equal bytes.

Ink is the colour of the text around a figure, so that a file and the page show it in light and in dark.
"""

import io
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from benchmarks.methods.table import METHODS
from benchmarks.records.record import Record
from benchmarks.records.schema import Round
from benchmarks.records.statistics import Estimate, estimate
from benchmarks.report.content import Column
from benchmarks.report.figure_layout import arrange, grid, width
from benchmarks.report.gathered import BASELINE, Gathered, Verdict, comparisons, scores

INK = "#123456"
"""Placeholder for the colour of the surrounding text in what matplotlib draws."""

FONT = "font-family: 'DejaVu Sans', sans-serif"
"""Of all texts of a figure."""

THEME = f"svg {{ color: #1c2430; {FONT} }} @media (prefers-color-scheme: dark) {{ svg {{ color: #e4e8ee; }} }}"

COLOURS = {"better": "#0072b2", "worse": "#d55e00", None: "#808891"}
"""Two of Okabe and Ito, which colour-blind readers tell apart, and grey; the markers differ, too."""

MARKERS = {"better": "D", "worse": "X", None: "o"}

SERIES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#808891")
"""Colours of methods: those of Okabe and Ito that are legible in both themes."""

SHAPES = "os^DvPX"

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rfnext",
    "font.sans-serif": ["DejaVu Sans"],  # each text names all of them: eight more are an eighth of all figures
    "text.parse_math": False,  # names in records are text
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # else the ticks' labels are measured to find a place
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 7,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}

Dilations = Mapping[str, Sequence[int]]
"""Layer -> dilation per axis."""

Structures = Mapping[tuple[int, int], Dilations]
"""(fold, seed) -> structure."""


def draw(found: Gathered) -> dict[str, bytes]:
    """A preset's figures as SVG by kind, without those that its records hold nothing for.

    "scores", "differences", "dilations" and "structures" need what every record holds; "trajectories" needs histories
    and "receptive_fields" profiles, which records in .jsonl files lack.
    """
    kinds: dict[str, Callable[[Gathered], Figure | None]] = {
        "scores": score_figure,
        "differences": difference_figure,
        "dilations": dilation_figure,
        "structures": structure_figure,
        "trajectories": trajectory_figure,
        "receptive_fields": receptive_field_figure,
    }
    made = {}
    with matplotlib.rc_context(STYLE):
        for kind, one in kinds.items():
            if (figure := one(found)) is not None:
                made[kind] = svg(figure)
    return made


def svg(figure: Figure) -> bytes:
    """A figure as a file that follows its reader's light or dark theme."""
    for patch in (figure.patch, *(panel.patch for panel in figure.axes)):
        patch.set(facecolor="none", edgecolor="none")
    buffer = io.BytesIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue().decode().replace(INK, "currentColor")
    return smaller(text.replace('<style type="text/css">', f'<style type="text/css">{THEME}', 1)).encode()


def smaller(text: str) -> str:
    """The same figure in fewer bytes: hundredths of a point, no indentation, one font. Scales keep their digits."""

    def rounded(found: re.Match[str]) -> str:
        return re.sub(r"-?\d+\.\d{3,}", lambda one: f"{float(one[0]):.2f}".rstrip("0").rstrip("."), found[0])

    text = re.sub(r'\b(?:d|x|y)="[^"]*"|translate\([^)]*\)', rounded, text)
    return re.sub(r"\n +", "\n", text).replace("\nL ", " L ").replace(f"{FONT}; ", "")


def score_figure(found: Gathered) -> Figure | None:
    """Test scores with their intervals; colour says whether the paired difference to the baseline is decided.

    None where no method has an interval: the table says all there is.
    """
    methods = [method for method in found.methods if found.done(method)]
    if len(methods) < 2 or all(len(found.done(method)) < 2 for method in methods):
        return None
    verdicts: dict[tuple[str, str], Verdict | None] = {
        (one.method, one.metric.name): one.verdict for one in comparisons(found)
    }
    figure, panels = _rows(len(found.metrics), methods)
    for panel, metric in zip(panels, found.metrics, strict=True):
        values = [estimate(scores(found, method)[metric.name]) for method in methods]
        decided: list[Verdict | None] = [verdicts.get((method, metric.name)) for method in methods]
        _intervals(panel, values, decided)
        if methods[0] == BASELINE and values[0] is not None:
            panel.axvline(values[0].mean, color=INK, linewidth=0.6, linestyle="--")
        panel.set_title(Column.of(metric).title)
    return figure


def difference_figure(found: Gathered) -> Figure | None:
    """Paired differences to the baseline with their intervals."""
    compared = comparisons(found)
    if not compared:
        return None
    methods = list(dict.fromkeys(one.method for one in compared))
    figure, panels = _rows(len(found.metrics), methods)
    for panel, metric in zip(panels, found.metrics, strict=True):
        mine = {one.method: one for one in compared if one.metric == metric}
        verdicts: list[Verdict | None] = [mine[method].verdict if method in mine else None for method in methods]
        values = [mine[method].difference if method in mine else None for method in methods]
        _intervals(panel, values, verdicts)
        panel.axvline(0, color=INK, linewidth=0.6, linestyle="--")
        panel.set_title(f"{Column.of(metric).title}, minus baseline")
    return figure


def _rows(count: int, labels: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of the same rows, which have these labels, from top to bottom."""
    figure, panels = grid(count, 0.6 + 0.17 * len(labels), same_rows=True)
    arrange(figure, panels, 0.1 + width(labels), 0.15, 0.27, 0.2)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    for panel in panels:
        panel.tick_params(axis="y", length=0, labelsize=7)
        panel.yaxis.set_visible(panel in panels[::3])
        panel.xaxis.set_major_locator(MaxNLocator(5))
    return figure, panels


def _intervals(panel: Axes, values: Sequence[Estimate | None], verdicts: Sequence[Verdict | None]) -> None:
    """Means with their intervals, one row each."""
    for verdict, colour in COLOURS.items():
        rows = [
            (place, value.mean, value.half_width or 0)
            for place, (value, said) in enumerate(zip(values, verdicts, strict=True))
            if value is not None and said == verdict
        ]
        if rows:
            places, means, halves = map(np.array, zip(*rows, strict=True))
            panel.hlines(places, means - halves, means + halves, colors=colour, linewidth=1)
            panel.plot(means, places, MARKERS[verdict], color=colour, markersize=math.sqrt(12))


def dilation_figure(found: Gathered) -> Figure | None:
    """Dilations layer by layer, before (hand design) and after the searches; means over cells and axes."""
    designed = hand_design(found)
    searched = found_structures(found, designed) if designed else {}
    if designed is None or not searched:
        return None
    layers = list(designed)
    figure = Figure(figsize=(max(7.0, min(16.0, 2.2 + 0.11 * len(layers))), 3.2))
    panel = figure.subplots()
    places = range(1, len(layers) + 1)
    before = [statistics.fmean(designed[name]) for name in layers]
    panel.plot(places, before, color=INK, linestyle="--", linewidth=1, label="hand design")
    for place, (method, structures) in enumerate(searched.items()):
        after = [statistics.fmean(statistics.fmean(one[name]) for one in structures.values()) for name in layers]
        panel.plot(places, after, **_series(place), markersize=3, linewidth=0.9, label=method)
    _log2(panel)
    panel.set_title("Dilation of each searched layer, before and after")
    panel.set_xlabel("searched layers in the order of the network")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure, panel, ["hand design", *searched])
    return figure


def _legend(figure: Figure, panel: Axes, labels: Iterable[str]) -> None:
    """Place the only panel of a figure, and to the right of it the legend."""
    arrange(figure, [panel], 0.55, 0.65 + width(labels), 0.45)
    figure.legend(loc="upper right")


def _log2(panel: Axes) -> None:
    panel.set_yscale("log", base=2)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.minorticks_off()


def _series(place: int) -> dict[str, Any]:
    """Colour and marker of the place-th method; a colour that is used again has another marker."""
    return {"color": SERIES[place % len(SERIES)], "marker": SHAPES[(place + place // len(SERIES)) % len(SHAPES)]}


def _colours(count: int) -> list[Any]:
    """For layers in their order: from blue to yellow-green, of a brightness that is legible in both themes."""
    return [colormaps["viridis"](0.25 + 0.55 * place / max(1, count - 1)) for place in range(count)]


def hand_design(found: Gathered) -> Dilations | None:
    """The hand-designed structure: the baseline's."""
    return next((record.structure for record in found.done(BASELINE).values()), None)


def found_structures(found: Gathered, designed: Dilations) -> dict[str, Structures]:
    """What each method's search found; of methods with equal structures only the first.

    Structures of other layers than the hand-designed ones are left out.
    """
    made: dict[str, Structures] = {}
    for method in found.methods:
        structures = {column: _found_by(record) for column, record in found.done(method).items()}
        structures = {column: one for column, one in structures.items() if one and one.keys() == designed.keys()}
        if structures and structures not in made.values():
            made[method] = structures
    return made


def _found_by(record: Record) -> Dilations | None:
    """What a record's search found; None without a search, or where the record does not say it."""
    if not record.search.epochs:
        return None
    # Merging changes kernels and dilations, so the scored network does not say what the search found. A history would,
    # but the figures beside a table follow from the lines in its folder, which have none.
    merged = record.method in METHODS and METHODS[record.method].finish.name == "merge"
    return None if merged else record.structure


MAP_CELLS = 700
"""A map of structures shows as many folds and seeds of each method as keep it below this number of cells."""


def structure_figure(found: Gathered) -> Figure | None:
    """Structures layer by layer against the hand design: orange for larger dilations, purple for smaller ones."""
    designed = hand_design(found)
    searched = found_structures(found, designed) if designed else {}
    if designed is None or not searched:
        return None
    shown = max(1, MAP_CELLS // (len(designed) * len(searched)))
    rows = [
        (f"{method}, fold {fold}, seed {seed}", structure)
        for method, structures in searched.items()
        for (fold, seed), structure in sorted(structures.items())[:shown]
    ]
    ratios = np.array([[_log_ratio(one[name], designed[name]) for name in designed] for _, one in rows])
    most = max(1.0, float(np.abs(ratios).max()))
    size = (max(7.0, min(16.0, 3 + 0.12 * len(designed))), 1.2 + 0.17 * len(rows))
    figure = Figure(figsize=size)
    panel = figure.subplots()
    arrange(figure, [panel], 0.1 + width(label for label, _ in rows), 0.35, 0.27)
    mesh = panel.pcolormesh(ratios, cmap="PuOr_r", vmin=-most, vmax=most, edgecolors="none")
    panel.set_yticks([place + 0.5 for place in range(len(rows))], [label for label, _ in rows])
    panel.invert_yaxis()
    panel.tick_params(axis="y", length=0, labelsize=7)
    panel.set_title("log2 of the dilation over the hand design's, layer by layer")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(mesh, ax=panel, fraction=0.03, pad=0.02, ticks=MaxNLocator(integer=True))  # -0.75 would be cut
    return figure


def _log_ratio(dilation: Sequence[int], designed: Sequence[int]) -> float:
    return math.log2(statistics.fmean(dilation) / statistics.fmean(designed))


def trajectory_figure(found: Gathered) -> Figure | None:
    """How each search changed the dilations, in its first fold and seed; one line per layer."""
    stages = trajectories(found)
    if not stages:
        return None
    figure, panels = grid(len(stages), 2.4)
    arrange(figure, panels, 0.5, 0.1, 0.45, 0.6)
    for panel, (title, stage) in zip(panels, stages.items(), strict=True):
        layers = [name for name in stage[0]["structure"] if all(name in entry["structure"] for entry in stage)]
        steps = [entry["step"] for entry in stage]
        for colour, name in zip(_colours(len(layers)), layers, strict=True):
            values = [statistics.fmean(entry["structure"][name]) for entry in stage]
            panel.plot(steps, values, color=colour, linewidth=0.8)
        _log2(panel)
        panel.set_title(title)
        panel.set_xlabel("step")
        panel.set_ylabel("dilation")
    return figure


def trajectories(found: Gathered) -> dict[str, list[Round]]:
    """Title -> rounds of each distinct search, of its first fold and seed."""
    made: dict[str, list[Round]] = {}
    for method in found.methods:
        if not found.done(method):
            continue
        (fold, seed), record = min(found.done(method).items())
        for stage in search_stages(record):
            if len(stage) > 1 and stage not in made.values():
                start = "" if stage[-1] == record.history[-1] else ", its start"
                made[f"{method}, fold {fold}, seed {seed}{start}"] = stage
    return made


def search_stages(record: Record) -> list[list[Round]]:
    """The searches that followed upon each other: each one's steps only grow. None where candidates were ranked."""
    stages: list[list[Round]] = []
    for entry in record.history:
        if "validation" in entry:
            return []
        if stages and entry["step"] >= stages[-1][-1]["step"]:
            stages[-1].append(entry)
        else:
            stages.append([entry])
    return stages


def receptive_field_figure(found: Gathered) -> Figure | None:
    """Share of the gradient within a distance from the centre; dots at 95 %.

    Means over the cells and, in two dimensions, over both axes.
    """
    measured = {
        method: axes
        for method in found.methods
        if (axes := [axis for record in found.done(method).values() for axis in _profiles(record)])
    }
    if not measured:
        return None
    figure = Figure(figsize=(7.0, 3.2))
    panel = figure.subplots()
    others = [method for method in measured if method != BASELINE]
    labels, colours = [], {BASELINE: INK} | {method: _series(place)["color"] for place, method in enumerate(others)}
    for method, axes in measured.items():
        curve = mean_curve([within(axis) for axis in axes])
        radius = statistics.fmean(axis["radius"]["0.95"] for axis in axes)
        labels.append(label := f"{method}: 95 % within {radius:.3g}")
        style = "--" if method == BASELINE else ("-", "-.", ":")[others.index(method) % 3]
        panel.plot([*curve], [100 * share for share in curve.values()], style, color=colours[method], label=label)
        panel.plot(radius, 95, "o", color=colours[method], markersize=3)
    unit = next(r.receptive_field["unit"] for r in found.records if r.receptive_field)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_title("Effective receptive field")
    panel.set_xlabel(f"distance from the centre ({unit})")
    panel.set_ylabel("share of the gradient within (%)")
    _legend(figure, panel, labels)
    return figure


def _profiles(record: Record) -> list[Mapping[str, Any]]:
    return [axis for axis in (record.receptive_field or {}).get("axes", []) if "share" in axis]


def within(axis: Mapping[str, Any]) -> dict[float, float]:
    """Distance -> share of the gradient within it, at the edges of the bins."""
    edges, share = axis["edges"], axis["share"]
    middle = len(share) // 2
    return {edges[middle + 1 + bins]: sum(share[middle - bins : middle + bins + 1]) for bins in range(middle + 1)}


def mean_curve(curves: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Mean over cells; one whose input ends before another's has all of its gradient within."""
    edges = sorted({edge for curve in curves for edge in curve})
    return {edge: statistics.fmean(curve.get(edge, 1.0) for curve in curves) for edge in edges}
