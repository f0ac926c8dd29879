"""The rows of every table: each method is a recipe that trains networks and scores one of them.

A recipe reads from top to bottom; whatever it does with a task goes through `fit`, which trains and measures,
and `score`, which looks at the test part, once per scored network and never to decide anything.
"""

import dataclasses
import functools
import gc
import io
import json
import logging
import math
import operator
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from benchmarks.record import Cell, Cost, claim, computing_device, fingerprint, protocol, work_folder
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
    keep_branches,
    merge,
    powers_of_two,
)
from rfnext.atomic import write_bytes, write_text
from rfnext.one_shot import Readout
from tasks.spec import SELECTED, Logger, Metric, Run, Split, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A cell with everything that a method needs to run it.

    results: folder that holds the records, and the work folder for checkpoints.
    command: what to type to run it again; for the record.
    resume: continue an interrupted training of the same cell and protocol from its checkpoint.
    """

    cell: Cell
    task: Task[Any]
    config: Any
    results: Path
    command: str = ""
    device: str = "auto"
    logger: Logger = "none"
    resume: bool = False

    def folder(self, stage: str) -> Path:
        """Folder of one training of this cell, not yet created."""
        return self.cell.work(self.results) / stage

    def protocol(self) -> dict[str, Any]:
        """The planned protocol of this cell's record."""
        return protocol(self.task, self.config, METHODS[self.cell.method].settings)


@dataclass
class Outcome:
    """What a method found. model: the scored network. The other fields are those of `Record`."""

    model: nn.Module
    metrics: dict[str, float]
    metrics_last: dict[str, float]
    validation: dict[str, float]
    structure: Structure
    evaluation_seconds: float
    search: Cost
    training: Cost
    history: list[dict[str, Any]]
    resumed: bool


@dataclass(frozen=True)
class Method:
    """A row of the tables.

    settings: keyword arguments of `run`; they belong to the protocol.
    shares_search: uses the local search of its (task, preset, fold, seed), which is done once for all.
    standard: run by the suite unless it is told which methods to run.
    """

    name: str
    description: str
    run: Callable[..., Outcome]
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    shares_search: bool = False
    standard: bool = True


def baseline(job: Job) -> Outcome:
    """The network as designed by hand."""
    model = build(job)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, trained=trained)


def random_search(job: Job, candidates: int) -> Outcome:
    """Search at random at the budget of the local search, then train the best structure anew."""
    found = draw_and_rank(job, candidates)
    model = build(job)
    found.structure.apply(model)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


def tuned_design(job: Job, trainings: int) -> Outcome:
    """The hand design, its largest dilation chosen on validation, at the budget of the dearest searches."""
    model = build(job)
    largest = max(max(dilation) for dilation in Structure.read(model, job.task.where).values())
    limits = powers_of_two(largest + 1)[1:] if largest > 1 else candidates(job)
    limits = limits if len(limits) < 6 else limits[::2]  # few enough to be trained for long enough
    designs = [capped_design(model, job.task, limit) for limit in limits]
    found = train_and_rank(job, designs, job.config.epochs * trainings)
    found.structure.apply(model)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


def multi_dilation(job: Job) -> Outcome:
    """No search: branches around the hand-designed dilations, their probabilities trained.

    What `local_multi` adds to this is due to the search, the rest to having more branches.
    """
    model = build(job)
    keep_branches(model, Structure.read(model, job.task.where), job.config.search)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, trained=trained)


def local_search_run(job: Job) -> Outcome:
    """The network of the search itself, with the branches it ended on and no further training.

    The published "multi" rows of COCO were measured this way.
    """
    found = local_search(job)
    return score(job, searched_network(job, found).to(computing_device(job.device)), found=found)


def local_merge(job: Job) -> Outcome:
    """The network of the search, each conv's branches folded into one larger kernel, then fine-tuned."""
    found = local_search(job)
    model = searched_network(job, found)
    merge(model)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


def local_single(job: Job) -> Outcome:
    """Search, then train the found structure anew as a plain network: one dilation per conv."""
    return retrain_single(job, local_search(job))


def local_multi(job: Job) -> Outcome:
    """Search, then train anew with branches kept around each found dilation, their probabilities trained."""
    return retrain_multi(job, local_search(job))


def one_shot(job: Job, **settings: Any) -> Outcome:
    """One training with all candidate dilations in every conv; what it means, trained anew as plain convs."""
    return retrain_single(job, one_shot_search(job, **settings))


def one_shot_to_local_single(job: Job, **settings: Any) -> Outcome:
    """One-shot search, local search from its structure, then trained anew as plain convs: three trainings."""
    return retrain_single(job, local_search(job, start=one_shot_search(job, **settings)))


def one_shot_to_local_multi(job: Job, **settings: Any) -> Outcome:
    """One-shot search, local search from its structure, then trained anew with branches kept: three trainings."""
    return retrain_multi(job, local_search(job, start=one_shot_search(job, **settings)))


def global_(job: Job, **settings: Any) -> Outcome:
    """Genetic search with successive halving; its best structure trained anew as plain convs."""
    return retrain_single(job, genetic_search(job, **settings))


def global_to_local_single(job: Job, **settings: Any) -> Outcome:
    """Genetic search, local search from its best structure, then trained anew as plain convs (Global2Local)."""
    return retrain_single(job, local_search(job, start=genetic_search(job, **settings)))


def global_to_local_multi(job: Job, **settings: Any) -> Outcome:
    """Genetic search, local search from its best structure, then trained anew with branches kept."""
    return retrain_multi(job, local_search(job, start=genetic_search(job, **settings)))


def retrain_single(job: Job, found: "Found") -> Outcome:
    """Train what was found anew, one dilation per conv, and score it."""
    model = build(job)
    found.structure.apply(model)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


def retrain_multi(job: Job, found: "Found") -> Outcome:
    """Train what was found anew with branches around each dilation, and score it."""
    model = build(job)
    keep_branches(model, found.structure, job.config.search)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


ONE_SHOT = MappingProxyType({"readout": "log2", "learning_rate": 0.1, "sharpen": 1.0, "warmup": 0.0})
"""Settings of the one-shot search, see `OneShotConfig`; warmup is a share of the training."""

GENETIC = MappingProxyType({"population": 8, "generations": 40, "rungs": (0.125, 0.375), "promoted": 0.25, "budget": 6})
"""Settings of the genetic search: rungs and budget in trainings (shares of `config.epochs`)."""

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("baseline", "hand-designed dilations", baseline),
        Method(
            "tuned_design",
            "hand-designed pattern, its largest dilation chosen on validation, at the budget of one_shot_to_local",
            tuned_design,
            settings=MappingProxyType({"trainings": 2}),
        ),
        Method(
            "random_search",
            "best of random structures, ranked on validation, at the budget of one local search; retrained",
            random_search,
            settings=MappingProxyType({"candidates": 5}),
            standard=False,
        ),
        Method(
            "multi_dilation",
            "no search: branches around the hand-designed dilations",
            multi_dilation,
            standard=False,
        ),
        Method(
            "local_search_run",
            "the local search's own network, branches as they are, not retrained",
            local_search_run,
            shares_search=True,
        ),
        Method("local_single", "local search, retrained as plain convs", local_single, shares_search=True),
        Method("local_multi", "local search, retrained with its branches kept", local_multi, shares_search=True),
        Method(
            "local_merge",
            "the local search's own network, branches folded into larger kernels, fine-tuned",
            local_merge,
            shares_search=True,
            standard=False,
        ),
        Method(
            "one_shot",
            "one-shot search over all powers of two, retrained as plain convs",
            one_shot,
            settings=ONE_SHOT,
            shares_search=True,
        ),
        Method(
            "one_shot_to_local_single",
            "one-shot search, then local search, retrained as plain convs",
            one_shot_to_local_single,
            settings=ONE_SHOT,
            shares_search=True,
        ),
        Method(
            "one_shot_to_local_multi",
            "one-shot search, then local search, retrained with its branches kept",
            one_shot_to_local_multi,
            settings=ONE_SHOT,
            shares_search=True,
            standard=False,
        ),
        Method(
            "global_",
            "genetic search with successive halving, retrained as plain convs",
            global_,
            settings=GENETIC,
            shares_search=True,
            standard=False,
        ),
        Method(
            "global_to_local_single",
            "genetic search, then local search, retrained as plain convs",
            global_to_local_single,
            settings=GENETIC,
            shares_search=True,
            standard=False,
        ),
        Method(
            "global_to_local_multi",
            "genetic search, then local search, retrained with its branches kept",
            global_to_local_multi,
            settings=GENETIC,
            shares_search=True,
            standard=False,
        ),
    )
}
"""All methods by name, in the order of the tables' rows."""

LAST = "last.pt"
FOUND = "found.json"


@dataclass(frozen=True)
class Trained:
    """A finished training: its folder, what it cost, and whether it was continued after an interruption."""

    folder: Path
    cost: Cost
    resumed: bool


@dataclass(frozen=True)
class Found(Trained):
    """What a search found. The folder of one that ends in a network holds it, as `LAST` and perhaps `SELECTED`."""

    structure: Structure
    history: list[dict[str, Any]]


def build(job: Job) -> nn.Module:
    """The task's network with the initial weights of the cell's seed: the same for every method."""
    seed_everything(job.cell.seed)
    return job.task.build(job.config)


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
            {"step": 0, "structure": _lists(search.initial)},
            *map(_round, search.history),
            {"step": search.step, "structure": _lists(structure)},
        ]
        save_network(model, folder)
        cost = trained.cost if start is None else start.cost + trained.cost
        return Found(folder, cost, trained.resumed, structure, history)

    name = "local_search" if start is None else f"{start.folder.parent.name}_to_local"
    return stored(job, name, {} if start is None else {"start": _lists(start.structure)}, search)


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
        history = [{"step": seen.step, "structure": _lists(seen.structure)} for seen in search.history]
        history.append({"step": search.step, "structure": _lists(structure), "probability": _shares(search)})
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
            history.append({"step": evaluations.epochs, "structure": _lists(best.structure), "fitness": best.fitness})
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
        key = fingerprint({"structure": _lists(structure), "protocol": self.job.protocol(), **self.settings})
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


def stored(job: Job, name: str, settings: Mapping[str, Any], search: Callable[[Path], Found]) -> Found:
    """A search of the cell's (task, preset, fold, seed): done now, or taken over from whoever did it.

    It is stored in the work folder with its protocol, so that every method which starts from it sees the same
    structure, and a second process waits instead of searching again.
    """
    cell = job.cell
    folder = work_folder(job.results) / cell.task / cell.preset / name / f"fold{cell.fold}-seed{cell.seed}"
    key = fingerprint(protocol(job.task, job.config, settings))
    with claim(folder.with_suffix(".lock"), wait=True):
        if known := _stored_search(folder, key):
            log.info("taking over the search in %s; delete that folder to search again", folder)
            return known
        found = search(folder)
        content = {
            "protocol": key,
            "network": (folder / LAST).exists(),
            "structure": _lists(found.structure),
            "history": found.history,
            "cost": dataclasses.asdict(found.cost),
            "resumed": found.resumed,
        }
        write_text(folder / FOUND, json.dumps(content))
        return found


def searched_network(job: Job, found: Found) -> nn.Module:
    """The network of a local search as its last epoch left it, on the CPU."""
    model = build(job)
    LocalSearch(model, job.config.search, job.task.where)
    model.load_state_dict(torch.load(found.folder / LAST, map_location="cpu", weights_only=True))
    return model


def save_network(model: nn.Module, folder: Path) -> None:
    """Keep a search's network as its last epoch left it."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    write_bytes(folder / LAST, buffer.getvalue())


def _stored_search(folder: Path, key: str) -> Found | None:
    try:
        content = json.loads((folder / FOUND).read_text("utf-8"))
        if content["protocol"] != key or (content["network"] and not (folder / LAST).exists()):
            return None
        structure = Structure({name: tuple(dilation) for name, dilation in content["structure"].items()})
        return Found(folder, Cost(**content["cost"]), content["resumed"], structure, content["history"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not a stored search (%s); searching again", folder / FOUND, error)
        return None


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
        history.append({"step": number, "structure": _lists(structure), "validation": validation})
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


def fit(
    job: Job,
    model: nn.Module,
    folder: Path,
    *,
    config: Any = None,
    search: LocalSearch | OneShotSearch | None = None,
    settings: Mapping[str, Any] | None = None,
    goes_on: bool = False,
) -> Trained:
    """Train `model` in place with the cell's seed and measure what it costs.

    An interrupted training is continued if `job.resume` is set and the folder belongs to the very same
    training; otherwise the folder is emptied first.

    Args:
        config: the cell's, or a shorter one.
        settings: what else decides the result; the method's own settings by default, and nothing for a search.
        goes_on: a training of the same folder for fewer epochs is the beginning of this one.
    """
    config = job.config if config is None else config
    if settings is None:
        settings = METHODS[job.cell.method].settings if search is None else {}
    known = dataclasses.replace(config, epochs=1) if goes_on else config
    purpose = {
        "protocol": fingerprint(protocol(job.task, known, settings)),
        "structure": _lists(Structure.read(model, job.task.where)),
    }
    marker = folder.with_name(f"{folder.name}.json")  # not inside: engines like to find their folder empty
    resume = job.resume and marker.exists() and marker.read_text("utf-8") == json.dumps(purpose)
    if not resume:
        shutil.rmtree(folder, ignore_errors=True)
        write_text(marker, json.dumps(purpose))
        folder.mkdir(parents=True)
    seed_everything(job.cell.seed)
    memory = PeakMemory(job.device)
    start = time.perf_counter()
    job.task.fit(
        model,
        config,
        Run(
            seed=job.cell.seed,
            fold=job.cell.fold,
            folder=folder,
            search=search,
            logger=job.logger,
            resume=resume,
            device=job.device,
            name=" ".join(folder.relative_to(work_folder(job.results)).parts),
            group=f"{job.cell.task} {job.cell.preset}",
        ),
    )
    cost = Cost(config.epochs, time.perf_counter() - start, memory.read(), memory.measure)
    return Trained(folder, cost, resume)


def score(job: Job, model: nn.Module, *, found: Found | None = None, trained: Trained | None = None) -> Outcome:
    """Score a network as its last epoch left it, then at the epoch chosen on the validation part.

    Args:
        model: at its last epoch; at the chosen epoch afterwards.
        found: the search, if there was one.
        trained: the network's own training; None if it is the network of the search.
    """
    stages = [stage for stage in (trained, found) if stage is not None]
    test, validation = Split("test", job.cell.fold), Split("validation", job.cell.fold)
    start = time.perf_counter()
    metrics = metrics_last = job.task.evaluate(model, job.config, test)
    if load_selected(model, stages[0].folder):
        metrics = job.task.evaluate(model, job.config, test)
    return Outcome(
        model=model,
        metrics=metrics,
        metrics_last=metrics_last,
        validation=job.task.evaluate(model, job.config, validation),
        structure=Structure.read(model, job.task.where),
        evaluation_seconds=time.perf_counter() - start,
        search=found.cost if found else Cost(),
        training=trained.cost if trained else Cost(),
        history=found.history if found else [],
        resumed=any(stage.resumed for stage in stages),
    )


def load_selected(model: nn.Module, folder: Path) -> bool:
    """Load the weights of the epoch that was best on the validation part, if the task has selected one."""
    path = folder / SELECTED
    if not path.exists():
        return False
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return True


def seed_everything(seed: int) -> None:
    """Seed every random generator that a network or its training may draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (what libraries still draw from)
    torch.manual_seed(seed)


class PeakMemory:
    """Peak memory from construction to `read`, in MiB: of the GPU if it computes there, else of this process.

    The process's figure is the resident set as Linux counts it (VmHWM), interpreter and libraries included.
    """

    def __init__(self, device: str) -> None:
        self.measure: Literal["cuda", "resident"] | None = None
        if torch.cuda.is_available() and device != "cpu":
            gc.collect()  # what earlier trainings left in reference cycles is not this one's
            self.device = torch.device("cuda" if device == "auto" else device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.measure = "cuda"
        elif sys.platform == "linux":
            try:
                with open("/proc/self/clear_refs", "w") as file:
                    file.write("5")  # resets VmHWM, see proc(5)
                self.measure = "resident"
            except OSError:
                log.info("peak memory is not measured: the system does not allow resetting its counter")

    def read(self) -> float | None:
        if self.measure == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self.measure == "resident":
            status = Path(f"/proc/{os.getpid()}/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) / 2**10
        return None


def _shares(search: OneShotSearch) -> dict[str, list[float]]:
    return {name: [round(p, 4) for p in share] for name, share in search.probability().items()}


def _lists(structure: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(dilation) for name, dilation in structure.items()}


def _round(seen: Round) -> dict[str, Any]:
    """A round as JSON values; branches: layer -> (dilation, share) of each, before the round."""
    branches = {
        name: [[list(dilation), round(share, 4)] for dilation, share in zip(dilations, shares, strict=True)]
        for (name, dilations), shares in zip(seen.dilations.items(), seen.probability.values(), strict=True)
    }
    return {"step": seen.step, "structure": _lists(seen.structure), "branches": branches}
