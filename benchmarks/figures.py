"""The figures of the tables and of the page, as small SVG that follows its reader's light or dark theme.

Written as SVG and not with matplotlib because the page holds dozens of them: a tenth of the size, colours that change
with the theme, and an answer to the pointer. Equal records give equal bytes.

A figure is made of panels; a file holds them in a row, the page lets them wrap.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, tostring

from benchmarks.groups import BASELINE, Group, comparisons, estimate, scores
from benchmarks.markup import element
from benchmarks.record import Record
from rfnext.files import write_bytes

STYLE = """
svg { --ink: #1c2430; --faint: #5c6673; --line: #d5dae0; --mark: #1f5fbf; --larger: #d9622b; --smaller: #1f78b4; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e4e8ee; --faint: #9aa5b3; --line: #39424e; --mark: #7fb0ff; --larger: #f08a55; --smaller: #62b0ea; }
}
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
svg .faint, svg .below, svg .beside { fill: var(--faint); font-size: 10px; }
svg .below { text-anchor: middle; }
svg .beside { text-anchor: end; }
svg .title { font-weight: 600; font-size: 12px; }
svg .values { font-size: 10px; text-anchor: middle; }
svg .axis { stroke: var(--line); fill: none; }
svg .zero { stroke: var(--faint); stroke-dasharray: 3 3; }
svg .mark { stroke: var(--mark); fill: var(--mark); stroke-width: 1.5; }
svg .better { stroke: #1a8f4c; fill: #1a8f4c; }
svg .worse { stroke: #d03b3b; fill: #d03b3b; }
svg .designed { stroke: var(--faint); stroke-dasharray: 5 3; }
svg circle.designed { fill: var(--faint); stroke: none; }
svg .trace { fill: none; stroke-width: 1.5; }
svg .larger { fill: var(--larger); }
svg .smaller { fill: var(--smaller); }
svg .same { fill: var(--line); fill-opacity: .45; }
"""
"""Rules for all figures; a file carries them, the page has them once."""

WIDTH = 330
"""Of a panel, in pixels: fits a phone."""

GAP = 12
"""Between the panels of a drawing."""

Dilations = Mapping[str, Sequence[int]]
"""Layer -> dilation per axis."""


@dataclass(frozen=True)
class Panel:
    """A drawing with its size in pixels; label: what it shows, for those who cannot see it."""

    label: str
    width: float
    height: float
    content: Sequence[Element]


@dataclass(frozen=True)
class Interval:
    """A row of `intervals`: a mean with the half width of its interval; None: no result."""

    label: str
    mean: float | None
    half_width: float | None = None
    verdict: str | None = None


def svg(panels: Sequence[Panel], columns: int = 3) -> Element:
    """One drawing with the panels in rows of `columns`."""
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    parts, top = [], 0.0
    for row in rows:
        left = 0.0
        for panel in row:
            parts.append(element("g", panel.content, transform=f"translate({_n(left)} {_n(top)})"))
            left += panel.width + GAP
        top += max(panel.height for panel in row) + GAP
    width, height = max(sum(panel.width + GAP for panel in row) for row in rows) - GAP, top - GAP
    return element(
        "svg",
        element("title", "; ".join(panel.label for panel in panels)),
        parts,
        viewBox=f"0 0 {_n(width)} {_n(height)}",
        width=_n(width),
        height=_n(height),
        role="img",
    )


def save(path: Path, panels: Sequence[Panel]) -> None:
    """Write panels to a file that stands alone."""
    drawing = svg(panels)
    drawing.set("xmlns", "http://www.w3.org/2000/svg")
    drawing.insert(1, element("style", STYLE))
    write_bytes(path, tostring(drawing, encoding="utf-8") + b"\n")


def panels(found: Group) -> dict[str, list[Panel]]:
    """A group's figures by kind, without those that its records hold nothing for."""
    kinds = ("scores", "differences", "dilations", "structures", "reach", "receptive_fields")
    made: dict[str, list[Panel]] = {kind: [] for kind in kinds}
    compared = comparisons(found)
    done = [method for method in found.methods if found.done(method)]
    for metric in found.metrics if done else []:
        title = f"{metric.name} ({metric.unit}) {'↑' if metric.higher_is_better else '↓'}"
        values = {method: estimate(scores(found, method)[metric.name]) for method in found.methods}
        rows = [
            Interval(method, value.mean, value.half_width) if value else Interval(method, None)
            for method, value in values.items()
        ]
        made["scores"].append(intervals(title, rows, zero=False))
        rows = [
            Interval(one.method, one.difference.mean, one.difference.half_width, one.verdict)
            for one in compared
            if one.metric == metric
        ]
        if rows:
            made["differences"].append(intervals(f"{title}, minus baseline", rows, zero=True))
    made["dilations"] = _searches(found, done)
    designed = _designed(found)
    if designed and (distinct := _distinct(found, done, designed)):
        room = max(1, MAP_CELLS // (len(designed) * len(distinct)))
        rows = [
            (f"{method} f{fold} s{seed}", structure)
            for method, structures in distinct.items()
            for (fold, seed), structure in sorted(structures.items())[:room]
        ]
        made["structures"] = [structure_map("Searched dilations, layer by layer", designed, rows)]
        made["reach"] = [
            reach("Sum of the dilations", designed, [(name, [*every.values()]) for name, every in distinct.items()])
        ]
    measured = {
        method: fields
        for method in done
        if (fields := [r.receptive_field for r in found.done(method).values() if r.receptive_field])
    }
    if measured:
        made["receptive_fields"] = [receptive_fields("Effective receptive field", measured)]
    return {kind: drawn for kind, drawn in made.items() if drawn}


MAP_CELLS = 700
"""A map of structures shows as many folds and seeds of each method as keep it below this number of cells."""


def _searches(found: Group, methods: Sequence[str]) -> list[Panel]:
    """How each search moved the dilations in its first fold and seed, and where the first one started and ended."""
    seen: list[list[dict[str, Any]]] = []
    drawn: list[Panel] = []
    for method in methods:
        (fold, seed), record = min(found.done(method).items())
        for before, stage in zip([[], *_stages(record)], _stages(record), strict=False):
            if stage in seen or len(stage) < 2:
                continue
            seen.append(stage)
            after = f" after {_kind(before)}" if before else ""
            title = f"{_kind(stage)}{after}, fold {fold}, seed {seed}"
            drawn.append(trajectories(title[0].upper() + title[1:], stage))
    if seen:
        title = f"Before and after {_kind(seen[0])}"
        drawn.append(before_after(title, seen[0][0]["structure"], seen[0][-1]["structure"]))
    return drawn


def _stages(record: Record) -> list[list[dict[str, Any]]]:
    """The searches that followed upon each other: each one's steps only grow. None where candidates were ranked."""
    stages: list[list[dict[str, Any]]] = []
    for entry in record.history:
        if "validation" in entry:
            return []
        if stages and entry["step"] >= stages[-1][-1]["step"]:
            stages[-1].append(entry)
        else:
            stages.append([entry])
    return stages


def _kind(stage: Sequence[Mapping[str, Any]]) -> str:
    """What search leaves such entries."""
    marks = {"branches": "local search", "probability": "one-shot search", "fitness": "genetic search"}
    return next((name for mark, name in marks.items() if any(mark in entry for entry in stage)), "search")


def _designed(found: Group) -> Dilations | None:
    """The hand-designed structure: the baseline's."""
    return next((record.structure for record in found.done(BASELINE).values()), None)


def _distinct(found: Group, methods: Sequence[str], designed: Dilations) -> dict[str, dict[tuple[int, int], Dilations]]:
    """(fold, seed) -> structure that each method's search found; of methods with equal ones only the first.

    Structures of other layers than the hand-designed one are left out.
    """
    made: dict[str, dict[tuple[int, int], Dilations]] = {}
    for method in methods:
        structures: dict[tuple[int, int], Dilations] = {
            # Merged networks have other kernels, so what their search found says more than what they are.
            column: stages[-1][-1]["structure"] if (stages := _stages(record)) else record.structure
            for column, record in found.done(method).items()
            if record.structure and record.search.epochs
        }
        structures = {column: one for column, one in structures.items() if one.keys() == designed.keys()}
        if structures and structures not in made.values():
            made[method] = structures
    return made


def intervals(title: str, rows: Sequence[Interval], *, zero: bool) -> Panel:
    """Means with their intervals, one row each.

    zero: mark 0, for differences; otherwise the axis covers the intervals only.
    """
    ends = [0.0] if zero else []
    for row in rows:
        if row.mean is not None:
            ends += [row.mean - (row.half_width or 0), row.mean + (row.half_width or 0)]
    left, right, top, step = _room([row.label for row in rows]), WIDTH - 14, 26, 18
    bottom = top + step * len(rows)
    margin = 0.04 * (max(ends, default=1) - min(ends, default=0))
    axis = _Axis(min(ends, default=0) - margin, max(ends, default=1) + margin, left, right)
    content = [_text(0, 13, title, "title"), *axis.below(top, bottom)]
    if zero:
        content.append(_line(axis(0), top, axis(0), bottom, "zero"))
    for index, row in enumerate(rows):
        y = top + step * (index + 0.5)
        content.append(_text(left - 8, y + 4, _shorten(row.label, 24), anchor="end"))
        if row.mean is None:
            content.append(_text(left + 4, y + 4, "no result", "faint"))
            continue
        half, kind = row.half_width or 0, f"mark {row.verdict or ''}".strip()
        marks = [element("circle", cx=_n(axis(row.mean)), cy=_n(y), r="3.2")]
        if half:
            marks.append(_line(axis(row.mean - half), y, axis(row.mean + half), y))
        content.append(element("g", element("title", f"{row.label}: {row.mean:.4g} ± {half:.3g}"), *marks, class_=kind))
    return Panel(title, WIDTH, bottom + 22, content)


def trajectories(title: str, history: Sequence[Mapping[str, Any]]) -> Panel:
    """How a search moved the dilation of every layer.

    history: entries with "step" and "structure" (layer -> dilation per axis), the first one before the search.
        Dilations with several axes are shown by their mean.
    """
    layers = list(history[0]["structure"])
    steps = [float(entry["step"]) for entry in history]
    lines = {name: [statistics.fmean(entry["structure"][name]) for entry in history] for name in layers}
    left, right, top, bottom = 34, WIDTH - 14, 26, 226
    across = _Axis(min(steps), max(steps), left, right, whole=True)
    values = [value for line in lines.values() for value in line]
    up = _Axis(min(values), max(values), bottom, top + 4, log=True)
    content = [_text(0, 13, title, "title"), *across.below(top, bottom), *up.beside(left, right)]
    traces = []
    for depth, (name, line) in enumerate(lines.items()):
        points = _points([(across(step), up(value)) for step, value in zip(steps, line, strict=True)])
        trace = element("polyline", points=points, stroke=_colour(depth, len(layers)))
        traces.append(element("g", element("title", f"{name}: {line[0]:g} → {line[-1]:g}"), trace))
    content.append(element("g", traces, class_="trace"))
    content.append(_text(left, bottom + 32, "step of the search; colour: depth, blue first", "faint"))
    return Panel(title, WIDTH, bottom + 40, content)


def before_after(title: str, before: Dilations, after: Dilations) -> Panel:
    """The dilation of every layer before (hollow) and after (full); several axes are shown by their mean."""
    layers = [name for name in before if name in after]
    step = 13 if len(layers) <= 60 else 6
    left, right, top = 118, WIDTH - 14, 26
    bottom = top + step * len(layers)
    pairs = {name: (statistics.fmean(before[name]), statistics.fmean(after[name])) for name in layers}
    values = [value for pair in pairs.values() for value in pair]
    axis = _Axis(min(values), max(values), left, right, log=True)
    content = [_text(0, 13, title, "title"), *axis.below(top, bottom)]
    labels = _short_names(layers)
    for depth, (name, (old, new)) in enumerate(pairs.items()):
        y, colour = top + step * (depth + 0.5), _colour(depth, len(layers))
        if step > 10:
            content.append(_text(left - 8, y + 3.5, _shorten(labels[name], 20), "faint", anchor="end"))
        marks = [element("circle", cx=_n(axis(new)), cy=_n(y), r="3", fill=colour)]
        if old != new:
            hollow = element("circle", cx=_n(axis(old)), cy=_n(y), r="3", fill="none")
            marks = [_line(axis(old), y, axis(new), y), hollow, *marks]
        content.append(element("g", element("title", f"{name}: {old:g} → {new:g}"), *marks, stroke=colour))
    content.append(_text(left, bottom + 32, "hollow: before, full: after", "faint"))
    return Panel(title, WIDTH, bottom + 40, content)


def structure_map(title: str, designed: Dilations, found: Sequence[tuple[str, Dilations]]) -> Panel:
    """Structures layer by layer against the hand-designed one: colour says larger or smaller, and how much.

    designed: the first row. found: (label, structure) of the others; the same layers.
    """
    layers = list(designed)
    cell = max(5.0, min(24.0, 640 / max(1, len(layers))))
    rows = [("hand-designed", designed), *found]
    left, step, top = _room([label for label, _ in rows]), 18, 44
    ratios = [_log_ratio(dilations, designed, name) for _, dilations in found for name in layers]
    most = max([1.0, *(abs(ratio) for ratio in ratios)])
    content = [_text(0, 13, title, "title"), *_stage_labels(layers, left, cell, top)]
    boxes: dict[tuple[str, str], list[str]] = {}  # by colour and strength: one path each is a fraction of the size
    for index, (label, dilations) in enumerate(rows):
        y = top + step * index
        content.append(_text(left - 8, y + 12, _shorten(label, 32), anchor="end"))
        for column, name in enumerate(layers):
            ratio = _log_ratio(dilations, designed, name)
            kind = "larger" if ratio > 0 else "smaller" if ratio < 0 else "same"
            strength = "" if kind == "same" else f"{0.15 + 0.1 * round(5 * abs(ratio) / most):.2f}"
            place = f"M{_n(left + cell * column)} {_n(y)}h{_n(cell - 1)}v{step - 2}h{_n(1 - cell)}z"
            boxes.setdefault((kind, strength), []).append(place)
    for (kind, strength), places in boxes.items():
        other = {"fill-opacity": strength} if strength else {}
        content.append(element("path", d="".join(places), class_=kind, **other))
    if cell > 16:
        for index, (_, dilations) in enumerate(rows):
            middle = [_n(left + cell * (column + 0.5) - 0.5) for column in range(len(layers))]
            values = [element("tspan", _shown(dilations[name]), x=x) for x, name in zip(middle, layers, strict=True)]
            content.append(element("text", values, y=_n(top + step * index + 12), class_="values"))
    for column, name in enumerate(layers):
        about = f"{name}: {', '.join(_shown(dilations[name]) for _, dilations in rows)}"
        place = {"x": _n(left + cell * column), "y": str(top), "width": _n(cell), "height": str(step * len(rows))}
        content.append(element("rect", element("title", about), fill="transparent", **place))
    bottom = top + step * len(rows)
    content.append(_text(0, bottom + 14, "layers in order; orange: larger than designed, blue: smaller", "faint"))
    return Panel(title, max(WIDTH, left + cell * len(layers) + 4), bottom + 22, content)


def reach(title: str, designed: Dilations, found: Sequence[tuple[str, Sequence[Dilations]]]) -> Panel:
    """Sum of the dilations up to each layer: the hand-designed network dashed, methods as means of their structures.

    A chain of convs with kernel k and stride 1 sees 1 + (k - 1) times this sum.
    """
    curves = [("hand-designed", _cumulated(designed))]
    for label, structures in found:
        sums = [_cumulated(structure) for structure in structures if structure.keys() == designed.keys()]
        if sums:
            curves.append((label, [statistics.fmean(column) for column in zip(*sums, strict=True)]))
    left, right, top, bottom = 44, WIDTH - 14, 26, 200
    across = _Axis(0, len(designed), left, right, whole=True)
    up = _Axis(0, max(curve[-1] for _, curve in curves), bottom, top + 4)
    content = [_text(0, 13, title, "title"), *across.below(top, bottom), *up.beside(left, right)]
    for index, (label, curve) in enumerate(curves):
        colour = "" if index == 0 else _colour(index - 1, len(curves) - 1)
        kind = "trace designed" if index == 0 else "trace"
        points = _points([(across(depth), up(value)) for depth, value in enumerate([0, *curve])])
        paint = {"stroke": colour} if colour else {}
        y = bottom + 48 + 15 * index
        content += [
            element("polyline", points=points, class_=kind, **paint),
            _line(left, y - 4, left + 22, y - 4, kind, **paint),
            _text(left + 30, y, f"{_shorten(label, 32)}: {curve[-1]:.0f}"),
        ]
    content.append(_text(left, bottom + 32, "searched layers passed, in the order of the network", "faint"))
    return Panel(title, WIDTH, bottom + 54 + 15 * (len(curves) - 1), content)


def receptive_fields(title: str, measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> Panel:
    """Share of the gradient within a distance from the centre: the hand-designed network dashed; dots at 95 %.

    Cumulated, since the gradient itself has the teeth of dilated convs, and since one reads off both radii. Means over
    the cells and, in two dimensions, over both axes.

    measured: method -> its records' fields, see `benchmarks.receptive_fields.measure`.
    """
    axes = {method: [axis for field in fields for axis in field["axes"]] for method, fields in measured.items()}
    curves = {method: _mean_curve([_within(axis) for axis in every]) for method, every in axes.items()}
    last = {method: statistics.fmean(axis["radius"]["0.95"] for axis in every) for method, every in axes.items()}
    unit = next(iter(measured.values()))[0]["unit"]
    left, right, top, bottom = 44, WIDTH - 14, 26, 200
    # To where all of them are as good as whole: a last thousandth may be far out.
    ends = [
        min((edge for edge, share in curve.items() if share > 0.999), default=max(curve)) for curve in curves.values()
    ]
    across = _Axis(min(min(curve) for curve in curves.values()), max(ends), left, right, log=True)
    up = _Axis(0, 1, bottom, top + 4)
    heights = [(up(share), f"{100 * share:.0f} %") for share in (0, 0.5, 0.95)]
    content = [_text(0, 13, title, "title"), *across.below(top, bottom), *_across(heights, left, right)]
    others = [method for method in curves if method != BASELINE]
    for index, method in enumerate([BASELINE, *others] if BASELINE in curves else others):
        designed = method == BASELINE
        kind = "trace designed" if designed else "trace"
        paint = {} if designed else {"stroke": _colour(others.index(method), len(others))}
        places = [(across(edge), up(share)) for edge, share in curves[method].items()]
        shown = [place for place in places if place[0] <= right + 0.1]
        y = bottom + 48 + 15 * index
        label = f"{_shorten('hand-designed' if designed else method, 26)}: 95 % within {last[method]:.3g}"
        content += [
            element("polyline", points=_points(shown), class_=kind, **paint),
            element("circle", cx=_n(across(last[method])), cy=_n(up(0.95)), r="3", **_dot(paint)),
            _line(left, y - 4, left + 22, y - 4, kind, **paint),
            _text(left + 30, y, label),
        ]
    content.append(_text(left, bottom + 32, f"share of the gradient within so many {unit}", "faint"))
    return Panel(title, WIDTH, bottom + 54 + 15 * (len(curves) - 1), content)


def _dot(paint: Mapping[str, str]) -> dict[str, str]:
    return {"fill": paint["stroke"]} if paint else {"class_": "designed"}


def _within(axis: Mapping[str, Any]) -> dict[float, float]:
    """Distance -> share of the gradient within it, at the edges of the bins."""
    edges, share = axis["edges"], axis["share"]
    middle = len(share) // 2
    return {edges[middle + 1 + bins]: sum(share[middle - bins : middle + bins + 1]) for bins in range(middle + 1)}


def _mean_curve(curves: Sequence[Mapping[float, float]]) -> dict[float, float]:
    """Mean over cells; one whose input ends before another's has all of its gradient within."""
    edges = sorted({edge for curve in curves for edge in curve})
    return {edge: statistics.fmean(curve.get(edge, 1.0) for curve in curves) for edge in edges}


def _across(places: Sequence[tuple[float, str]], left: float, right: float) -> list[Element]:
    """Grid lines across at some heights, with what is written beside them."""
    grid = element("path", d="".join(f"M{_n(left)} {_n(y)}H{_n(right)}" for y, _ in places), class_="axis")
    return [grid, *(_text(left - 6, y + 3.5, text, "beside") for y, text in places)]


class _Axis:
    """Maps values to pixels between two ends, with round ticks; log: to base 2."""

    def __init__(
        self, low: float, high: float, start: float, end: float, *, log: bool = False, whole: bool = False
    ) -> None:
        self.log, self.start, self.end = log, start, end
        if log:
            first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
            every = max(1, math.ceil((last - first) / 7))
            self.ticks = [2.0**power for power in range(first, last + 1, every)]
            self.low, self.high = math.log2(low), math.log2(max(high, low * 2))
            self.ticks = [tick for tick in self.ticks if self.low <= math.log2(tick) <= self.high]
            return
        if high <= low:
            low, high = low - 0.5, high + 0.5
        power = 10 ** math.floor(math.log10((high - low) / 3))
        step = max(power * factor for factor in (1, 2, 5) if 3 * power * factor <= high - low)
        if whole:
            step = max(1, round(step))
        self.ticks = [step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        place = math.log2(value) if self.log else value
        return self.start + (self.end - self.start) * (place - self.low) / (self.high - self.low)

    def below(self, top: float, bottom: float) -> list[Element]:
        """Grid lines downwards with their numbers."""
        places = [(self(tick), _tick(tick)) for tick in self.ticks]
        grid = element("path", d="".join(f"M{_n(x)} {_n(top)}V{_n(bottom)}" for x, _ in places), class_="axis")
        return [grid, *(_text(x, bottom + 14, text, "below") for x, text in places)]

    def beside(self, left: float, right: float) -> list[Element]:
        """Grid lines across with their numbers."""
        return _across([(self(tick), _tick(tick)) for tick in self.ticks], left, right)


def _room(labels: Sequence[str]) -> float:
    """Pixels that labels take on the left."""
    return min(200, 14 + 6 * max(map(len, labels), default=0))


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _tick(value: float) -> str:
    return f"{round(value, 10):g}".replace("-", "−")


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "") -> Element:
    other = {"text-anchor": anchor} if anchor else {}
    return element("text", text, x=_n(x), y=_n(y), **({"class_": kind} if kind else {}), **other)


def _points(places: Sequence[tuple[float, float]]) -> str:
    """Of a polyline, without those in the middle of a level stretch: searches leave most dilations as they are."""
    ends = (0, len(places) - 1)
    corners = [
        place
        for index, place in enumerate(places)
        if index in ends or not places[index - 1][1] == place[1] == places[index + 1][1]
    ]
    return " ".join(f"{_n(x)},{_n(y)}" for x, y in corners)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "", **other: str) -> Element:
    place = {"x1": _n(x1), "y1": _n(y1), "x2": _n(x2), "y2": _n(y2)}
    return element("line", **place, **({"class_": kind} if kind else {}), **other)


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the parts that all of them begin or end with."""
    parts = [name.split(".") for name in names]
    if len(parts) < 2:
        return dict(zip(names, names, strict=True))
    shortest = min(map(len, parts)) - 1
    first = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest)
    last = next((i for i in range(shortest - first) if len({part[-1 - i] for part in parts}) > 1), shortest - first)
    return {name: ".".join(part[first : len(part) - last]) for name, part in zip(names, parts, strict=True)}


def _stage_labels(layers: Sequence[str], left: float, cell: float, top: float) -> list[Element]:
    """The first two parts of the layers' names, above the first layer of each run that shares them."""
    parts, before, free = [], None, 0.0
    for column, name in enumerate(layers):
        stage = ".".join(name.split(".")[:2])
        x = left + cell * column
        if stage != before:
            parts.append(_line(x - 0.5, top - 14, x - 0.5, top - 2, "axis"))
            if x >= free:
                parts.append(_text(x + 3, top - 5, _shorten(stage, 22), "faint"))
                free = x + 6 * min(22, len(stage)) + 8
        before = stage
    return parts


def _log_ratio(dilations: Dilations, designed: Dilations, name: str) -> float:
    return math.log2(statistics.fmean(dilations[name]) / statistics.fmean(designed[name]))


def _cumulated(dilations: Dilations) -> list[float]:
    total, sums = 0.0, []
    for dilation in dilations.values():
        total += statistics.fmean(dilation)
        sums.append(total)
    return sums


def _shown(dilation: Sequence[int]) -> str:
    return f"{dilation[0]}" if len(set(dilation)) == 1 else "×".join(map(str, dilation))


STOPS = ((0x2F, 0x6F, 0xC4), (0x1F, 0x9E, 0x89), (0xD9, 0x7A, 0x2B))


def _colour(depth: int, count: int) -> str:
    """From blue over green to orange, of a brightness that both themes can carry."""
    place = 2 * depth / max(1, count - 1)
    low, high = (STOPS[0], STOPS[1]) if place <= 1 else (STOPS[1], STOPS[2])
    share = place if place <= 1 else place - 1
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(low, high, strict=True))
