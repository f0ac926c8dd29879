"""What the published settings of the genetic search gain, where they can be run to the end.

    python -m benchmarks.studies.genetic_cost [--seeds 3] [--results results/genetic_cost]

On the planted task (`planted_task`): population 50, 100 generations, 5 epochs per evaluation (Global2Local; selection
and mutation corrected, nothing evaluated twice) against a population of 8 with successive halving at a tenth of the
epochs that those took, and against one-shot and local search. All are compared by what the published search
maximises, the validation accuracy after 5 epochs, and by the test accuracy after a full training. A seed that is
measured is kept.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import with_config
from typing_extensions import TypedDict

from benchmarks.records.machine import commit, versions
from benchmarks.records.places import ROOT
from benchmarks.records.schema import STRICT, Label, Layers, Percent, Seed, Versions, Whole
from benchmarks.report.markdown import pipe
from benchmarks.studies import measurements
from benchmarks.studies.planted_searches import genetic, local, one_shot
from benchmarks.studies.planted_task import EPOCHS, TEST, VALIDATION, Data, accuracy, build, train
from rfnext import Structure, pin_implementation
from rfnext.files import write_text
from tasks.command_line import parse_or_end
from tasks.ranges import COUNT, check_ranges

log = logging.getLogger(__name__)

SHORT = 5
"""Epochs per evaluation, as published."""


@dataclass(frozen=True)
class Options:
    """The genetic search at its published settings, and what costs less."""

    seeds: int = 3
    """Sets of lags."""
    results: Path = ROOT / "results/genetic_cost"
    """Folder of the measurements and the table."""

    def __post_init__(self) -> None:
        check_ranges(self, {"seeds": COUNT})


@with_config(STRICT)
class Entry(TypedDict):
    """What a search found."""

    dilations: Layers
    search_epochs: Whole
    fitness: Percent
    accuracy: Percent


@with_config(STRICT)
class Line(TypedDict):
    """All searches on one set of lags."""

    seed: Seed
    lags: Layers
    commit: Label | None
    versions: Versions
    methods: dict[Label, Entry]


def judged(data: Data, structure: Structure, epochs: int) -> dict[str, Any]:
    """Fitness of a structure as the published search computes it, and its test accuracy after a full training."""
    short, full = build(data.seed, structure), build(data.seed, structure)
    train(short, data, SHORT)
    train(full, data, EPOCHS)
    return {
        "dilations": [d for (d,) in structure.values()],
        "search_epochs": epochs,
        "fitness": round(accuracy(short, data, VALIDATION), 2),
        "accuracy": round(accuracy(full, data, TEST), 2),
    }


def run(seed: int) -> dict[str, Any]:
    """All three searches on one set of lags."""
    data = Data(seed)
    budget = math.inf
    found, epochs = genetic(data, {}, population=50, generations=100, rungs=[SHORT], promoted=1.0, budget=budget)
    rows = {"published settings": judged(data, found, epochs)}
    log.info("seed %d, published: %s, lags %s", seed, rows["published settings"], data.lags)
    budget, rungs = epochs / 10, [SHORT, 2 * SHORT]
    found, used = genetic(data, {}, population=8, generations=1000, rungs=rungs, promoted=0.25, budget=budget)
    rows["population 8, halving, a tenth of the epochs"] = judged(data, found, used)
    coarse, used = one_shot(data, {}, readout="log2")
    start = {"one_shot": {"dilations": [d for (d,) in coarse.values()], "search_epochs": used}}
    rows["one_shot_to_local"] = judged(
        data, *local(data, start, rule="default", spread=0.1, branches=3, start="one_shot")
    )
    return {"seed": seed, "lags": data.lags, "commit": commit(), "versions": versions(), "methods": rows}


def table(seeds: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line per seed and search."""
    rows = []
    for one in seeds:
        lags = " ".join(map(str, one["lags"]))
        for name, row in one["methods"].items():
            numbers = [str(row["search_epochs"]), f"{row['fitness']:.1f}", f"{row['accuracy']:.1f}"]
            rows.append([str(one["seed"]), lags, name, " ".join(map(str, row["dilations"])), *numbers])
    header = ["seed", "lags", "search", "dilations", "search epochs", "fitness", "accuracy"]
    said = (
        "Genetic search to the end on the planted task. fitness: validation accuracy after 5 epochs (%), which the "
        "genetic searches maximise; accuracy: test, retrained (%)."
    )
    return f"{said}\n\n{pipe(header, rows, words=4)}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse_or_end(Options, arguments, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rfnext").setLevel(logging.WARNING)  # else every round of every search
    torch.set_num_threads(1)
    known = {one["seed"]: one for one in measurements.read_or_end(options.results, Line, ["seed"])}
    with pin_implementation("taps"):  # equal runs give equal bits
        for seed in range(options.seeds):
            if seed not in known:
                known[seed] = run(seed)
                measurements.write(options.results, [known[one] for one in sorted(known)])
                write_text(options.results / "table.md", table([known[one] for one in sorted(known)]))
    text = table([known[one] for one in sorted(known)])
    write_text(options.results / "table.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
