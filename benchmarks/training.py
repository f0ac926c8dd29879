"""What methods and searches are made of: `fit` trains a network and measures it, `score` looks at the test part.

`score` is called once per scored network and never to decide anything. What a search found is kept by `stored`, so that
all methods which start from it see the same.
"""

import dataclasses
import gc
import io
import json
import logging
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from benchmarks import receptive_fields
from benchmarks.pool import Pool
from benchmarks.record import Cell, Cost, claim, fingerprint, protocol, work_folder
from rfnext import LocalSearch, OneShotSearch, Structure
from rfnext.files import write_bytes, write_text
from tasks.spec import SELECTED, Logger, ProbabilityBatches, Run, Split, Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A cell with everything that a method needs to run it.

    results: folder that holds the records, and the work folder for checkpoints.
    settings: the method's own; they belong to the protocol.
    command: what to type to run it again; for the record.
    resume: continue an interrupted training of the same cell and protocol from its checkpoint.
    workers: train the candidates of its search side by side; None: one after another in this process.
    """

    cell: Cell
    task: Task[Any]
    config: Any
    results: Path
    settings: Mapping[str, Any] = field(kw_only=True)
    command: str = ""
    device: str = "auto"
    logger: Logger = "none"
    resume: bool = False
    workers: Pool | None = None

    def folder(self, stage: str) -> Path:
        """Folder of one training of this cell, not yet created."""
        return self.cell.work(self.results) / stage

    def protocol(self) -> dict[str, Any]:
        """The planned protocol of this cell's record."""
        return protocol(self.task, self.config, self.settings)


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
    receptive_field: dict[str, Any] | None = None


LAST = "last.pt"
"""A search's network as its last epoch left it, in the search's folder."""

FOUND = "found.json"
"""What a search found, beside it."""


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


def stored(job: Job, name: str, settings: Mapping[str, Any], search: Callable[[Path], Found]) -> Found:
    """A search of the cell's (task, preset, fold, seed): done now, or taken over from whoever did it.

    It is stored in the work folder with its protocol, so that every method which starts from it sees the same
    structure, and a second process waits instead of searching again.
    """
    cell = job.cell
    # Beside the folders of the methods' cells, one of which may have the search's name.
    searches = work_folder(job.results) / cell.task / cell.preset / "searches"
    folder = searches / name / f"fold{cell.fold}-seed{cell.seed}"
    key = fingerprint(protocol(job.task, job.config, settings))
    with claim(folder.with_suffix(".lock"), wait=True):
        if known := _stored_search(folder, key):
            log.info("taking over the search in %s; delete that folder to search again", folder)
            return known
        found = search(folder)
        content = {
            "protocol": key,
            "network": (folder / LAST).exists(),
            "structure": as_lists(found.structure),
            "history": found.history,
            "cost": dataclasses.asdict(found.cost),
            "resumed": found.resumed,
        }
        write_text(folder / FOUND, json.dumps(content))
        return found


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


def fit(
    job: Job,
    model: nn.Module,
    folder: Path,
    *,
    config: Any = None,
    search: LocalSearch | OneShotSearch | None = None,
    settings: Mapping[str, Any] | None = None,
    goes_on: bool = False,
    probability_batches: ProbabilityBatches = "train",
) -> Trained:
    """Train `model` in place with the cell's seed and measure what it costs.

    An interrupted training is continued if `job.resume` is set and the folder belongs to the very same
    training; otherwise the folder is emptied first.

    Args:
        config: the cell's, or a shorter one.
        settings: what else decides the result; the method's own settings by default, and nothing for a search.
        goes_on: a training of the same folder for fewer epochs is the beginning of this one; both are of the cell's
            own training, whose epochs their schedules span.
        probability_batches: see `Run`.

    Raises:
        ValueError: if the task does not know how to train probabilities on such batches.
    """
    if probability_batches not in job.task.probability_batches:
        known = ", ".join(job.task.probability_batches)
        raise ValueError(
            f"task {job.task.name} cannot train probabilities on batches {probability_batches!r}, only on: {known}"
        )
    config = job.config if config is None else config
    if settings is None:
        settings = job.settings if search is None else {}
    known = dataclasses.replace(config, epochs=1) if goes_on else config
    purpose = {
        "protocol": fingerprint(protocol(job.task, known, settings)),
        "structure": as_lists(Structure.read(model, job.task.where)),
    }
    marker = folder.with_name(f"{folder.name}.json")  # not inside: engines like to find their folder empty
    resume = job.resume and folder.is_dir() and marker.exists() and marker.read_text("utf-8") == json.dumps(purpose)
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
            probability_batches=probability_batches,
            schedule_epochs=job.config.epochs if goes_on else None,
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
    of_validation = job.task.evaluate(model, job.config, validation)
    seconds = time.perf_counter() - start
    return Outcome(
        model=model,
        metrics=metrics,
        metrics_last=metrics_last,
        validation=of_validation,
        structure=Structure.read(model, job.task.where),
        evaluation_seconds=seconds,
        search=found.cost if found else Cost(),
        training=trained.cost if trained else Cost(),
        history=found.history if found else [],
        resumed=any(stage.resumed for stage in stages),
        receptive_field=receptive_fields.measure(job.task, model, job.config, validation),
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


def as_lists(structure: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(dilation) for name, dilation in structure.items()}
