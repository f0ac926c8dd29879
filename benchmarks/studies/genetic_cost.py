"""What the published settings of the genetic search buy, where they can be run to the end.

    python -m benchmarks.studies.genetic_cost [--seeds 3] [--results results/studies/genetic_cost]

On the task of `planted_truth`: population 50, 100 generations, 5 epochs per evaluation (Global2Local; selection and
mutation mended, nothing evaluated twice) against a population of 8 with successive halving at a tenth of the epochs
that those took, and against one-shot and local search. All are compared by what drove the published search, the
validation accuracy after 5 epochs, and by the test accuracy after a full training.
"""

import json
import logging
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.record import ROOT, commit, versions
from benchmarks.studies.planted_truth import (
    EPOCHS,
    TEST,
    VALIDATION,
    Data,
    accuracy,
    build,
    genetic,
    local,
    one_shot,
    train,
)
from rfnext import Structure
from rfnext.files import write_text
from rfnext.ops.choice import pin_implementation

log = logging.getLogger(__name__)

SHORT = 5
"""Epochs per evaluation, as published."""


@dataclass(frozen=True)
class Options:
    """The genetic search at its published settings, and what costs less."""

    seeds: int = 3
    """Sets of lags."""
    results: Path = ROOT / "results/studies/genetic_cost"
    """Folder of the records and the table."""


def judged(data: Data, structure: Structure, epochs: int) -> dict[str, object]:
    """Fitness of a structure as the published search sees it, and its test accuracy after a full training."""
    short, full = build(data.seed, structure), build(data.seed, structure)
    train(short, data, SHORT)
    train(full, data, EPOCHS)
    return {
        "dilations": [d for (d,) in structure.values()],
        "search_epochs": epochs,
        "fitness": round(accuracy(short, data, VALIDATION), 2),
        "accuracy": round(accuracy(full, data, TEST), 2),
    }


def run(seed: int) -> dict[str, object]:
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
    rows["one_shot_to_local"] = judged(data, *local(data, start, start="one_shot"))
    return {"seed": seed, "lags": data.lags, "commit": commit(), "versions": versions(), "methods": rows}


def table(records: list[dict]) -> str:
    """Markdown: one line per seed and search."""
    lines = [
        "Genetic search to the end on the planted task. fitness: validation accuracy after 5 epochs (%), what the "
        "genetic searches maximise; accuracy: test, retrained (%).",
        "",
        "| seed | lags | search | dilations | search epochs | fitness | accuracy |",
        "| ---: | --- | --- | --- | ---: | ---: | ---: |",
    ]
    for record in records:
        lags = " ".join(map(str, record["lags"]))
        for name, row in record["methods"].items():
            dilations = " ".join(map(str, row["dilations"]))
            numbers = f"{row['search_epochs']} | {row['fitness']:.1f} | {row['accuracy']:.1f}"
            lines.append(f"| {record['seed']} | {lags} | {name} | {dilations} | {numbers} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    options = tyro.cli(Options, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rfnext").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    records = []
    with pin_implementation("taps"):
        for seed in range(options.seeds):
            path = options.results / f"seed{seed}.json"
            if not path.exists():
                write_text(path, json.dumps(run(seed), indent=1))
            records.append(json.loads(path.read_text("utf-8")))
            text = table(records)
            write_text(options.results / "table.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
