"""The searches that methods start from: local, one-shot, genetic, random, and the tuned hand design.

Each takes a job and returns what it `Found`, judged by the validation part alone.
"""

import dataclasses
import functools
import itertools
import logging
import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.evaluations import CostMeasure, Elsewhere, Evaluations
from benchmarks.record import Cost, computing_device, describe_device, read_all
from benchmarks.replacements import spacings
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
from rfnext.dilation import searched_axis
from rfnext.search.one_shot import Readout
from tasks.spec import ProbabilityBatches, Split, Task

log = logging.getLogger(__name__)

Candidate = TypeVar("Candidate")


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
    shorten: int = 1,
) -> Found:
    """The genetic search of the cell's (task, preset, fold, seed), within a budget of `budget` trainings.

    Every generation's new structures are trained for the first rung's epochs; the best share of them goes on, from
    its checkpoints, to the next. Evaluations are kept on disk as they end: an interrupted search loses none.

    Args:
        cost: search for the best fitness at every cost instead (`EvolutionConfig.objectives`). What is found then is
            the cheapest structure that is at most `tolerance` less fit than the fittest; the last entry of the history
            holds the whole front.
        tolerance: in units of the fitness, see `as_fitness`.
        shorten: train on input that is this many times shorter before the last rung (Global2Local resized all videos
            to one length throughout). An epoch of it counts as 1 / `shorten`, and those rungs are multiples of
            `shorten` epochs, so that costs are whole; the last rung trains from the first epoch. See `Evaluations`.
            The fitness there is what the search goes by, and that of the last rung what it chooses by in the end.

    Raises:
        ValueError: if there is nothing to measure the latency of, the task has no shorter input, or both are asked for.
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
    if shorten > 1:
        settings |= {"shorten": shorten}
        if job.task.shortened is None:
            raise ValueError(f"task {job.task.name} has no shorter input: it has no `shortened`")
        if cost is not None:  # which would be that of whatever structure was trained for several
            raise ValueError("a search on shorter input knows no costs")
    epochs, costs = _rungs(job.config.epochs, rungs, shorten)
    # Metrics on shorter input are no match for those on whole input: of action segmentation's tiny preset, after 4, 12
    # and 32 epochs of either, F1@10 was 2 to 4 points higher on every other frame, and the accuracy 4 to 8 lower.
    comparable = epochs[:-1] if shorten > 1 and len(epochs) > 1 else epochs
    allowed = round(budget * job.config.epochs)

    def fittest(evolution: Evolution, evaluations: Evaluations) -> Scored:
        """Of those that were trained on whole input, if any were."""
        if comparable != epochs and (whole := evaluations.fitness[epochs[-1]]):
            return Scored(*max(whole.items(), key=operator.itemgetter(1)))
        return evolution.best

    def search(folder: Path) -> Found:
        template = Structure.read(build(job), job.task.where)
        config = EvolutionConfig(
            population=population,
            generations=generations,
            candidates=candidates(job),
            objectives="fitness" if cost is None else "pareto",
        )
        evolution = Evolution(template, config, np.random.default_rng([job.cell.seed, job.cell.fold]))
        evaluations = Evaluations(job, folder, settings, cost, shorten=shorten, whole=epochs[-1])
        _announce(job, allowed, epochs, shorten, evaluations.workers)
        history = []
        least = costs[0] if comparable == epochs else sum(costs)  # for a result that can be found
        while (asked := _ask(evolution, evaluations, folder)) and evaluations.epochs + least <= allowed:
            # What the budget does not cover any more counts as failed, which costs nothing and wins nothing.
            left = allowed - evaluations.epochs
            halve(asked, epochs, evaluations, promoted=promoted, budget=left, costs=costs, map=evaluations.map)
            results = {s: fitness for rung in comparable for s, fitness in evaluations.fitness[rung].items()}
            evolution.tell(
                Scored(s, results.get(s), evaluations.found(s).cost if s in results else None) for s in asked
            )
            if not results.keys() & set(asked):
                continue  # _ask() says so
            best, spent = fittest(evolution, evaluations), evaluations.cost()
            left = (allowed - spent.epochs) * spent.seconds / spent.epochs / evaluations.workers
            log.info(
                "%s: generation %d, best %.2f; %d of %d epochs, the others take about %.2g hours",
                *(job.cell, evolution.generation, best.fitness, spent.epochs, allowed, left / 3600),
            )
            history.append({"step": evaluations.epochs, "structure": as_lists(best.structure), "fitness": best.fitness})
        chosen = fittest(evolution, evaluations)
        if cost is not None:
            front, highest = evolution.front, chosen.fitness or 0.0
            chosen = next(result for result in front if (result.fitness or 0.0) >= highest - tolerance)
            history.append(
                {
                    "step": evaluations.epochs,
                    "structure": as_lists(chosen.structure),
                    "fitness": chosen.fitness,
                    "front": [{"structure": as_lists(r.structure), "fitness": r.fitness, cost: r.cost} for r in front],
                }
            )
        return Found(folder, evaluations.cost(), evaluations.resumed, chosen.structure, history)

    name = "genetic" if cost is None else "genetic_pareto"
    return stored(job, name if shorten == 1 else "genetic_shortened", settings, search)


def _rungs(training: int, shares: Sequence[float], shorten: int) -> tuple[list[int], list[int]]:
    """Epochs in all at each rung, and what it costs to get there; shares are of a training's epochs.

    Trainings too short for all rungs have fewer. See `genetic_search` about `shorten`.
    """
    *shares, last = sorted(shares)
    last = max(1, round(last * training))
    early = sorted({shorten * max(1, round(share * training / shorten)) for share in shares})
    early = [epochs for epochs in early if epochs < last]
    costs = [(epochs - before) // shorten for before, epochs in itertools.pairwise((0, *early))]
    return [*early, last], [*costs, last - sum(costs) if shorten == 1 else last]


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


def _announce(job: Job, allowed: int, rungs: Sequence[int], shorten: int, workers: int) -> None:
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
        "%s: genetic search within %d epochs (%g trainings), %s, with %d worker%s; rungs of %s epochs%s",
        *(job.cell, allowed, allowed / job.config.epochs, hours, workers, "s" if workers > 1 else ""),
        ", ".join(map(str, rungs)),
        f", all but the last on input {shorten} times shorter" if shorten > 1 else "",
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
    tried, cost = rank(job, structured, structures, epochs)
    history = [
        {"step": number, "structure": as_lists(structure), "validation": one.validation}
        for number, (structure, one) in enumerate(zip(structures, tried, strict=True))
    ]
    best = tried.index(max(tried, key=lambda one: one.value))
    resumed = any(one.trained.resumed for one in tried)
    return Found(tried[best].trained.folder, cost, resumed, structures[best], history)


def structured(job: Job, structure: Structure) -> nn.Module:
    """The job's network with a structure of plain convs."""
    model = build(job)
    structure.apply(model)
    return model


@dataclass(frozen=True)
class Tried:
    """A network that was trained briefly.

    trained: seconds of its cost are those of all that was done with it. value: what it is ranked by, higher is better.
    spacings: see `replacements.spacings`; empty unless taps have learnt their positions.
    """

    trained: Trained
    validation: dict[str, float | None]
    value: float
    spacings: dict[str, list[int]]


@dataclass(frozen=True)
class _Try:
    """Builds the network of a numbered candidate, trains it for `epochs` and judges it on the validation part."""

    job: Job
    network: Callable[[Job, Any], nn.Module]
    epochs: int

    def __call__(self, numbered: tuple[int, Any]) -> Tried:
        number, candidate = numbered
        job, ranking = self.job, self.job.task.metrics_of(self.job.config)[0]
        start = time.perf_counter()
        config = dataclasses.replace(job.config, epochs=self.epochs)
        model = self.network(job, candidate)
        trained = fit(job, model, job.folder(f"candidate{number}"), config=config)
        load_selected(model, trained.folder)
        value = job.task.evaluate(model, config, Split("validation", job.cell.fold))[ranking.name]
        finite = math.isfinite(value)  # a candidate that diverged loses; if all do, the full training shows it
        signed = (value if ranking.higher_is_better else -value) if finite else -math.inf
        cost = dataclasses.replace(trained.cost, seconds=time.perf_counter() - start)
        trained = dataclasses.replace(trained, cost=cost)
        return Tried(trained, {ranking.name: value if finite else None}, signed, spacings(model))

    def log(self, numbered: tuple[int, Any]) -> Path:
        return self.job.folder(f"candidate{numbered[0]}.txt")


def rank(
    job: Job, network: Callable[[Job, Candidate], nn.Module], candidates: Sequence[Candidate], epochs: int
) -> tuple[list[Tried], Cost]:
    """Train the network of each candidate for an equal share of `epochs` and judge it on the validation part.

    The job's workers train them side by side, with the same results; seconds add up all the same.

    Args:
        network: builds a candidate's; can be pickled, as can the candidates.

    Returns:
        What became of each candidate, in their order, and what all cost.

    Raises:
        NotShared, WorkerDied, or whatever a candidate's training raises (with workers, once all others have ended).
    """
    epochs = max(1, epochs // len(candidates))
    if job.workers is None:
        tried = [_Try(job, network, epochs)(numbered) for numbered in enumerate(candidates)]
    else:
        elsewhere = Elsewhere.of(job, functools.partial(_Try, network=network, epochs=epochs))
        tried = [future.result() for future in job.workers.run(elsewhere, enumerate(candidates))]
    return tried, functools.reduce(operator.add, (one.trained.cost for one in tried))


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
            name: tuple(capped(d) if searched_axis(k) else d for k, d in zip(conv.kernel_size, dilation, strict=True))
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
                int(rng.choice(powers)) if searched_axis(k) else d
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
