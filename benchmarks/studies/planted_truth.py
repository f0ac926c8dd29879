"""How often does a search find a receptive field that is known?

    python -m benchmarks.studies.planted_truth [--seeds 20] [--results results/planted_truth]

Each method searches on the planted task (`planted_task`) from the same start (dilations 1, 2, 4, 8, 16) on the same
data. Then a network with what it found is trained anew, like all others.

One line per seed is kept in measurements.jsonl as soon as the seed ends, and table.md gathers them. When the study is
started again, a method's entry is kept where its settings are today's. Every entry says which commit and packages
computed it.
"""

import logging
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import AfterValidator, with_config
from typing_extensions import TypedDict

from benchmarks.records.machine import commit, versions
from benchmarks.records.places import ROOT
from benchmarks.records.schema import STRICT, Amount, Json, Label, Layers, Percent, Seed, Versions, Whole
from benchmarks.records.statistics import estimate, number
from benchmarks.report.markdown import pipe
from benchmarks.studies import measurements
from benchmarks.studies.planted_searches import (
    Entries,
    genetic,
    hand_design,
    learnable_spacings,
    local,
    one_shot,
    random_best,
    truth,
    tuned_design,
)
from benchmarks.studies.planted_task import CLASSES, EPOCHS, SHARED, TEST, Data, accuracy, build, train
from rfnext import pin_implementation
from rfnext.files import write_text
from tasks.command_line import parse_or_end
from tasks.ranges import COUNT, check_ranges

log = logging.getLogger(__name__)

PACKAGES = ("python", "torch", "numpy", "DCLS")
"""Those that may change a result."""


@dataclass(frozen=True)
class Options:
    """Planted lags: which searches find them."""

    seeds: int = 20
    """Sets of lags."""
    results: Path = ROOT / "results/planted_truth"
    """Folder of the measurements and the table."""

    def __post_init__(self) -> None:
        check_ranges(self, {"seeds": COUNT})


DCLS = "learnable spacings (DCLS)"

REFINING = {"rule": "default", "spread": 0.1, "branches": 3}

METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "the truth": (truth, {}),
    "hand design": (hand_design, {}),
    "tuned_single": (tuned_design, {"trainings": 2}),
    "random_single": (random_best, {"count": 8}),
    "local, rule paper": (local, {"rule": "paper", "spread": 0.1, "branches": 3}),
    "local, spread 0.1": (local, {"rule": "default", "spread": 0.1, "branches": 3}),
    "local, spread 0.5": (local, {"rule": "default", "spread": 0.5, "branches": 3}),
    "local, 5 branches, spread 0.1": (local, {"rule": "default", "spread": 0.1, "branches": 5}),
    "local, 5 branches, spread 0.5": (local, {"rule": "default", "spread": 0.5, "branches": 5}),
    "one_shot, log2": (one_shot, {"readout": "log2"}),
    "one_shot, argmax": (one_shot, {"readout": "argmax"}),
    "one_shot_to_local, log2": (local, REFINING | {"start": "one_shot, log2"}),
    "one_shot_to_local, argmax": (local, REFINING | {"start": "one_shot, argmax"}),
    "genetic": (
        genetic,
        {"population": 8, "generations": 40, "rungs": [5, 10], "promoted": 0.25, "budget": 6 * EPOCHS},
    ),
    "genetic_to_local": (local, REFINING | {"start": "genetic"}),
    DCLS: (learnable_spacings, {"factors": [1, 10, 100], "version": "gauss"}),
}
"""Name -> what finds a structure, and its settings. Some start from what one before them found."""

REFERENCES = ("hand design", "tuned_single")


def run(seed: int, known: dict[str, Any], here: str | None) -> dict[str, Any]:
    """All methods on one set of lags, and the truth itself.

    Args:
        seed: of the lags, the data and the networks.
        known: what the seed's line says already, or nothing. Entries of other settings are computed anew, and so are
            those that start from such a one.
        here: the commit that entries which are computed now get.
    """
    data = Data(seed)
    kept = known.get("methods", {}) if known.get("settings") == SHARED else {}
    found: Entries = {}
    anew = set()
    for name, (_, settings) in METHODS.items():
        entry = kept.get(name, {})
        if entry.get("settings") == settings and settings.get("start") not in anew:
            found[name] = entry
            continue
        anew.add(name)
        entry = measured(name, data, found)
        log.info("seed %d, %s: %s, lags %s", seed, name, entry, data.lags)
        packages = {package: version for package, version in versions().items() if package in PACKAGES}
        found[name] = entry | {"settings": settings, "commit": here, "versions": packages}
    return {"seed": seed, "lags": data.lags, "settings": SHARED, "methods": found}


def measured(name: str, data: Data, found: Entries) -> dict[str, Any]:
    """What a method finds, how long that takes, and what a network with it scores when it is trained anew."""
    method, settings = METHODS[name]
    if method is learnable_spacings:  # trains its network itself
        return method(data, **settings)
    start = time.perf_counter()
    structure, epochs = method(data, found, **settings)
    seconds = time.perf_counter() - start
    model = build(data.seed, structure)
    train(model, data, EPOCHS)
    return {
        "dilations": [d for (d,) in structure.values()],
        "search_epochs": epochs,
        "search_seconds": round(seconds, 2),
        "accuracy": round(accuracy(model, data, TEST), 2),
    }


@with_config(STRICT)
class Entry(TypedDict):
    """What a method found on one set of lags."""

    dilations: Layers | None
    search_epochs: Whole
    search_seconds: Amount
    accuracy: Percent
    settings: Json
    commit: Label | None
    versions: Versions
    position_learning_rate: NotRequired[Amount]


@with_config(STRICT)
class Line(TypedDict):
    """One set of lags."""

    seed: Seed
    lags: Layers
    settings: Json
    methods: dict[Label, Entry]


def _one_of_each_layer(line: Line) -> Line:
    for name, entry in line["methods"].items():
        if entry["dilations"] is not None and len(entry["dilations"]) != len(line["lags"]):
            raise ValueError(f"{name} has {len(entry['dilations'])} dilations for {len(line['lags'])} lags")
    return line


LINE = Annotated[Line, AfterValidator(_one_of_each_layer)]


def near(found: int, lag: int) -> bool:
    """Within a tenth of the lag, or one step."""
    return abs(found - lag) <= max(1, 0.1 * lag)


def table(seeds: list[dict[str, Any]]) -> str:
    """Markdown: how many layers each method put at their lag, and what the retrained network scores."""
    rows = [[name, *_row(name, seeds)] for name in seeds[0]["methods"]]
    minus = [f"minus {name}" for name in REFERENCES]
    header = ["method", "near (%) ↑", "log2 error ↓", "accuracy retrained (%) ↑", *minus, "search epochs"]
    said = (
        f"Planted lags, {len(seeds)} seeds x {CLASSES} layers. near: within a tenth of the lag or one step. log2 "
        "error: mean of |log2(dilation / lag)|. Mean ± 95 % interval over seeds. Local searches after another search "
        f"use a spread of {REFINING['spread']}. The budget of genetic is {METHODS['genetic'][1]['budget']} epochs, "
        "without those that its last generation repeats."
    )
    return f"{said}\n\n{pipe(header, rows)}\n"


def _row(name: str, seeds: list[dict[str, Any]]) -> list[str]:
    entries = [one["methods"][name] for one in seeds]
    pairs = [list(zip(e["dilations"] or [], one["lags"], strict=False)) for e, one in zip(entries, seeds, strict=True)]
    hits = [100 * statistics.fmean(near(d, lag) for d, lag in every) for every in pairs if every]
    errors = [statistics.fmean(abs(math.log2(d / lag)) for d, lag in every) for every in pairs if every]
    scores = [entry["accuracy"] for entry in entries]
    gains = []
    for reference in REFERENCES:
        theirs = [one["methods"][reference]["accuracy"] for one in seeds]
        gains.append(_interval([score - other for score, other in zip(scores, theirs, strict=True)], 1))
    epochs = statistics.fmean(entry["search_epochs"] for entry in entries)
    return [_interval(hits, 0), _interval(errors, 2), _interval(scores, 1), *gains, f"{epochs:.0f}"]


def _interval(values: list[float], decimals: int) -> str:
    found = estimate({(0, seed): value for seed, value in enumerate(values)})
    return "–" if found is None else number(found, decimals)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse_or_end(Options, arguments, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rfnext").setLevel(logging.WARNING)  # else every round of every search
    torch.set_num_threads(1)
    known, here = {one["seed"]: one for one in measurements.read_or_end(options.results, LINE, ["seed"])}, commit()
    with pin_implementation("taps"):  # equal runs give equal bits
        for seed in range(options.seeds):
            found = run(seed, known.get(seed, {}), here)
            if found != known.get(seed):
                known[seed] = found
                measurements.write(options.results, [known[one] for one in sorted(known)])
    text = table([known[seed] for seed in range(options.seeds)])
    write_text(options.results / "table.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
