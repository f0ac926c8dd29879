"""The rows of every table: each method is a recipe that trains networks and scores one of them.

A recipe reads from top to bottom; whatever it does with a task goes through `fit`, which trains and measures,
and `score`, which looks at the test part, once per scored network and never to decide anything.
"""

import dataclasses
import gc
import io
import json
import logging
import math
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from benchmarks.record import Cell, Cost, claim, fingerprint, protocol, work_folder
from rfnext import LocalConfig, LocalSearch, Round, Structure, keep_branches
from rfnext.atomic import write_bytes, write_text
from tasks.spec import SELECTED, Logger, Run, Split, Task

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


def local_search_run(job: Job) -> Outcome:
    """The network of the search itself, with the branches it ended on and no further training.

    The published "multi" rows of COCO were measured this way.
    """
    found = local_search(job)
    model = build(job)
    LocalSearch(model, job.config.search, job.task.where)
    model.load_state_dict(torch.load(found.folder / LAST, map_location="cpu", weights_only=True))
    return score(job, model, found=found)


def local_single(job: Job) -> Outcome:
    """Search, then train the found structure anew as a plain network: one dilation per conv."""
    found = local_search(job)
    model = build(job)
    found.structure.apply(model)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


def local_multi(job: Job) -> Outcome:
    """Search, then train anew with branches kept around each found dilation, their probabilities trained."""
    found = local_search(job)
    model = build(job)
    keep_branches(model, found.structure, job.config.search)
    trained = fit(job, model, job.folder("train"))
    return score(job, model, found=found, trained=trained)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("baseline", "hand-designed dilations", baseline),
        Method(
            "random_search",
            "best of random structures, ranked on validation, at the budget of one local search; retrained",
            random_search,
            settings=MappingProxyType({"candidates": 5}),
        ),
        Method(
            "local_search_run",
            "the local search's own network, branches as they are, not retrained",
            local_search_run,
            shares_search=True,
        ),
        Method("local_single", "local search, retrained as plain convs", local_single, shares_search=True),
        Method("local_multi", "local search, retrained with its branches kept", local_multi, shares_search=True),
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
    """What a search found. The folder of a local search holds its network, as `LAST` and perhaps `SELECTED`."""

    structure: Structure
    history: list[dict[str, Any]]


def build(job: Job) -> nn.Module:
    """The task's network with the initial weights of the cell's seed: the same for every method."""
    seed_everything(job.cell.seed)
    return job.task.build(job.config)


def local_search(job: Job) -> Found:
    """The local search of the cell's (task, preset, fold, seed): done now, or taken over from whoever did it.

    It is stored in the work folder with its protocol, so that every method which starts from it sees the same
    structure, and a second process waits instead of searching again.
    """
    cell = job.cell
    folder = work_folder(job.results) / cell.task / cell.preset / "local_search" / f"fold{cell.fold}-seed{cell.seed}"
    key = fingerprint(protocol(job.task, job.config, {}))
    with claim(folder.with_suffix(".lock"), wait=True):
        if stored := _stored_search(folder, key):
            log.info("taking over the search in %s; delete that folder to search again", folder)
            return stored
        model = build(job)
        search = LocalSearch(model, job.config.search, job.task.where)
        trained = fit(job, model, folder, search=search)
        structure = search.structure()
        history = [
            {"step": 0, "structure": _lists(search.initial)},
            *map(_round, search.history),
            {"step": search.step, "structure": _lists(structure)},
        ]
        buffer = io.BytesIO()
        torch.save(model.state_dict(), buffer)
        write_bytes(folder / LAST, buffer.getvalue())
        content = {
            "protocol": key,
            "structure": _lists(structure),
            "history": history,
            "cost": dataclasses.asdict(trained.cost),
            "resumed": trained.resumed,
        }
        write_text(folder / FOUND, json.dumps(content))
        return Found(folder, trained.cost, trained.resumed, structure, history)


def _stored_search(folder: Path, key: str) -> Found | None:
    try:
        content = json.loads((folder / FOUND).read_text("utf-8"))
        if content["protocol"] != key or not (folder / LAST).exists():
            return None
        structure = Structure({name: tuple(dilation) for name, dilation in content["structure"].items()})
        return Found(folder, Cost(**content["cost"]), content["resumed"], structure, content["history"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is not a stored search (%s); searching again", folder / FOUND, error)
        return None


def draw_and_rank(job: Job, candidates: int) -> Found:
    """Train random structures briefly and take the one that is best on the validation part.

    The budget is that of a local search: `config.epochs` epochs, divided among the candidates.
    """
    candidates = min(candidates, job.config.epochs)
    short = dataclasses.replace(job.config, epochs=job.config.epochs // candidates)
    ranking = job.task.metrics_of(job.config)[0]
    rng = np.random.default_rng([job.cell.seed, job.cell.fold])
    tried: list[tuple[float, Structure, Trained]] = []
    history: list[dict[str, Any]] = []
    start = time.perf_counter()
    for number in range(candidates):
        model = build(job)
        structure = draw_structure(model, job.task, job.config.search, rng)
        structure.apply(model)
        trained = fit(job, model, job.folder(f"candidate{number}"), config=short)
        load_selected(model, trained.folder)
        value = job.task.evaluate(model, short, Split("validation", job.cell.fold))[ranking.name]
        finite = math.isfinite(value)  # a candidate that diverged loses; if all do, the full training shows it
        tried.append(((value if ranking.higher_is_better else -value) if finite else -math.inf, structure, trained))
        validation = {ranking.name: value if finite else None}
        history.append({"step": number, "structure": _lists(structure), "validation": validation})
    _, best, trained = max(tried, key=lambda candidate: candidate[0])
    costs = [candidate.cost for _, _, candidate in tried]
    cost = Cost(
        epochs=sum(cost.epochs for cost in costs),
        seconds=time.perf_counter() - start,
        peak_memory_mb=max(cost.peak_memory_mb or 0 for cost in costs) or None,
        memory_measure=costs[0].memory_measure,
    )
    return Found(trained.folder, cost, any(candidate.resumed for _, _, candidate in tried), best, history)


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


def fit(job: Job, model: nn.Module, folder: Path, *, config: Any = None, search: LocalSearch | None = None) -> Trained:
    """Train `model` in place with the cell's seed and measure what it costs.

    An interrupted training is continued if `job.resume` is set and the folder belongs to the very same
    training; otherwise the folder is emptied first.
    """
    config = job.config if config is None else config
    purpose = {
        "protocol": fingerprint(
            protocol(job.task, config, METHODS[job.cell.method].settings if search is None else {})
        ),
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


def _lists(structure: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(dilation) for name, dilation in structure.items()}


def _round(seen: Round) -> dict[str, Any]:
    """A round as JSON values; branches: layer -> (dilation, share) of each, before the round."""
    branches = {
        name: [[list(dilation), round(share, 4)] for dilation, share in zip(dilations, shares, strict=True)]
        for (name, dilations), shares in zip(seen.dilations.items(), seen.probability.values(), strict=True)
    }
    return {"step": seen.step, "structure": _lists(seen.structure), "branches": branches}
