"""The searches that methods start from: local, one-shot, genetic, random, and the tuned hand design.

Each takes a job and returns what it `Found`, judged by the validation part alone.
"""

import dataclasses
import functools
import json
import logging
import math
import operator
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.record import Cost, fingerprint
from benchmarks.training import LAST, Found, Job, Trained, as_lists, build, fit, load_selected, save_network, stored
from rfnext import (
    Evolution,
    EvolutionConfig,
    LocalConfig,
    LocalSearch,
    OneShotConfig,
    OneShotSearch,
    Round,
    Scored,
    Structure,
    halve,
    powers_of_two,
)
from rfnext.atomic import write_text
from rfnext.one_shot import Readout
from tasks.spec import Metric, Split, Task

log = logging.getLogger(__name__)


def local_search(job: Job, start: Found | None = None) -> Found:
    """The local search of the cell's (task, preset, fold, seed), from the hand design or from what was found before."""

    def search(folder: Path) -> Found:
        model = build(job)
        if start is not None:
            start.structure.apply(model)
        search = LocalSearch(model, job.config.search, job.task.where)
        trained = fit(job, model, folder, search=search)
        structure = search.structure()
        history = [
            *(start.history if start else []),
            {"step": 0, "structure": as_lists(search.initial)},
            *map(_round, search.history),
            {"step": search.step, "structure": as_lists(structure)},
        ]
        save_network(model, folder)
        cost = trained.cost if start is None else start.cost + trained.cost
        return Found(folder, cost, trained.resumed, structure, history)

    name = "local_search" if start is None else f"{start.folder.parent.name}_to_local"
    return stored(job, name, {} if start is None else {"start": as_lists(start.structure)}, search)


def one_shot_search(job: Job, *, readout: Readout, learning_rate: float, sharpen: float, warmup: float) -> Found:
    """The one-shot search of the cell's (task, preset, fold, seed): one training."""
    settings = {
        "readout": readout,
        "learning_rate": learning_rate,
        "sharpen": sharpen,
        "warmup": warmup,
        "candidates": candidates(job),
    }

    def search(folder: Path) -> Found:
        model = build(job)
        epochs = job.config.epochs
        config = OneShotConfig(
            candidates=candidates(job),
            readout=readout,
            learning_rate=learning_rate,
            sharpen=sharpen,
            warmup=round(warmup * epochs),
            interval=max(1, epochs // 8),
        )
        search = OneShotSearch(model, config, job.task.where)
        trained = fit(job, model, folder, search=search, settings=settings)
        structure = search.structure()
        history = [{"step": seen.step, "structure": as_lists(seen.structure)} for seen in search.history]
        history.append({"step": search.step, "structure": as_lists(structure), "probability": _shares(search)})
        save_network(model, folder)
        return Found(folder, trained.cost, trained.resumed, structure, history)

    return stored(job, "one_shot", settings, search)


def genetic_search(
    job: Job, *, population: int, generations: int, rungs: tuple[float, ...], promoted: float, budget: float
) -> Found:
    """The genetic search of the cell's (task, preset, fold, seed), within a budget of `budget` trainings.

    Every generation's new structures are trained for the first rung's epochs; the best share of them goes on, from
    its checkpoints, to the next. Evaluations are kept on disk as they end: an interrupted search loses none.
    """
    settings = {
        "population": population,
        "generations": generations,
        "rungs": rungs,
        "promoted": promoted,
        "budget": budget,
        "candidates": candidates(job),
    }
    epochs = [max(1, round(share * job.config.epochs)) for share in rungs]
    allowed = round(budget * job.config.epochs)

    def search(folder: Path) -> Found:
        template = Structure.read(build(job), job.task.where)
        config = EvolutionConfig(population=population, generations=generations, candidates=candidates(job))
        evolution = Evolution(template, config, np.random.default_rng([job.cell.seed, job.cell.fold]))
        evaluations = Evaluations(job, folder, settings)
        log.info(
            "%s: genetic search within %d epochs (%g trainings), rungs of %s epochs", job.cell, allowed, budget, epochs
        )
        history = []
        while (asked := evolution.ask()) and evaluations.epochs + epochs[0] <= allowed:
            # What the budget does not cover any more counts as failed, which costs nothing and wins nothing.
            results = halve(asked, epochs, evaluations, promoted=promoted, budget=allowed - evaluations.epochs)
            evolution.tell(Scored(structure, results.get(structure)) for structure in asked)
            if not any(value is not None for value in results.values()):
                continue  # ask() says so if all failed
            best = evolution.best
            log.info("%s: generation %d, best %.2f", job.cell, evolution.generation, best.fitness)
            history.append({"step": evaluations.epochs, "structure": as_lists(best.structure), "fitness": best.fitness})
        return Found(folder, evaluations.cost(), evaluations.resumed, evolution.best.structure, history)

    return stored(job, "genetic", settings, search)


class Evaluations:
    """Trains and validates structures for a number of epochs; each continues where it stopped before.

    epochs: trained so far, by this process or one that was interrupted.
    resumed: whether some were found on disk.
    """

    def __init__(self, job: Job, folder: Path, settings: Mapping[str, Any]) -> None:
        self.job, self.folder, self.settings = job, folder, settings
        self.epochs, self.resumed = 0, False
        self._costs: list[Cost] = []
        self._reached: dict[Structure, int] = {}

    def __call__(self, structure: Structure, epochs: int) -> float | None:
        """Fitness on the validation part after `epochs` epochs in all; None if the training diverged."""
        key = fingerprint({"structure": as_lists(structure), "protocol": self.job.protocol(), **self.settings})
        folder = self.folder / f"candidate-{key}"
        path = folder.with_name(f"{folder.name}-{epochs}.json")
        before = self._reached.get(structure, 0)
        self.epochs += epochs - before
        self._reached[structure] = epochs
        if path.exists():
            self.resumed = True
            known = json.loads(path.read_text("utf-8"))
            self._costs.append(Cost(**known["cost"]))
            return known["fitness"]
        job = dataclasses.replace(self.job, resume=True)
        config = dataclasses.replace(job.config, epochs=epochs)
        model = build(job)
        structure.apply(model)
        trained = fit(job, model, folder, config=config, settings=self.settings, goes_on=True)
        cost = dataclasses.replace(trained.cost, epochs=epochs - before)
        load_selected(model, folder)
        metric = job.task.metrics_of(job.config)[0]
        value = job.task.evaluate(model, config, Split("validation", job.cell.fold))[metric.name]
        fitness = as_fitness(value, metric)
        self._costs.append(cost)
        write_text(path, json.dumps({"fitness": fitness, "cost": dataclasses.asdict(cost)}))
        return fitness

    def cost(self) -> Cost:
        """Of all evaluations."""
        return functools.reduce(operator.add, self._costs, Cost())


def as_fitness(value: float, metric: Metric) -> float | None:
    """A metric as what `Evolution` maximises, a number >= 0: itself, or 100 / (1 + value) where lower is better.

    None if it is not finite.
    """
    if not math.isfinite(value):
        return None
    return max(0.0, value) if metric.higher_is_better else 100 / (1 + max(0.0, value))


def searched_network(job: Job, found: Found) -> nn.Module:
    """The network of a local search as its last epoch left it, on the CPU."""
    model = build(job)
    LocalSearch(model, job.config.search, job.task.where)
    model.load_state_dict(torch.load(found.folder / LAST, map_location="cpu", weights_only=True))
    return model


def draw_and_rank(job: Job, count: int) -> Found:
    """Train random structures briefly and take the one that is best on the validation part.

    The budget is that of a local search: `config.epochs` epochs, divided among the candidates.
    """
    rng = np.random.default_rng([job.cell.seed, job.cell.fold])
    model = build(job)
    structures = [draw_structure(model, job.task, job.config.search, rng) for _ in range(min(count, job.config.epochs))]
    return train_and_rank(job, structures, job.config.epochs)


def train_and_rank(job: Job, structures: Sequence[Structure], epochs: int) -> Found:
    """Train each structure for an equal share of `epochs` and take the one that is best on the validation part."""
    short = dataclasses.replace(job.config, epochs=max(1, epochs // len(structures)))
    ranking = job.task.metrics_of(job.config)[0]
    tried: list[tuple[float, Structure, Trained]] = []
    history: list[dict[str, Any]] = []
    start = time.perf_counter()
    for number, structure in enumerate(structures):
        model = build(job)
        structure.apply(model)
        trained = fit(job, model, job.folder(f"candidate{number}"), config=short)
        load_selected(model, trained.folder)
        value = job.task.evaluate(model, short, Split("validation", job.cell.fold))[ranking.name]
        finite = math.isfinite(value)  # a candidate that diverged loses; if all do, the full training shows it
        tried.append(((value if ranking.higher_is_better else -value) if finite else -math.inf, structure, trained))
        validation = {ranking.name: value if finite else None}
        history.append({"step": number, "structure": as_lists(structure), "validation": validation})
    _, best, trained = max(tried, key=lambda candidate: candidate[0])
    cost = functools.reduce(operator.add, (candidate.cost for _, _, candidate in tried))
    cost = dataclasses.replace(cost, seconds=time.perf_counter() - start)
    return Found(trained.folder, cost, any(candidate.resumed for _, _, candidate in tried), best, history)


def candidates(job: Job) -> tuple[int, ...]:
    """The powers of two that a global search chooses from.

    They are shorter than the longest input, since a longer one reads nothing but padding, and within the bounds of
    the config's search.
    """
    bounds = job.config.search.bounds
    limits = [limit for limit in (job.task.longest_input(job.config) if job.task.longest_input else None,) if limit]
    if bounds.max is not None:
        limits.append(bounds.max + 1)
    return tuple(d for d in powers_of_two(min(limits, default=1025)) if bounds.clip(d) == d)


def capped_design(model: nn.Module, task: Task[Any], limit: int) -> Structure:
    """The hand design with dilations up to `limit`: 1, 2, 4, ... `limit`, 1, 2, ... instead of ever longer ones.

    A network whose dilations are all 1, as most 2-d ones, gets `limit` in every conv. Axes whose kernel is 1 or even
    keep their dilation.
    """
    designed = Structure.read(model, task.where)
    grows = any(d > 1 for dilation in designed.values() for d in dilation)
    powers = limit.bit_length()

    def capped(d: int) -> int:
        return 2 ** ((d.bit_length() - 1) % powers) if grows else limit

    return Structure(
        {
            name: tuple(capped(d) if k > 1 and k % 2 else d for k, d in zip(conv.kernel_size, dilation, strict=True))
            for name, conv, dilation in designed.match(model)
        }
    )


def draw_structure(model: nn.Module, task: Task[Any], config: LocalConfig, rng: np.random.Generator) -> Structure:
    """A structure with every searched axis drawn uniformly from the powers of two.

    The powers run up to the network's largest hand-designed dilation (or, where that is 1, up to the search's
    upper bound) and stay within the search's bounds. Axes whose kernel is 1 or even keep their dilation.

    Raises ValueError if no power of two is left to draw.
    """
    designed = Structure.read(model, task.where)
    largest = max(max(dilation) for dilation in designed.values())
    limit = largest if largest > 1 else (config.bounds.max or 1)
    powers = [2**k for k in range(limit.bit_length()) if config.bounds.clip(2**k) == 2**k]
    if not powers:
        raise ValueError(f"no power of two up to {limit} lies within the search's {config.bounds}")
    return Structure(
        {
            name: tuple(
                int(rng.choice(powers)) if k > 1 and k % 2 else d
                for k, d in zip(conv.kernel_size, dilation, strict=True)
            )
            for name, conv, dilation in designed.match(model)
        }
    )


def _shares(search: OneShotSearch) -> dict[str, list[float]]:
    return {name: [round(p, 4) for p in share] for name, share in search.probability().items()}


def _round(seen: Round) -> dict[str, Any]:
    """A round as JSON values; branches: layer -> (dilation, share) of each, before the round."""
    branches = {
        name: [[list(dilation), round(share, 4)] for dilation, share in zip(dilations, shares, strict=True)]
        for (name, dilations), shares in zip(seen.dilations.items(), seen.probability.values(), strict=True)
    }
    return {"step": seen.step, "structure": as_lists(seen.structure), "branches": branches}
