"""Candidates of a search: built, trained and judged on the validation part, one after another or side by side."""

import dataclasses
import functools
import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from benchmarks.cell import Cell
from benchmarks.methods.method import Found, Trained
from benchmarks.methods.searching import Searching
from benchmarks.methods.training import Training, as_lists, build, fit, load_selected
from benchmarks.records.record import Cost
from benchmarks.running.pool import Pool, run_for_cell
from rfnext import Structure, Where, powers_of_two
from rfnext.dilation import searched_axis
from tasks.spec import Metric, Split

Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class Tried:
    """A network that was trained briefly.

    trained: seconds of its cost are those of all that was done with it. value: what it is ranked by, higher is better.
    validation: the metric behind it; None where that is not finite. about: what `Briefly.describe` says of it.
    """

    trained: Trained
    validation: dict[str, float | None]
    value: float
    about: Any = None


@dataclass(frozen=True)
class Briefly:
    """Builds the network of a numbered candidate, trains it for some epochs and judges it on the validation part.

    network: (cell, candidate) -> the network. describe: what else to say of the trained network.
    """

    network: Callable[[Cell, Any], nn.Module]
    epochs: int
    describe: Callable[[nn.Module], Any] | None = None
    needs_shared_folder: bool = True

    def __call__(self, cell: Cell, numbered: tuple[int, Any]) -> Tried:
        number, candidate = numbered
        start = time.perf_counter()
        model = self.network(cell, candidate)
        training = Training(cell.work / f"candidate{number}", self.epochs, cell.method.settings)
        trained = fit(cell, model, training)
        metric, value = judge(cell, model, training)
        finite = math.isfinite(
            value
        )  # a candidate that diverged is never the best; if all diverge, the full training shows it
        signed = (value if metric.higher_is_better else -value) if finite else -math.inf
        cost = trained.cost.model_copy(update={"seconds": time.perf_counter() - start})
        about = self.describe(model) if self.describe else None
        return Tried(dataclasses.replace(trained, cost=cost), {metric.name: value if finite else None}, signed, about)

    def log(self, cell: Cell, numbered: tuple[int, Any]) -> Path:
        """Of a worker that trains the candidate."""
        return cell.work / f"candidate{numbered[0]}.txt"


def judge(cell: Cell, model: nn.Module, training: Training) -> tuple[Metric, float]:
    """The metric that drives searches, and its value on the validation part at the training's selected epoch."""
    load_selected(model, training.folder)
    config = dataclasses.replace(cell.config, epochs=training.epochs or cell.config.epochs)
    metric = cell.task.metrics_of(cell.config)[0]
    return metric, cell.task.evaluate(model, config, Split("validation", cell.fold))[metric.name]


def rank(cell: Cell, pool: Pool, work: Briefly, candidates: Sequence[Any]) -> tuple[list[Tried], Cost]:
    """Train and judge every candidate; seconds add up, also of trainings that ran side by side.

    Returns:
        What became of each candidate, in their order, and what all cost.

    Raises:
        NotShared, WorkerDied, or what a candidate's training raises, once all others have ended.
    """
    tried = [future.result() for future in run_for_cell(pool, work, cell, enumerate(candidates))]
    return tried, functools.reduce(operator.add, (one.trained.cost for one in tried))


def best_structure(job: Searching, structures: Sequence[Structure], epochs: int) -> Found:
    """Train each structure for an equal share of `epochs` and take the one that is best on the validation part."""
    work = Briefly(structured, max(1, epochs // len(structures)))
    tried, cost = rank(job.cell, job.pool, work, structures)
    history = [
        {"step": number, "structure": as_lists(structure), "validation": one.validation}
        for number, (structure, one) in enumerate(zip(structures, tried, strict=True))
    ]
    best = tried.index(max(tried, key=lambda one: one.value))
    resumed = any(one.trained.resumed for one in tried)
    return Found(tried[best].trained.folder, cost, resumed, structures[best], history)


def structured(cell: Cell, structure: Structure) -> nn.Module:
    """The cell's network with a structure of plain convs."""
    model = build(cell)
    structure.apply(model)
    return model


def redesigned(model: nn.Module, where: Where, change: Callable[[int], int]) -> Structure:
    """The network's design with another dilation on every searched axis: change(d) for d, drawn or computed in order.

    Axes whose kernel is 1 or even keep their dilation.
    """
    return Structure(
        {
            name: tuple(change(d) if searched_axis(k) else d for k, d in zip(conv.kernel_size, dilation, strict=True))
            for name, conv, dilation in Structure.read(model, where).match(model)
        }
    )


def powers(cell: Cell) -> tuple[int, ...]:
    """The powers of two that some searches choose from (`SearchStage.powers`).

    They are shorter than the longest input, since a longer one reads nothing but padding, and within the bounds of the
    config's search.
    """
    task, bounds = cell.task, cell.config.search.bounds
    limits = [limit for limit in (task.longest_input(cell.config) if task.longest_input else None,) if limit]
    if bounds.max is not None:
        limits.append(bounds.max + 1)
    return tuple(d for d in powers_of_two(min(limits, default=1025)) if bounds.clip(d) == d)


def as_fitness(value: float, metric: Metric) -> float | None:
    """A metric as what `Evolution` maximises, a number >= 0: itself, or 100 / (1 + value) where lower is better.

    None if it is not finite.
    """
    if not math.isfinite(value):
        return None
    return max(0.0, value) if metric.higher_is_better else 100 / (1 + max(0.0, value))
