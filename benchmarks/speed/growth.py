"""How the cost of a training step grows with branches, length, layers and threads.

    python -m benchmarks.speed.growth            # on quiet cores
    python -m benchmarks.speed.growth --quick    # half a minute: the smallest points, to see that it works

A step (forward, backward, Adam) of a stack of residual layers (a conv of 64 channels, kernel 3 and dilation 16, then a
ReLU) is timed with and without a search, in turns. One of branches, frames and layers changes at a time, by 1 and by 2
threads. What counts are the ratios of the same round: their median, and their quartiles as the spread.

Writes growth.md, growth.csv and growth.svg into results/speed.
"""

import copy
import csv
import datetime
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, StrMethodFormatter
from torch import Tensor, nn

from benchmarks.records.machine import commit, describe_device, versions
from benchmarks.records.places import ROOT
from benchmarks.report.figures import SERIES, STYLE, svg
from benchmarks.report.markdown import pipe
from benchmarks.speed.layers import spaced
from benchmarks.speed.timing import PLAIN, Timing, measure
from rfnext import Bounds, LocalConfig, LocalSearch
from rfnext.files import write_bytes, write_text
from tasks.command_line import parse_or_end
from tasks.ranges import POSITIVE, check_ranges

Axis = Literal["branches", "frames", "layers"]

CHANNELS, DILATION = 64, 16
SEARCHED = "searched"
HEAD = ("changes", "branches", "frames", "layers", "threads")


class Point(NamedTuple):
    """What is timed; axis: which of the numbers changes."""

    axis: Axis
    branches: int = 3
    frames: int = 2000
    layers: int = 10
    threads: int = 1


AXES: dict[Axis, tuple[int, ...]] = {
    "branches": (2, 3, 5, 9, 16),
    "frames": (500, 2000, 8000, 32_000, 100_000),
    "layers": (10, 30, 100, 300),
}
THREADS = (1, 2)


@dataclass(frozen=True)
class Options:
    """Time a step with and without a search, by branches, frames, layers and threads."""

    quick: bool = False
    """Only the two smallest points of each kind."""
    seconds: float = 5
    """Time per point, beyond which no further round is begun after the fifth."""
    results: Path = ROOT / "results/speed"
    """Folder of the table and the figure."""

    def __post_init__(self) -> None:
        check_ranges(self, {"seconds": POSITIVE})


def points(quick: bool) -> Iterator[Point]:
    """What is timed, in the order of the table."""
    for axis, values in AXES.items():
        for threads in THREADS:
            for value in values[: 2 if quick else None]:
                yield Point(axis, threads=threads)._replace(**{axis: value})


class _Layer(nn.Module):
    """Residual, since gradients of hundreds of others vanish, and numbers close to zero are slow to compute with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(CHANNELS, CHANNELS, 3, padding=DILATION, dilation=DILATION)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, frame) -> the same."""
        return x + torch.relu(self.conv(x))


def of_point(point: Point) -> dict[str, Callable[[], object]]:
    """A training step of the plain stack and of the searched one."""
    torch.manual_seed(0)
    plain = nn.Sequential(*(_Layer() for _ in range(point.layers)))
    searched = copy.deepcopy(plain)
    search = LocalSearch(searched, LocalConfig(branches=point.branches, bounds=Bounds(1, 2 * DILATION)))
    for conv in search.convs.values():
        conv.set_branches([(d,) for d in spaced(DILATION, point.branches)])
    x = torch.randn(1, CHANNELS, point.frames)

    def step(network: nn.Module) -> Callable[[], object]:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)

        def run() -> None:
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()

        return run

    return {PLAIN: step(plain), SEARCHED: step(searched)}


Timings = dict[Point, dict[str, Timing]]


def cells(point: Point, timing: dict[str, Timing]) -> list[str]:
    """A row of the table."""
    searched = timing[SEARCHED]
    milliseconds = (f"{1000 * timing[way].median:.1f}" for way in (PLAIN, SEARCHED))
    return [*map(str, point), *milliseconds, "{:.2f} ({:.2f}-{:.2f})".format(searched.ratio, *searched.quartiles)]


def markdown(found: Timings, heading: str) -> str:
    """The table."""
    rows = [cells(point, timing) for point, timing in found.items()]
    head = [*HEAD, "plain, ms", "searched, ms", "searched / plain"]
    return (
        f"# How the cost of a step grows\n\n{heading}\n\nA training step (forward, backward, Adam) of a stack of "
        f"residual layers: a conv of {CHANNELS} channels, kernel 3 and dilation {DILATION}, then a ReLU; batch 1. "
        f"Median of the rounds; ratios of the same round (quartiles).\n\n{pipe(head, rows)}\n"
    )


def numbers(found: Timings) -> str:
    """One line per point, as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*HEAD, "rounds", "plain_seconds", "searched_seconds", "ratio", "ratio_q1", "ratio_q3"])
    for point, timing in found.items():
        plain, searched = timing[PLAIN], timing[SEARCHED]
        values = plain.median, searched.median, searched.ratio, *searched.quartiles
        writer.writerow([*point, len(plain.seconds), *(f"{value:.6g}" for value in values)])
    return buffer.getvalue()


def draw(found: Timings, path: Path) -> None:
    """Milliseconds above, ratios below; one column of panels for each axis, one colour for each number of threads."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5), layout="constrained")
        panels = figure.subplots(2, len(AXES), sharex="col")
        for (above, below), axis in zip(panels.T, AXES, strict=True):
            for threads, colour in zip(THREADS, SERIES, strict=False):
                own = {p: t for p, t in found.items() if (p.axis, p.threads) == (axis, threads)}
                x = [getattr(point, axis) for point in own]
                for way, style in ((PLAIN, ":"), (SEARCHED, "-")):
                    y = [1000 * timing[way].median for timing in own.values()]
                    label = f"{way.split()[0]}, {threads} thread{'s' if threads > 1 else ''}"
                    above.plot(x, y, style, marker="o", markersize=3, color=colour, label=label)
                ratios = [timing[SEARCHED].ratio for timing in own.values()]
                below.plot(x, ratios, marker="o", markersize=3, color=colour)
            above.set(xscale="log", yscale="log", title=axis)
            # The style reads no formulas, as which matplotlib writes powers of ten.
            above.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            above.yaxis.set_minor_formatter(NullFormatter())
            above.xaxis.set_minor_locator(NullLocator())
            values = sorted({getattr(point, axis) for point in found if point.axis == axis})
            above.set_xticks(values, [f"{value:,}" for value in values])
            below.axhline(1, color="gray", linewidth=0.8, linestyle=":")
            below.set(xlabel=axis)
            below.set_ylim(bottom=0)
        panels[0, 0].set_ylabel("a step, ms")
        panels[1, 0].set_ylabel("searched / plain")
        panels[0, 0].legend()
        write_bytes(path, svg(figure))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints each row as it is measured, and the paths of what was written."""
    options = parse_or_end(Options, arguments, prog="python -m benchmarks.speed.growth")
    found: Timings = {}
    before = torch.get_num_threads()
    for point in points(options.quick):
        torch.set_num_threads(point.threads)
        found[point] = measure(of_point(point), options.seconds)
        print(", ".join(cells(point, found[point])), flush=True)
    torch.set_num_threads(before)
    heading = (
        f"`python -m benchmarks.speed.growth{' --quick' if options.quick else ''} --seconds {options.seconds:g}` on "
        f"{datetime.date.today()}: {describe_device(torch.device('cpu'))['name']}, torch {versions()['torch']}, commit "
        f"{commit()}."
    )
    name = "growth-quick" if options.quick else "growth"  # a part takes the place of no whole measurement
    paths = [options.results / f"{name}.{suffix}" for suffix in ("md", "csv", "svg")]
    write_text(paths[0], markdown(found, heading))
    write_text(paths[1], numbers(found))
    draw(found, paths[2])
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
