"""The command `python -m benchmarks.speed`: what is timed, and where it is written."""

import datetime
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.records.machine import commit, describe_device, versions
from benchmarks.records.places import ROOT
from benchmarks.speed.layers import LAYERS, Layer, floor, of_layer
from benchmarks.speed.models import MODELS, of_model
from benchmarks.speed.tables import Row, draw, markdown, numbers
from benchmarks.speed.timing import COLUMNS, PLAIN, measure
from rfnext.files import write_text
from tasks.command_line import parse_or_end
from tasks.ranges import POSITIVE, THREADS, check_ranges


@dataclass(frozen=True)
class Options:
    """Time the searched convolution side by side with the plain one and with mmcv's operator."""

    quick: bool = False
    """Only the layers and models with a target, in a minute or so."""
    only: str = ""
    """Only rows whose name contains this, e.g. "depthwise"."""
    seconds: float = 2.5
    """Time per row, beyond which no further round is begun after the fifth."""
    threads: int | None = None
    """Threads of torch; None leaves its default, one per core."""
    results: Path = ROOT / "results/speed"
    """Folder of the tables and the figure."""

    def __post_init__(self) -> None:
        check_ranges(self, {"seconds": POSITIVE, "threads": THREADS})


class _Choices(logging.Handler):
    """Collects what "auto" chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Take the name of an implementation from a message of "auto"."""
        name = record.getMessage().rpartition(": ")[2].partition(" (")[0]
        if name in COLUMNS:
            self.names.add(name)


def rows(options: Options) -> Iterator[Row]:
    """Measure what the options name."""
    logger = logging.getLogger("rfnext.ops")
    logger.setLevel(logging.INFO)
    for subject in (*LAYERS, *MODELS):
        if (options.quick and not subject.quick) or options.only not in str(subject):
            continue
        for branches in subject.branches if isinstance(subject, Layer) else (subject.branches,):
            if options.quick and branches not in subject.targets:
                continue
            choices = _Choices()
            logger.addHandler(choices)
            torch.manual_seed(0)
            ways = of_layer(subject, branches) if isinstance(subject, Layer) else of_model(subject)
            timings = measure(ways, options.seconds)
            logger.removeHandler(choices)
            least = None
            if isinstance(subject, Layer) and not subject.depthwise:
                least = floor(subject, branches) / min(timings[PLAIN].seconds)
            yield Row(subject, branches, timings, " and ".join(sorted(choices.names)), least)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints each row as it is measured, and the paths of what was written."""
    options = parse_or_end(Options, arguments, prog="python -m benchmarks.speed")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    found = []
    for row in rows(options):
        found.append(row)
        ratios = ", ".join(f"{name} {row.timings[name].ratio:.2f}" for name in COLUMNS[1:] if name in row.timings)
        plain = 1000 * row.timings[PLAIN].median
        print(f"{row.subject}, {row.branches} branches: {plain:.2f} ms; {ratios}", flush=True)
    if not found:
        print(f"nothing is called {options.only!r}; the rows are: {'; '.join(map(str, (*LAYERS, *MODELS)))}")
        return 2
    device = describe_device(torch.device("cpu"))
    command = shlex.join(["python", "-m", "benchmarks.speed", *(sys.argv[1:] if arguments is None else arguments)])
    heading = (
        f"`{command}` on {datetime.date.today()}: {device['name']}, {device['threads']} threads, "
        f"torch {versions()['torch']}, commit {commit()}."
    )
    paths = [options.results / name for name in ("table.md", "table.csv", "speed.svg")]
    write_text(paths[0], markdown(found, heading))
    write_text(paths[1], numbers(found))
    draw(found, paths[2])
    print(*(path for path in paths if path.exists()), sep="\n")
    return 0
