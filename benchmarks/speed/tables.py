"""What was timed as a table in Markdown, as CSV and as a figure."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report.figures import STYLE, svg
from benchmarks.report.markdown import pipe
from benchmarks.speed.layers import LAYERS, Layer
from benchmarks.speed.models import Model
from benchmarks.speed.timing import BRANCHES, COLUMNS, MMCV, PLAIN, Timing
from rfnext.files import write_bytes


@dataclass(frozen=True)
class Row:
    """One layer or model with one number of branches.

    chosen: what "auto" chose. floor: ratio to the plain conv of what `taps` cannot do without, see `layers.floor`.
    """

    subject: Layer | Model
    branches: int
    timings: Mapping[str, Timing]
    chosen: str
    floor: float | None

    @property
    def target(self) -> float | None:
        """The largest ratio that we aim at."""
        return self.subject.targets.get(self.branches)

    @property
    def reached(self) -> float:
        """The ratio that the target is about."""
        if self.subject.of_branches:
            pairs = zip(self.timings["auto"].ratios, self.timings[BRANCHES].ratios, strict=True)
            return statistics.median(one / other for one, other in pairs)
        return self.timings["auto"].ratio


FLOOR = (
    "The floor of a dense layer is what `taps` cannot do without: the products of one plain conv, as matrix products, "
    "and 3 branches (taps - 1) + 2 branches passes over the input for mixing, with two numbers read and one written "
    "each. Both are timed at the rate that torch reaches on the same cores with nothing else to do, passes from and to "
    "the cache, and divided by the fastest plain conv, which is oneDNN's and may have faster products. Between the "
    "floor and what `taps` is measured at are the calls of torch, a few microseconds each, which more threads do not "
    "speed up, and accesses to memory. `native` has neither, and products of its own, so it can be below that floor, "
    "and below the plain conv where oneDNN does not use all of the cores' speed."
)


def markdown(found: Sequence[Row], heading: str) -> str:
    """Two tables: time and memory."""
    head = ["layer", "branches", "plain conv, ms", *COLUMNS[1:], "auto chose", "floor of taps", "target"]
    times = pipe(head, [_times(row) for row in found])
    memory = pipe(["layer", "branches", *(f"{name}, MB" for name in COLUMNS)], [_memory(row) for row in found])
    return (
        f"# Cost of searching\n\n{heading}\n\n## Time\n\nForward and backward pass, all gradients (models: a whole "
        "training step with Adam). Ratio to the plain conv (the plain network): median of the rounds' ratios "
        f"(quartiles).\n\n{times}\n\n{FLOOR}\n\n## Memory\n\nLargest total that torch's allocator held at a time, "
        f"beyond the arguments (for models: beyond the network).\n\n{memory}\n"
    )


def _times(row: Row) -> list[str]:
    cells = []
    for name in COLUMNS[1:]:
        timing = row.timings.get(name)
        cells.append("" if timing is None else "{:.2f} ({:.2f}-{:.2f})".format(timing.ratio, *timing.quartiles))
    target = ""
    if row.target is not None:
        verb = "met" if row.reached <= row.target else "missed"
        target = f"{row.target:g}{' x branches' if row.subject.of_branches else ''}: {row.reached:.2f}, {verb}"
    plain = f"{1000 * row.timings[PLAIN].median:.2f}"
    least = "" if row.floor is None else f"{row.floor:.2f}"
    return [str(row.subject), str(row.branches), plain, *cells, row.chosen, least, target]


def _memory(row: Row) -> list[str]:
    cells = [f"{row.timings[name].memory / 1e6:.1f}" if name in row.timings else "" for name in COLUMNS]
    return [str(row.subject), str(row.branches), *cells]


def numbers(found: Sequence[Row]) -> str:
    """One line per row and column, as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = ["seconds_median", "ratio", "ratio_q1", "ratio_q3", "peak_bytes"]
    writer.writerow(["subject", "branches", "way", "rounds", *columns, "auto_chose"])
    for row in found:
        for name, timing in row.timings.items():
            values = (f"{value:.6g}" for value in (timing.median, timing.ratio, *timing.quartiles))
            writer.writerow([row.subject, row.branches, name, len(timing.seconds), *values, timing.memory, row.chosen])
    return buffer.getvalue()


def draw(found: Sequence[Row], path: Path) -> None:
    """Cost against the number of branches, one panel per layer; writes nothing if none was timed with several."""
    subjects = [subject for subject in LAYERS if len({row.branches for row in found if row.subject == subject}) > 1]
    subjects = sorted(subjects, key=lambda subject: -len(subject.branches))[:8]
    if not subjects:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11, 2.6 * math.ceil(len(subjects) / 4) + 0.4), layout="constrained")
        panels = list(figure.subplots(math.ceil(len(subjects) / 4), min(4, len(subjects)), squeeze=False).flat)
        for panel, subject in zip(panels, subjects, strict=False):
            _draw(panel, subject, [row for row in found if row.subject == subject])
        for panel in panels[len(subjects) :]:
            panel.remove()
        panels[0].set_ylabel("time / plain conv")
        panels[0].legend()
        write_bytes(path, svg(figure))


def _draw(panel: Axes, subject: Layer, rows: Sequence[Row]) -> None:
    """One layer: ratio to the plain conv against the number of branches."""
    for name, colour in ((MMCV, "#999999"), (BRANCHES, "#d9622b"), ("taps", "#62b0ea"), ("native", "#1f78b4")):
        points = [(row.branches, row.timings[name].ratio) for row in rows if name in row.timings]
        if points:
            panel.plot(*zip(*points, strict=True), marker="o", markersize=3, color=colour, label=name)
    panel.axhline(1, color="gray", linewidth=0.8, linestyle=":")
    panel.set_title(str(subject), fontsize=7)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("branches")
