"""The searches that methods start from: local, one-shot, genetic, random, and the tuned hand design.

Each takes a job and returns what it `Found`, judged by the validation part alone.
"""

import dataclasses
import functools
import logging
import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.evaluations import CostMeasure, Evaluations
from benchmarks.record import Cost, computing_device, describe_device, read_all
from benchmarks.training import (
    FOUND,
    LAST,
    Found,
    Job,
    Trained,
    as_lists,
    build,
    fit,
    load_selected,
    save_network,
    stored,
)
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
from rfnext.one_shot import Readout
from tasks.spec import ProbabilityBatches, Split, Task

log = logging.getLogger(__name__)


def local_search(
    job: Job,
    start: Found | None = None,
    *,
    shrink: float | None = None,
    branches: int | None = None,
    probability_batches: ProbabilityBatches = "train",
) -> Found:
    """The local search of the cell's (task, preset, fold, seed), from the hand design or from what was found before.

    Args:
        job: its config has the settings of the search.
        start: what was found before.
        shrink: let the spread shrink by equal factors from round to round, to this share of the config's at the last.
        branches: dilations per conv, instead of the config's.
        probability_batches: see `tasks.spec.Run`.
    """
    changed: dict[str, Any] = {"shrink": shrink} if shrink is not None else {}
    changed |= {"branches": branches} if branches is not None else {}
    changed |= {"held_out": True} if probability_batches == "held_out" else {}
    config = job.config.search if branches is None else dataclasses.replace(job.config.search, branches=branches)

    def shrinking(done: int) -> float:
        return config.spread * (shrink or 1) ** (done / max(1, config.rounds))

    def search(folder: Path) -> Found:
        model = build(job)
        if start is not None:
            start.structure.apply(model)
        search = LocalSearch(model, config, job.task.where, spread=None if shrink is None else shrinking)
        trained = fit(job, model, folder, search=search, settings=changed, probability_batches=probability_batches)
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
    name = "_".join(
        [name, *(setting if value is True else f"{setting}{value:g}" for setting, value in changed.items())]
    )
    return stored(job, name, changed | ({} if start is None else {"start": as_lists(start.structure)}), search)


def one_shot_search(
    job: Job,
    *,
    readout: Readout,
    learning_rate: float,
    sharpen: float,
    warmup: float,
    probability_batches: ProbabilityBatches = "train",
) -> Found:
    """The one-shot search of the cell's (task, preset, fold, seed): one training."""
    settings = {
        "readout": readout,
        "learning_rate": learning_rate,
        "sharpen": sharpen,
        "warmup": warmup,
        "candidates": candidates(job),
    }
    held_out = probability_batches == "held_out"
    settings |= {"held_out": True} if held_out else {}

    def search(folder: Path) -> Found:
        model = build(job)
        search = OneShotSearch(model, one_shot_config(job, readout, learning_rate, sharpen, warmup), job.task.where)
        trained = fit(job, model, folder, search=search, settings=settings, probability_batches=probability_batches)
        structure = search.structure()
        history = [{"step": seen.step, "structure": as_lists(seen.structure)} for seen in search.history]
        history.append({"step": search.step, "structure": as_lists(structure), "probability": _shares(search)})
        save_network(model, folder)
        return Found(folder, trained.cost, trained.resumed, structure, history)

    return stored(job, "one_shot_held_out" if held_out else "one_shot", settings, search)


def one_shot_config(job: Job, readout: Readout, learning_rate: float, sharpen: float, warmup: float) -> OneShotConfig:
    """The settings of a one-shot search over the job's candidates, counted in its epochs; warmup is a share of them."""
    return OneShotConfig(
        candidates=candidates(job),
        readout=readout,
        learning_rate=learning_rate,
        sharpen=sharpen,
        warmup=round(warmup * job.config.epochs),
        interval=max(1, job.config.epochs // 8),
    )


def sample_and_rank(job: Job, count: int, **settings: Any) -> Found:
    """A one-shot search read out by ranking: what it means by either readout, and structures drawn from it.

    `count` different ones (fewer if the probabilities leave fewer) are trained for an equal share of `config.epochs`
    and judged on the validation part; the search itself is that of `one_shot_search` by the same settings.
    """
    found = one_shot_search(job, **settings)
    model = build(job)
    search = OneShotSearch(model, one_shot_config(job, **settings), job.task.where)
    model.load_state_dict(torch.load(found.folder / LAST, map_location="cpu", weights_only=True))
    rng = np.random.default_rng([job.cell.seed, job.cell.fold])
    count = min(count, job.config.epochs)
    distinct = dict.fromkeys((search.structure("log2"), search.structure("argmax")))
    for _ in range(100 * count):  # confident probabilities repeat themselves
        if len(distinct) >= count:
            break
        distinct.setdefault(search.sample(rng))
    ranked = train_and_rank(job, list(distinct)[:count], job.config.epochs)
    cost, history = found.cost + ranked.cost, [*found.history, *ranked.history]
    return Found(ranked.folder, cost, found.resumed or ranked.resumed, ranked.structure, history)


def genetic_search(
    job: Job,
    *,
    population: int,
    generations: int,
    rungs: tuple[float, ...],
    promoted: float,
    budget: float,
    cost: CostMeasure | None = None,
    tolerance: float = 0.0,
) -> Found:
    """The genetic search of the cell's (task, preset, fold, seed), within a budget of `budget` trainings.

    Every generation's new structures are trained for the first rung's epochs; the best share of them goes on, from
    its checkpoints, to the next. Evaluations are kept on disk as they end: an interrupted search loses none.

    Args:
        cost: search for the best fitness at every cost instead (`EvolutionConfig.objectives`). What is found then is
            the cheapest structure that is at most `tolerance` less fit than the fittest; the last entry of the history
            holds the whole front.
        tolerance: in units of the fitness, see `as_fitness`.

    Raises:
        ValueError: if there is nothing to measure the latency of.
        RuntimeError: if all evaluations of the first generation failed. If all of a later one fail, the search ends
            there with what it has found, and a warning says so.
        NotShared, NoWorkerLeft: if workers do not see the results folder, or there is none any more.
    """
    settings: dict[str, Any] = {
        "population": population,
        "generations": generations,
        "rungs": rungs,
        "promoted": promoted,
        "budget": budget,
        "candidates": candidates(job),
    }
    if cost is not None:
        settings |= {"cost": cost, "tolerance": tolerance}
        if job.task.probe is None:
            raise ValueError(f"the latency of {job.task.name}'s networks cannot be measured: the task has no `probe`")
    epochs = sorted({max(1, round(share * job.config.epochs)) for share in rungs})  # short trainings have fewer
    allowed = round(budget * job.config.epochs)

    def search(folder: Path) -> Found:
        template = Structure.read(build(job), job.task.where)
        config = EvolutionConfig(
            population=population,
            generations=generations,
            candidates=candidates(job),
            objectives="fitness" if cost is None else "pareto",
        )
        evolution = Evolution(template, config, np.random.default_rng([job.cell.seed, job.cell.fold]))
        evaluations = Evaluations(job, folder, settings, cost)
        _announce(job, allowed, epochs, evaluations.workers)
        history = []
        while (asked := _ask(evolution, evaluations, folder)) and evaluations.epochs + epochs[0] <= allowed:
            # What the budget does not cover any more counts as failed, which costs nothing and wins nothing.
            left = allowed - evaluations.epochs
            results = halve(asked, epochs, evaluations, promoted=promoted, budget=left, map=evaluations.map)
            evolution.tell(
                Scored(s, results.get(s), evaluations.found(s).cost if results.get(s) is not None else None)
                for s in asked
            )
            if not any(value is not None for value in results.values()):
                continue  # _ask() says so
            best, spent = evolution.best, evaluations.cost()
            left = (allowed - spent.epochs) * spent.seconds / spent.epochs / evaluations.workers
            log.info(
                "%s: generation %d, best %.2f; %d of %d epochs, the others take about %.2g hours",
                *(job.cell, evolution.generation, best.fitness, spent.epochs, allowed, left / 3600),
            )
            history.append({"step": evaluations.epochs, "structure": as_lists(best.structure), "fitness": best.fitness})
        chosen = evolution.best
        if cost is not None:
            front, fittest = evolution.front, chosen.fitness or 0.0
            chosen = next(result for result in front if (result.fitness or 0.0) >= fittest - tolerance)
            history.append(
                {
                    "step": evaluations.epochs,
                    "structure": as_lists(chosen.structure),
                    "fitness": chosen.fitness,
                    "front": [{"structure": as_lists(r.structure), "fitness": r.fitness, cost: r.cost} for r in front],
                }
            )
        return Found(folder, evaluations.cost(), evaluations.resumed, chosen.structure, history)

    return stored(job, "genetic" if cost is None else "genetic_pareto", settings, search)


def _ask(evolution: Evolution, evaluations: Evaluations, folder: Path) -> list[Structure]:
    """What to evaluate next; nothing if all evaluations of a generation failed and an earlier one had results."""
    try:
        return evolution.ask()
    except RuntimeError as error:
        generation, cause = evolution.generation, evaluations.error
        reason = f"all evaluations of generation {generation} failed, the last one by {type(cause).__name__}: {cause}"
        if generation == 0:
            mend = "mend what made them fail and run it again: they are then trained anew"
            raise RuntimeError(f"{reason}; {mend}") from (cause or error)
        log.warning(
            "%s: %s; the search ends with the best of the generations before. To search on once that is mended, delete "
            "%s and the records that start from it, and run it again",
            *(evaluations.job.cell, reason, folder / FOUND),
        )
        return []


def _announce(job: Job, allowed: int, rungs: Sequence[int], workers: int) -> None:
    """Log the budget of a genetic search, in epochs and, if finished cells tell, in hours."""
    device = describe_device(computing_device(job.device))["name"]
    pace = [
        record.training.seconds / record.training.epochs
        for record in read_all(job.results)[0]
        if (record.task, record.preset, record.status) == (job.cell.task, job.cell.preset, "done")
        and record.device["name"] == device
        and record.training.epochs
        and not record.resumed
    ]
    hours = "hours unknown before the first generation"
    if pace:
        hours = f"about {allowed * fmean(pace) / workers / 3600:.2g} hours by {len(pace)} finished cells like it"
    log.info(
        "%s: genetic search within %d epochs (%g trainings), %s, with %d worker%s; rungs of %s epochs",
        *(job.cell, allowed, allowed / job.config.epochs, hours, workers, "s" if workers > 1 else ""),
        ", ".join(map(str, rungs)),
    )


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

    def network(structure: Structure) -> nn.Module:
        model = build(job)
        structure.apply(model)
        return model

    tried, cost = rank(job, [functools.partial(network, structure) for structure in structures], epochs)
    history = [
        {"step": number, "structure": as_lists(structure), "validation": one.validation}
        for number, (structure, one) in enumerate(zip(structures, tried, strict=True))
    ]
    best = tried.index(max(tried, key=lambda one: one.value))
    resumed = any(one.trained.resumed for one in tried)
    return Found(tried[best].trained.folder, cost, resumed, structures[best], history)


@dataclass(frozen=True)
class Tried:
    """A network that was trained briefly. value: what it is ranked by, higher is better."""

    model: nn.Module
    trained: Trained
    validation: dict[str, float | None]
    value: float


def rank(job: Job, networks: Sequence[Callable[[], nn.Module]], epochs: int) -> tuple[list[Tried], Cost]:
    """Train each network for an equal share of `epochs` and judge it on the validation part; and what all cost."""
    short = dataclasses.replace(job.config, epochs=max(1, epochs // len(networks)))
    ranking = job.task.metrics_of(job.config)[0]
    tried = []
    start = time.perf_counter()
    for number, network in enumerate(networks):
        model = network()
        trained = fit(job, model, job.folder(f"candidate{number}"), config=short)
        load_selected(model, trained.folder)
        value = job.task.evaluate(model, short, Split("validation", job.cell.fold))[ranking.name]
        finite = math.isfinite(value)  # a candidate that diverged loses; if all do, the full training shows it
        signed = (value if ranking.higher_is_better else -value) if finite else -math.inf
        tried.append(Tried(model, trained, {ranking.name: value if finite else None}, signed))
    cost = functools.reduce(operator.add, (one.trained.cost for one in tried))
    return tried, dataclasses.replace(cost, seconds=time.perf_counter() - start)


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
