"""Successive halving: train many structures a little, and only the best of them longer.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization", AISTATS 2016. A
structure that is promoted continues its training, so nothing is trained twice.
"""

import builtins
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rfnext.structure import Structure

Train = Callable[[Structure, int], float | None]
"""Trains a structure until it has had that many epochs in all, continuing what it had before, and returns its
fitness, higher being better; None, or a number that is not finite, if that failed."""


@dataclass(frozen=True)
class Rung:
    """What every structure of a rung gets: training until it has had `epochs` in all. Pickled with its `train`."""

    train: Train
    epochs: int

    def __call__(self, structure: Structure) -> float | None:
        return self.train(structure, self.epochs)


Map = Callable[[Rung, Sequence[Structure]], Iterable[float | None]]
"""Calls a rung with each structure, in any place, and returns the values in the order of the structures."""


def halve(
    structures: Iterable[Structure],
    rungs: Sequence[int],
    train: Train,
    *,
    promoted: float = 1 / 3,
    budget: float = math.inf,
    map: Map = builtins.map,
) -> dict[Structure, float | None]:
    """Successive halving: train all structures a little, and the best share of each rung longer.

    (Jamieson and Talwalkar, AISTATS 2016.) Returns the fitness of every structure at the last rung that it reached.

        fitness = halve(evolution.ask(), rungs=[5, 15], train=train)
        evolution.tell(Scored(structure, value) for structure, value in fitness.items())

    Which structures a rung trains is decided before it starts, so the result does not depend on where and when they are
    trained: `map=multiprocessing.Pool().map` (or Ray's, `ray.util.multiprocessing.Pool().map`) does it in parallel.

    Args:
        structures: what to rank; duplicates are trained once.
        rungs: epochs in all at each rung, increasing.
        train: see `Train`.
        promoted: share of each rung's structures that is promoted to the next, rounded up.
        budget: epochs that may be spent; a training that would exceed it is not begun. A structure that was never
            trained has no entry in the result.
        map: runs a rung's trainings: the built-in `map`, or a function that works like it.

    Raises:
        ValueError: if rungs do not increase from at least 1, or `promoted` is not in (0, 1].
    """
    if not rungs or rungs[0] < 1 or any(a >= b for a, b in itertools.pairwise(rungs)):
        raise ValueError(f"rungs {list(rungs)} do not increase from at least 1 epoch")
    if not 0 < promoted <= 1:
        raise ValueError(f"promoted is {promoted}; a share lies in (0, 1]")
    costs = [rung - before for before, rung in itertools.pairwise((0, *rungs))]
    fitness: dict[Structure, float | None] = {}
    going = list(dict.fromkeys(structures))
    for rung, cost in zip(rungs, costs, strict=True):
        affordable = going[: int(min(len(going), max(0, budget) / cost))]
        if not affordable:
            break
        budget -= len(affordable) * cost
        scored = []
        for structure, value in zip(affordable, map(Rung(train, rung), affordable), strict=True):
            value = value if value is not None and math.isfinite(value) else None  # NaN would spoil the order
            # One that fails later on keeps what it had: it was a valid result of the shorter training.
            if value is not None or structure not in fitness:
                fitness[structure] = value
            if value is not None:
                scored.append((value, structure))
        scored.sort(key=lambda pair: pair[0], reverse=True)
        going = [structure for _, structure in scored[: math.ceil(promoted * len(going))]]
    return fitness
