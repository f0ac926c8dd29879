"""The genetic search: `rfnext.Evolution` with successive halving over short trainings, within a budget of epochs.

The result of each evaluation is a file of its own, written as the evaluation ends: neither a killed worker nor a killed
driver loses any, and an interrupted search goes on from them.
"""

import contextlib
import functools
import logging
import operator
import shutil
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.cell import Cell
from benchmarks.methods.candidates import as_fitness, judge, powers
from benchmarks.methods.method import Found
from benchmarks.methods.searching import Searching
from benchmarks.methods.stored import FOUND
from benchmarks.methods.training import OtherData, Training, as_lists, build, fit
from benchmarks.records.folder import read_all
from benchmarks.records.machine import code, describe_device, implementation, versions
from benchmarks.records.protocol import fingerprint
from benchmarks.records.record import Cost
from benchmarks.running.pool import NoWorkerLeft, run_for_cell
from benchmarks.running.worker import NotShared
from rfnext import Evolution, EvolutionConfig, Scored, Structure, halve
from rfnext.files import write_text
from rfnext.search.halving import Rung
from tasks.spec import DataError, device_of

log = logging.getLogger(__name__)


class Diverged(RuntimeError):
    """A training after which the metric is not finite."""


class Evaluated(BaseModel):
    """The result of a structure: its fitness (None if it diverged), what was trained for it, and in which folder.

    Another machine names the folder otherwise if it has other packages or kernels.
    """

    model_config = ConfigDict(frozen=True)

    fitness: float | None
    training: Cost
    folder: str

    @classmethod
    def read(cls, path: Path) -> "Evaluated | None":
        """What an earlier process has left; None if there is nothing that can be used."""
        with contextlib.suppress(OSError, ValueError):
            stored = cls.model_validate_json(path.read_text("utf-8"))
            return stored if stored.fitness is not None else None
        return None


@dataclass(frozen=True)
class Trial:
    """Trains a structure until it has had `epochs` in all, from where it stopped before, and judges it.

    A training that diverged is not kept: the next evaluation of the structure trains it from its first epoch.

    folder: of the search. settings: what decides the result besides the cell's protocol.
    """

    folder: Path
    settings: dict[str, Any]
    epochs: int
    needs_shared_folder: bool = True

    def checkpoints(self, cell: Cell, structure: Structure) -> Path:
        """Folder of a structure's training, whatever its epochs."""
        here = {"structure": as_lists(structure), "protocol": cell.protocol(), "code": code(), "versions": versions()}
        key = fingerprint(here | implementation(device_of(cell.device)) | self.settings)
        return self.folder / f"candidate-{key}"

    def path(self, cell: Cell, structure: Structure) -> Path:
        """File of a structure's result."""
        folder = self.checkpoints(cell, structure)
        return folder.with_name(f"{folder.name}-{self.epochs}.json")

    def __call__(self, cell: Cell, structure: Structure) -> Evaluated:
        path = self.path(cell, structure)
        if (known := Evaluated.read(path)) is not None:
            return known
        model = build(cell)
        structure.apply(model)
        folder = self.checkpoints(cell, structure)
        training = Training(folder, self.epochs, self.settings, beginning=True)
        trained = fit(cell.resuming(), model, training)
        metric, value = judge(cell, model, training)
        result = Evaluated(fitness=as_fitness(value, metric), training=trained.cost, folder=folder.name)
        if result.fitness is None:
            shutil.rmtree(folder)
        else:
            write_text(path, result.model_dump_json())
        return result

    def log(self, cell: Cell, structure: Structure) -> Path:
        """Of a worker that trains the structure."""
        return self.checkpoints(cell, structure).with_suffix(".txt")


class Evaluations:
    """The evaluations of one search and what they cost.

    One that fails (by an error, a worker process that ends twice, or divergence) costs its epochs and has no fitness.

    fitness: structure -> its fitness after the most epochs that it had.
    epochs: trained so far, by this process or one that was interrupted. resumed: whether some were begun by
        an earlier process.
    error: why the last one failed that did.
    """

    def __init__(self, job: Searching, settings: dict[str, Any]) -> None:
        self.job, self.settings = job, settings
        self.fitness: dict[Structure, float] = {}
        self.epochs, self.resumed = 0, False
        self.error: BaseException | None = None
        self._reached: defaultdict[Structure, int] = defaultdict(int)
        self._costs: list[Cost] = []
        # Whole and half trainings of an interrupted search.
        self._left = frozenset(path.name for path in job.folder.glob("candidate-*"))

    def __call__(self, structure: Structure, epochs: int) -> float | None:
        """Fitness on the validation part after `epochs` epochs in all; None if the evaluation failed or diverged."""
        return self.map(Rung(self, epochs), [structure])[0]

    def map(self, rung: Rung, structures: Sequence[Structure]) -> list[float | None]:
        """Fitness of distinct structures after a rung's epochs in all, in their order.

        Raises, after all others have ended:
            NotShared: if a worker has no access to the results folder.
            NoWorkerLeft: if no worker is left.
            OtherData: if the data was changed.
            DataError, OSError: if files of the data cannot be used, or those of the search not be written.
        """
        cell, epochs = self.job.cell, rung.epochs
        trial = Trial(self.job.folder, self.settings, epochs)
        known = {s: found for s in structures if (found := Evaluated.read(trial.path(cell, s))) is not None}
        # What this search has trained and is not known has failed, and would again.
        new = [s for s in structures if s not in known and self._reached[s] < epochs]
        for structure, future in zip(new, run_for_cell(self.job.pool, trial, cell, new), strict=True):
            if (error := future.exception()) is None:
                known[structure] = future.result()
                if known[structure].fitness is not None:
                    continue
                error = Diverged("the training diverged: the metric on the validation part is not finite")
            self._failed(error, f"{trial.checkpoints(cell, structure).name} failed at {epochs} epochs")
        good = {s: found.fitness for s, found in known.items() if found.fitness is not None}
        log.info("%s: %d of %d candidates trained to %d epochs", cell, len(good), len(structures), epochs)
        for structure in structures:
            if self._reached[structure] < epochs:  # else counted before
                found = known.get(structure)
                place = found.folder if found else trial.checkpoints(cell, structure).name
                self.resumed = self.resumed or place in self._left
                self._count(structure, epochs, found)
        self.fitness |= good
        return [good.get(structure) for structure in structures]

    def _failed(self, error: BaseException, what: str) -> None:
        # No fault of the structure; a full disk would otherwise decide what the search finds.
        if isinstance(error, NotShared | NoWorkerLeft | OtherData | DataError | OSError):
            raise error
        self.error = error
        log.warning("%s: %s: %s", self.job.cell, what, error, exc_info=error)

    def _count(self, structure: Structure, epochs: int, found: Evaluated | None) -> None:
        trained = epochs - self._reached[structure]
        self._reached[structure] = epochs
        self.epochs += trained
        training = found.training if found else Cost()
        self._costs.append(training.model_copy(update={"epochs": trained}))

    def trained_longest(self) -> dict[Structure, float]:
        """Fitness of those that had the most epochs, and did not fail."""
        most = max((self._reached[structure] for structure in self.fitness), default=0)
        return {structure: value for structure, value in self.fitness.items() if self._reached[structure] == most}

    def cost(self) -> Cost:
        """Of all evaluations; seconds add up, whether they ran side by side or not."""
        return functools.reduce(operator.add, self._costs, Cost())


def genetic(job: Searching) -> Found:
    """The genetic search, within a budget of "budget" full trainings.

    Every generation's new structures are trained for the first rung's epochs; the best share of them goes on, from its
    checkpoints, to the next. Rungs are shares of a full training.

    Raises:
        RuntimeError: if all evaluations of the first generation failed. If all of a later one fail, the search ends
            there with what it has found, and a warning says so.
        NotShared, NoWorkerLeft: if workers have no access to the results folder, or none is left.
        OtherData: if the data was changed.
        DataError, OSError: if files of the data cannot be used, or those of the search not be written.
    """
    cell, settings = job.cell, {**job.settings, "candidates": powers(job.cell)}
    rungs = rungs_of(cell.config.epochs, settings["rungs"])
    allowed = round(settings["budget"] * cell.config.epochs)
    config = EvolutionConfig(
        population=settings["population"], generations=settings["generations"], candidates=settings["candidates"]
    )
    template = Structure.read(build(cell), cell.task.where)
    evolution = Evolution(template, config, np.random.default_rng([cell.seed, cell.fold]))
    evaluations = Evaluations(job, settings)
    _announce(job, allowed, rungs)
    history = []
    while (asked := _ask(evolution, evaluations)) and evaluations.epochs + rungs[0] <= allowed:
        # What the budget does not cover any more counts as failed, which costs nothing.
        left = allowed - evaluations.epochs
        halve(asked, rungs, evaluations, promoted=settings["promoted"], budget=left, map=evaluations.map)
        evolution.tell(Scored(structure, evaluations.fitness.get(structure)) for structure in asked)
        if not evaluations.fitness.keys() & set(asked):
            continue  # _ask() says so
        best = evolution.best
        log.info(
            "%s: generation %d, best %.2f; %d of %d epochs",
            *(cell, evolution.generation, best.fitness, evaluations.epochs, allowed),
        )
        history.append({"step": evaluations.epochs, "structure": as_lists(best.structure), "fitness": best.fitness})
    return Found(job.folder, evaluations.cost(), evaluations.resumed, evolution.best.structure, history)


def rungs_of(training: int, shares: Sequence[float]) -> list[int]:
    """Epochs in all at each rung; shares are of a training's epochs. Short trainings have fewer rungs."""
    *shares, last = sorted(shares)
    final = max(1, round(last * training))
    early = sorted({max(1, round(share * training)) for share in shares})
    return [*(epochs for epochs in early if epochs < final), final]


def _ask(evolution: Evolution, evaluations: Evaluations) -> list[Structure]:
    """What to evaluate next; nothing if all evaluations of a generation failed and an earlier one had results."""
    try:
        return evolution.ask()
    except RuntimeError as error:
        generation, cause = evolution.generation, evaluations.error
        reason = f"all evaluations of generation {generation} failed, the last one by {type(cause).__name__}: {cause}"
        if generation == 0:
            fix = "fix what made them fail and run it again: they are then trained anew"
            raise RuntimeError(f"{reason}; {fix}") from (cause or error)
        log.warning(
            "%s: %s; the search ends with the best of the generations before. To search on once that is fixed, delete "
            "%s and the records that start from it, and run it again",
            *(evaluations.job.cell, reason, evaluations.job.folder / FOUND),
        )
        return []


def _announce(job: Searching, allowed: int, rungs: Sequence[int]) -> None:
    """Log the budget, in epochs and, if finished cells were timed, in hours."""
    cell, workers = job.cell, job.pool.size
    device = describe_device(device_of(cell.device))["name"]
    pace = [
        record.training.seconds / record.training.epochs
        for record in read_all(cell.results).all
        if (record.task, record.preset, record.status) == (cell.task.name, cell.preset, "done")
        and record.device["name"] == device
        and record.training.epochs
        and not record.resumed
    ]
    hours = "hours unknown before the first generation"
    if pace:
        hours = f"about {allowed * fmean(pace) / workers / 3600:.2g} hours by {len(pace)} finished cells like it"
    log.info(
        "%s: genetic search within %d epochs (%g trainings), %s, with %d worker%s; rungs of %s epochs",
        *(cell, allowed, allowed / cell.config.epochs, hours, workers, "s" if workers > 1 else ""),
        ", ".join(map(str, rungs)),
    )
