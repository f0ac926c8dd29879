"""The figures of the tables, as small SVG files that come out the same whenever the records are the same."""

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from rfnext.atomic import write_bytes


@dataclass(frozen=True)
class Panel:
    """One metric of a bar chart. estimates: per method (mean, half width of its interval or None), or None."""

    title: str
    unit: str
    estimates: Sequence[tuple[float, float | None] | None]


def bars(path: Path, methods: Sequence[str], panels: Sequence[Panel]) -> None:
    """One panel per metric, one bar per method."""
    # Fixed margins in inches: room for the names on the left and the titles above.
    width, height = 1.8 + 1.7 * len(panels), 1.0 + 0.3 * len(methods)
    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    figure.subplots_adjust(
        left=1.5 / width, right=1 - 0.15 / width, bottom=0.5 / height, top=1 - 0.35 / height, wspace=0.15
    )
    for axis, panel in zip(axes, panels, strict=True):
        means = [0.0 if estimate is None else estimate[0] for estimate in panel.estimates]
        axis.barh(range(len(methods)), means, height=0.65, color="#9dc3e6")
        for row, estimate in enumerate(panel.estimates):
            if estimate is None:
                axis.text(0, row, " no result", va="center", fontsize=7, color="gray")
            elif estimate[1] is not None:
                axis.errorbar(estimate[0], row, xerr=estimate[1], color="#1f4e79", capsize=2, linewidth=1)
        axis.set_xlim(left=0, right=100 if panel.unit == "%" else None)
        axis.set_title(panel.title, fontsize=9)
        axis.set_xlabel(panel.unit, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    _save(figure, path)


def dilations(path: Path, history: Sequence[Mapping[str, Any]], title: str) -> None:
    """How a search moved the dilation of every layer, and where each one started and ended.

    history: entries with "step" and "structure" (layer -> dilation per axis), the first one before the
        search. Dilations with several axes are shown by their mean.
    """
    layers = list(history[0]["structure"])
    steps = [entry["step"] for entry in history]
    lines = {name: [statistics.fmean(entry["structure"][name]) for entry in history] for name in layers}
    colours = matplotlib.colormaps["viridis"]
    height = max(3.0, 0.13 * len(layers) + 1.0)
    figure = Figure(figsize=(9.0, height))
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.07, right=0.98, bottom=0.5 / height, top=1 - 0.4 / height, wspace=0.5)
    figure.suptitle(title, fontsize=9)
    for depth, name in enumerate(layers):
        line, colour = lines[name], colours(depth / max(1, len(layers) - 1))
        left.plot(steps, line, color=colour, linewidth=1)
        right.plot([line[0], line[-1]], [depth, depth], color=colour, linewidth=1)
        right.plot(line[0], depth, "o", markersize=3, markerfacecolor="white", color=colour)
        right.plot(line[-1], depth, "o", markersize=3, color=colour)
    left.set_xlabel("step of the search", fontsize=8)
    left.set_ylabel("dilation (colour: depth of the layer)", fontsize=8)
    right.set_xlabel("dilation before (hollow) and after (full)", fontsize=8)
    right.set_yticks(range(len(layers)), layers)
    right.invert_yaxis()
    for panel, axis in ((left, "y"), (right, "x")):
        getattr(panel, f"set_{axis}scale")("log", base=2)
        getattr(panel, f"{axis}axis").set_major_formatter("{x:g}")
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    right.tick_params(axis="y", labelsize=5)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    # Text stays text, identifiers come from a fixed salt, no date: small files that differ only with results.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rfnext"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    write_bytes(path, buffer.getvalue())
