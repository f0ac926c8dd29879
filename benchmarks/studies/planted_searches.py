"""The searches of the planted task: each returns the structure that it found and the epochs that this took."""

import functools
import time
from typing import Any, TypedDict, Unpack, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.studies.planted_task import (
    CLASSES,
    EPOCHS,
    LEARNING_RATE,
    LONGEST,
    ROUNDS,
    STEPS,
    TEST,
    VALIDATION,
    Data,
    Network,
    accuracy,
    as_structure,
    build,
    searched,
    train,
)
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
from rfnext.search.one_shot import Readout

Entries = dict[str, dict[str, Any]]
"""Method -> what it found, by which settings, commit and packages."""

Found = tuple[Structure, int]
"""A structure, and the epochs that finding it took."""


def truth(data: Data, found: Entries) -> Found:
    """The lags themselves."""
    return as_structure(data.lags), 0


def hand_design(data: Data, found: Entries) -> Found:
    """What the network has before any search."""
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


def local(data: Data, found: Entries, *, rule: Rule, spread: float, branches: int, start: str | None = None) -> Found:
    """A local search from the hand design, or from what the method `start` found."""
    model = build(data.seed, as_structure(found[start]["dilations"]) if start else None)
    bounds = Bounds(1, LONGEST)
    config = LocalConfig(interval=2, rounds=ROUNDS, spread=spread, branches=branches, bounds=bounds, rule=rule)
    search = LocalSearch(model, config, searched)
    train(model, data, EPOCHS, search)
    return search.structure(), EPOCHS + (found[start]["search_epochs"] if start else 0)


@functools.lru_cache(maxsize=1)
def searched_once(data: Data) -> OneShotSearch:
    """The one training of the one-shot search."""
    model = build(data.seed)
    search = OneShotSearch(model, OneShotConfig(powers_of_two(LONGEST + 1), interval=EPOCHS), searched)
    train(model, data, EPOCHS, search)
    return search


def one_shot(data: Data, found: Entries, *, readout: Readout) -> Found:
    """One training for all ways to read its probabilities out; the method that comes first has its seconds."""
    return searched_once(data).structure(readout), EPOCHS


class Genetic(TypedDict):
    """Settings of a genetic search.

    rungs: epochs of a training on each rung of the halving. promoted: share that goes on to the next rung. budget: in
        epochs.
    """

    population: int
    generations: int
    rungs: list[int]
    promoted: float
    budget: float


def genetic(data: Data, found: Entries, **settings: Unpack[Genetic]) -> Found:
    """The best structure, and the epochs that were trained for it.

    A structure that is promoted is trained anew, and the epochs count that. Within a generation, though, the budget
    counts only what the higher rung adds, as if the training went on, so that the last generation may exceed it.
    """
    rungs, budget = settings["rungs"], settings["budget"]
    config = EvolutionConfig(settings["population"], settings["generations"], candidates=powers_of_two(LONGEST + 1))
    evolution = Evolution(Structure.read(Network(), searched), config, np.random.default_rng(data.seed))
    epochs = 0

    def evaluate(structure: Structure, rung: int) -> float:
        nonlocal epochs
        epochs += rung
        model = build(data.seed, structure)
        train(model, data, rung)
        return accuracy(model, data, VALIDATION)

    while (asked := evolution.ask()) and epochs + rungs[0] <= budget:
        fitness = halve(asked, rungs, evaluate, promoted=settings["promoted"], budget=budget - epochs)
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

    Every tap has a position of its own, up to `LONGEST` from the centre, learnt by gradient. Positions start where the
    hand design has them.
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
    """The entry of the network with learnable spacings.

    Args:
        data: the planted task.
        factors: the positions' learning rate over the network's; one is chosen on validation.
        version: the package's. With "gauss", its default, positions are centres of Gaussians whose widths are learnt
            too. The suite's method `learnable_spacings` has the paper's linear interpolation, "v0".
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
