"""How often does a search find a receptive field that is known?

    python -m benchmarks.studies.planted_truth [--seeds 20] [--results results/studies/planted_truth]

A sequence of smooth noise has one channel per class; a frame's class is the one whose channel is largest `lag`
frames before and after it, and every class has its own lag. The network has one dilated conv per channel, so the best
dilation of each is known: the lag. Each method searches from the same start (1, 2, 4, 8, ...) on the same data, and
then a network with what it found is trained anew, like all others.

One JSON per seed is written as it ends, and `table.md` gathers them. When the study is started again, a method's entry
is kept where its settings are today's; every entry says which commit and packages computed it.
"""

import functools
import json
import logging
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from benchmarks.groups import estimate
from benchmarks.record import ROOT, commit, versions
from rfnext import (
    Bounds,
    Evolution,
    EvolutionConfig,
    LocalConfig,
    LocalSearch,
    OneShotConfig,
    OneShotSearch,
    Rule,
    Scored,
    Structure,
    halve,
    powers_of_two,
)
from rfnext.files import write_text
from rfnext.ops.choice import pin_implementation
from rfnext.search.one_shot import Readout

log = logging.getLogger(__name__)

CLASSES = 5
FRAMES = 256
LONGEST = 64
SMOOTHNESS = 6.0
"""Standard deviation in frames of the Gaussian that the noise is smoothed with."""
EPOCHS = 40
STEPS = 10
"""Optimizer steps per epoch; every step sees new sequences."""
BATCH = 16
LEARNING_RATE = 0.005
ROUNDS = EPOCHS // 2
"""Of a local search."""

SHARED = {
    "classes": CLASSES,
    "frames": FRAMES,
    "longest_lag": LONGEST,
    "smoothness": SMOOTHNESS,
    "epochs": EPOCHS,
    "steps": STEPS,
    "batch": BATCH,
    "learning_rate": LEARNING_RATE,
}
"""Settings of every method."""

PACKAGES = ("python", "torch", "numpy", "DCLS")
"""Those that may change a result."""

Entries = dict[str, dict[str, Any]]
"""Method -> what it found, by which settings, commit and packages."""


@dataclass(frozen=True)
class Options:
    """Planted lags: which searches find them."""

    seeds: int = 20
    """Sets of lags."""
    results: Path = ROOT / "results/studies/planted_truth"
    """Folder of the records and the table."""


class Network(nn.Module):
    """One conv of kernel 3 per channel, and a pointwise layer that weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.reach = nn.ModuleList(
            nn.Conv1d(1, 4, 3, padding=2**i, dilation=2**i) for i in range(CLASSES)
        )  # dilations 1, 2, 4, 8, 16: doubling, as hand designs do
        self.classify = nn.Conv1d(4 * CLASSES, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, CLASSES, T) -> logits (B, CLASSES, T)"""
        seen = [conv(channel) for conv, channel in zip(self.reach, x.split(1, dim=1), strict=True)]
        return self.classify(torch.relu(torch.cat(seen, dim=1)))


def searched(name: str, conv: nn.Module) -> bool:
    return name.startswith("reach")


class Data:
    """Sequences whose class depends on two frames, `lag` before and after."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # Uniform in the logarithm, and rarely a power of two.
        self.lags = [round(2 ** rng.uniform(0, math.log2(LONGEST))) for _ in range(CLASSES)]
        self.seed = seed
        window = torch.arange(-24, 25)
        kernel = torch.exp(-0.5 * (window / SMOOTHNESS) ** 2)
        self.kernel = (kernel / kernel.square().sum().sqrt())[None, None]  # keeps the variance

    def draw(self, number: int, batch: int = BATCH) -> tuple[Tensor, Tensor]:
        """Batch `number`: x (batch, CLASSES, FRAMES) and classes (batch, FRAMES)."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        margin = 24 + LONGEST
        noise = torch.randn(batch * CLASSES, 1, FRAMES + 2 * margin, generator=generator)
        x = nn.functional.conv1d(noise, self.kernel).view(batch, CLASSES, -1)
        inner = slice(LONGEST, LONGEST + FRAMES)
        both = [x[:, c].roll(lag, -1) + x[:, c].roll(-lag, -1) for c, lag in enumerate(self.lags)]
        return x[..., inner].contiguous(), torch.stack(both, 1).argmax(1)[:, inner]


Search = LocalSearch | OneShotSearch


def train(model: nn.Module, data: Data, epochs: int, search: Search | None = None) -> None:
    """Adam, with the search's parameter groups."""
    groups = search.parameter_groups() if search else [{"params": list(model.parameters())}]
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE)
    for epoch in range(epochs):
        for step in range(STEPS):
            x, y = data.draw(epoch * STEPS + step)
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if search:
            search.after_step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, number: int) -> float:
    x, y = data.draw(number, 64)
    return 100 * (model(x).argmax(1) == y).double().mean().item()


VALIDATION, TEST = 10**6, 10**6 + 1


def build(seed: int, structure: Structure | None = None) -> Network:
    torch.manual_seed(seed)
    model = Network()
    if structure is not None:
        structure.apply(model)
    return model


Found = tuple[Structure, int]
"""A structure, and the epochs that finding it took."""


def truth(data: Data, found: Entries) -> Found:
    return as_structure(data.lags), 0


def hand_design(data: Data, found: Entries) -> Found:
    return Structure.read(Network(), searched), 0


def tuned_design(data: Data, found: Entries, *, trainings: int) -> Found:
    """Geometric patterns from 1 to a largest dilation, which is chosen on validation; with 16 it is the hand design.

    The candidates share `trainings` trainings.
    """
    largest = powers_of_two(LONGEST + 1)[1:]
    share = trainings * EPOCHS // len(largest)
    scored = []
    for limit in largest:
        structure = as_structure([round(limit ** (c / (CLASSES - 1))) for c in range(CLASSES)])
        model = build(data.seed, structure)
        train(model, data, share)
        scored.append((accuracy(model, data, VALIDATION), structure))
    return max(scored, key=lambda pair: pair[0])[1], share * len(largest)


def local(
    data: Data,
    found: Entries,
    *,
    rule: Rule = "default",
    spread: float = 0.1,
    last_spread: float | None = None,
    branches: int = 3,
    start: str | None = None,
) -> Found:
    """A local search from the hand design, or from what another method found.

    last_spread: the spread shrinks to it, by the same factor every round; None: it stays.
    """
    model = build(data.seed, as_structure(found[start]["dilations"]) if start else None)
    bounds = Bounds(1, LONGEST)
    config = LocalConfig(interval=2, rounds=ROUNDS, spread=spread, branches=branches, bounds=bounds, rule=rule)
    ratio = 1.0 if last_spread is None else last_spread / spread
    shrinking = None if last_spread is None else lambda rounds: spread * ratio ** (rounds / ROUNDS)
    search = LocalSearch(model, config, searched, spread=shrinking)
    train(model, data, EPOCHS, search)
    return search.structure(), EPOCHS + (found[start]["search_epochs"] if start else 0)


@functools.lru_cache(maxsize=1)
def searched_once(data: Data) -> OneShotSearch:
    model = build(data.seed)
    search = OneShotSearch(model, OneShotConfig(powers_of_two(LONGEST + 1), interval=EPOCHS), searched)
    train(model, data, EPOCHS, search)
    return search


def one_shot(data: Data, found: Entries, *, readout: Readout) -> Found:
    """One training, whichever way its probabilities are read out; the method asked first has its seconds."""
    return searched_once(data).structure(readout), EPOCHS


def genetic(
    data: Data,
    found: Entries,
    *,
    population: int,
    generations: int,
    rungs: list[int],
    promoted: float,
    budget: float,
) -> Found:
    """The best structure, and the epochs that were trained for it.

    A structure that is promoted is trained anew, and the epochs count that. Within a generation, though, the budget
    counts only what the higher rung adds, as if the training went on, so that the last one may exceed it.
    """
    config = EvolutionConfig(population, generations, candidates=powers_of_two(LONGEST + 1))
    evolution = Evolution(Structure.read(Network(), searched), config, np.random.default_rng(data.seed))
    epochs = 0

    def evaluate(structure: Structure, rung: int) -> float:
        nonlocal epochs
        epochs += rung
        model = build(data.seed, structure)
        train(model, data, rung)
        return accuracy(model, data, VALIDATION)

    while (asked := evolution.ask()) and epochs + rungs[0] <= budget:
        fitness = halve(asked, rungs, evaluate, promoted=promoted, budget=budget - epochs)
        evolution.tell(Scored(structure, fitness.get(structure)) for structure in asked)
    return evolution.best.structure, epochs


def random_best(data: Data, found: Entries, *, count: int) -> Found:
    """The best of random structures at the budget of one training."""
    evolution = Evolution(
        Structure.read(Network(), searched),
        EvolutionConfig(count, 0, candidates=powers_of_two(LONGEST + 1)),
        np.random.default_rng(data.seed),
    )
    scored = []
    for structure in evolution.ask():
        model = build(data.seed, structure)
        train(model, data, EPOCHS // count)
        scored.append((accuracy(model, data, VALIDATION), structure))
    return max(scored, key=lambda pair: pair[0])[1], EPOCHS


def spaced(data: Data, version: str) -> Network:
    """The network with learnable spacings (Khalfaoui-Hassani et al., ICLR 2023) instead of dilated convs.

    Every tap has a position of its own, up to `LONGEST` from the centre, learnt by gradient; they start where the hand
    design has them.
    """
    from DCLS.construct.modules import Dcls1d

    model = build(data.seed)
    for index, conv in enumerate(cast(list[nn.Conv1d], list(model.reach))):
        torch.manual_seed(data.seed + index)
        dcls = Dcls1d(1, 4, 3, padding=LONGEST, dilated_kernel_size=2 * LONGEST + 1, version=version)
        (dilation,) = conv.dilation
        with torch.no_grad():
            dcls.weight.copy_(conv.weight)
            cast(Tensor, dcls.bias).copy_(cast(Tensor, conv.bias))
            dcls.P.copy_(torch.tensor([-dilation, 0.0, dilation]).expand_as(dcls.P))
        model.reach[index] = dcls
    return model


def learnable_spacings(data: Data, *, factors: list[int], version: str) -> dict[str, Any]:
    """The entry of the network with learnable spacings, its positions' learning rate chosen on validation.

    version: the package's, "gauss" being its default: positions are centres of Gaussians whose widths are learnt too.
    The method `learnable_spacings` of benchmarks/methods.py has the paper's linear interpolation, "v0".
    """
    tried = []
    start = time.perf_counter()
    for factor in factors:
        model = spaced(data, version)
        positions = [conv.P for conv in model.reach]
        others = [p for p in model.parameters() if not any(p is q for q in positions)]
        groups = [{"params": others}, {"params": positions, "lr": LEARNING_RATE * factor}]
        optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE)
        for step in range(EPOCHS * STEPS):
            x, y = data.draw(step)
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        tried.append((accuracy(model, data, VALIDATION), factor, accuracy(model, data, TEST)))
    _, factor, score = max(tried)
    return {
        "dilations": None,
        "position_learning_rate": LEARNING_RATE * factor,
        "search_epochs": (len(factors) - 1) * EPOCHS,
        "search_seconds": round(time.perf_counter() - start, 2),
        "accuracy": round(score, 2),
    }


DCLS = "learnable spacings (DCLS)"

REFINING = {"rule": "default", "spread": 0.1, "branches": 3}

METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "the truth": (truth, {}),
    "hand design": (hand_design, {}),
    "tuned_design": (tuned_design, {"trainings": 2}),
    "random_search": (random_best, {"count": 8}),
    "local, rule paper": (local, {"rule": "paper", "spread": 0.1, "branches": 3}),
    "local": (local, {"rule": "default", "spread": 0.1, "branches": 3}),
    "local, spread 0.5": (local, {"rule": "default", "spread": 0.5, "branches": 3}),
    "local, spread 0.5 to 0.1": (local, {"rule": "default", "spread": 0.5, "last_spread": 0.1, "branches": 3}),
    "local, 5 branches": (local, {"rule": "default", "spread": 0.1, "branches": 5}),
    "local, 5 branches, spread 0.5": (local, {"rule": "default", "spread": 0.5, "branches": 5}),
    "one_shot, log2": (one_shot, {"readout": "log2"}),
    "one_shot, argmax": (one_shot, {"readout": "argmax"}),
    "one_shot_to_local, log2": (local, REFINING | {"start": "one_shot, log2"}),
    "one_shot_to_local, argmax": (local, REFINING | {"start": "one_shot, argmax"}),
    "global_": (
        genetic,
        {"population": 8, "generations": 40, "rungs": [5, 10], "promoted": 0.25, "budget": 6 * EPOCHS},
    ),
    "global_to_local": (local, REFINING | {"start": "global_"}),
    DCLS: (learnable_spacings, {"factors": [1, 10, 100], "version": "gauss"}),
}
"""Name -> what finds a structure, and its settings. Some start from what one before them found."""


def as_structure(dilations: list[int]) -> Structure:
    return Structure({f"reach.{c}": (d,) for c, d in enumerate(dilations)})


def run(seed: int, known: dict[str, Any], here: str | None) -> dict[str, Any]:
    """All methods on one set of lags, and the truth itself.

    Args:
        seed: of the lags, the data and the networks.
        known: the seed's record of before, or an empty one. Entries of other settings are computed anew, and so are
            those that start from such a one.
        here: the commit that entries which are computed now get.
    """
    data = Data(seed)
    kept = known.get("methods", {}) if known.get("settings") == SHARED else {}
    found: Entries = {}
    anew = set()
    for name, (method, settings) in METHODS.items():
        entry = kept.get(name, {})
        if entry.get("settings") == settings and settings.get("start") not in anew:
            found[name] = entry
            continue
        anew.add(name)
        if name == DCLS:
            entry = method(data, **settings)
        else:
            start = time.perf_counter()
            structure, epochs = method(data, found, **settings)
            seconds = time.perf_counter() - start
            model = build(seed, structure)
            train(model, data, EPOCHS)
            entry = {
                "dilations": [d for (d,) in structure.values()],
                "search_epochs": epochs,
                "search_seconds": round(seconds, 2),
                "accuracy": round(accuracy(model, data, TEST), 2),
            }
        log.info("seed %d, %s: %s, lags %s", seed, name, entry, data.lags)
        packages = {package: version for package, version in versions().items() if package in PACKAGES}
        found[name] = entry | {"settings": settings, "commit": here, "versions": packages}
    return {"seed": seed, "lags": data.lags, "settings": SHARED, "methods": found}


def near(found: int, lag: int) -> bool:
    """Within a tenth of the lag, or one step."""
    return abs(found - lag) <= max(1, 0.1 * lag)


def table(records: list[dict]) -> str:
    """Markdown: how many layers each method put at their lag, and what the retrained network scores."""
    lines = [
        f"Planted lags, {len(records)} seeds x {CLASSES} layers. near: within a tenth of the lag or one step. "
        "log2 error: mean of |log2(dilation / lag)|. Mean ± 95 % interval over seeds. The budget of global_ is "
        f"{METHODS['global_'][1]['budget']} epochs, without those that its last generation repeats.",
        "",
        "| method | near (%) ↑ | log2 error ↓ | accuracy retrained (%) ↑ | minus hand design | minus tuned_design "
        "| search epochs |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in records[0]["methods"]:
        rows = [r["methods"][name] for r in records]
        hits, errors = [], []
        for row, r in zip(rows, records, strict=True):
            pairs = list(zip(row["dilations"] or [], r["lags"], strict=False))
            if pairs:
                hits.append(100 * statistics.fmean(near(d, lag) for d, lag in pairs))
                errors.append(statistics.fmean(abs(math.log2(d / lag)) for d, lag in pairs))
        scores = [row["accuracy"] for row in rows]
        gains = []
        for reference in ("hand design", "tuned_design"):
            base = [r["methods"][reference]["accuracy"] for r in records]
            gains.append(_interval([score - other for score, other in zip(scores, base, strict=True)], 1))
        epochs = statistics.fmean(row["search_epochs"] for row in rows)
        found = [_interval(hits, 0), _interval(errors, 2)] if hits else ["–", "–"]
        cells = [*found, _interval(scores, 1), *gains, f"{epochs:.0f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(values: list[float], decimals: int) -> str:
    found = estimate({(seed, 0): value for seed, value in enumerate(values)})
    assert found is not None
    half = "" if found.half_width is None else f" ± {found.half_width:.{decimals}f}"
    return f"{found.mean:.{decimals}f}{half}"


def main() -> int:
    """Command line."""
    options = tyro.cli(Options, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rfnext").setLevel(logging.WARNING)  # else every round of every search
    torch.set_num_threads(1)
    records, here = [], commit()
    with pin_implementation("taps"):  # equal runs give equal bits
        for seed in range(options.seeds):
            path = options.results / f"seed{seed}.json"
            known = json.loads(path.read_text("utf-8")) if path.exists() else {}
            record = run(seed, known, here)
            if record != known:
                write_text(path, json.dumps(record, indent=1))
            records.append(record)
    text = table(records)
    write_text(options.results / "table.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
