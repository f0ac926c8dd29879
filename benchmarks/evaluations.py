"""Candidates of a search, trained and validated: one after another, or side by side by the workers of a pool.

Each result is a file of its own, written as the evaluation ends, so neither a killed worker nor a killed driver loses
any, and an interrupted search goes on from them.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import math
import operator
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import tasks
from benchmarks import pool
from benchmarks.record import Cell, Cost, computing_device, fingerprint
from benchmarks.training import Job, as_lists, build, fit, load_selected
from rfnext import Structure
from rfnext.atomic import write_text
from rfnext.halving import Rung
from rfnext.receptive_field import latency
from tasks.spec import Logger, Metric, Split

log = logging.getLogger(__name__)

CostMeasure = Literal["latency"]
"""What a structure costs; latency: seconds of one forward pass of the network with its initial weights on the longest
input of the task's probe, by `rfnext.receptive_field.latency`. It is that of the driver's device, whatever trains the
candidates. No timing is the same twice, so a search by latency is not either."""


class NotShared(RuntimeError):
    """A worker does not see the results folder, where the checkpoints are that candidates go on from."""


class Diverged(RuntimeError):
    """A training after which the metric is not finite."""


@dataclass(frozen=True)
class Evaluated:
    """What became of a candidate.

    fitness: see `as_fitness`. validation: the metric that it is made of; both None if that is not finite.
    training: what was trained for it. cost: by the `CostMeasure`, once it is measured.
    """

    fitness: float | None
    validation: float | None
    training: Cost
    cost: float | None = None

    @classmethod
    def read(cls, path: Path) -> "Evaluated | None":
        """What an earlier process has left; None if there is nothing that can be used."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(path.read_text("utf-8"))
            if stored["fitness"] is not None:
                return cls(**stored | {"training": Cost(**stored["training"])})
        return None

    def write(self, path: Path) -> None:
        write_text(path, json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True)
class Trial:
    """Trains a structure until it has had `epochs` in all, from where it stopped before, and validates it.

    A training that diverged is not kept: whoever evaluates the structure again trains it from its first epoch.

    Args:
        job: the cell that searches.
        folder: of the search; holds results and checkpoints.
        settings: what decides the result besides the cell's protocol.
        epochs: in all.
    """

    job: Job
    folder: Path
    settings: Mapping[str, Any]
    epochs: int

    def checkpoints(self, structure: Structure) -> Path:
        """Folder of a structure's training, whatever its epochs."""
        key = fingerprint({"structure": as_lists(structure), "protocol": self.job.protocol(), **self.settings})
        return self.folder / f"candidate-{key}"

    def path(self, structure: Structure) -> Path:
        """File of a structure's result."""
        folder = self.checkpoints(structure)
        return folder.with_name(f"{folder.name}-{self.epochs}.json")

    def __call__(self, structure: Structure) -> Evaluated:
        path = self.path(structure)
        if (known := Evaluated.read(path)) is not None:
            return known
        job = dataclasses.replace(self.job, resume=True)
        config = dataclasses.replace(job.config, epochs=self.epochs)
        model = build(job)
        structure.apply(model)
        trained = fit(job, model, self.checkpoints(structure), config=config, settings=self.settings, goes_on=True)
        load_selected(model, trained.folder)
        metric = job.task.metrics_of(job.config)[0]
        value = job.task.evaluate(model, config, Split("validation", job.cell.fold))[metric.name]
        if not math.isfinite(value):
            shutil.rmtree(trained.folder)
            return Evaluated(None, None, trained.cost)
        result = Evaluated(as_fitness(value, metric), value, trained.cost)
        result.write(path)
        return result

    def elsewhere(self) -> "Elsewhere":
        """The same on its way to a worker."""
        job = self.job
        return Elsewhere(
            job.cell,
            job.config,
            job.results.resolve(),  # workers of a cluster start in other folders
            pool.mark(job.results),
            dict(job.settings),
            job.logger,
            torch.get_num_threads(),
            self.folder.resolve(),
            dict(self.settings),
            self.epochs,
        )


@dataclass(frozen=True)
class Elsewhere:
    """A trial without the task, whose functions need not be picklable. threads: of torch, for equal results."""

    cell: Cell
    config: Any
    results: Path
    mark: str
    job_settings: dict[str, Any]
    logger: Logger
    threads: int
    folder: Path
    settings: dict[str, Any]
    epochs: int

    def __call__(self, structure: Structure) -> Evaluated:
        """Run the trial in a worker process, whose output goes to a log beside the checkpoints from here on.

        Raises:
            NotShared: if the worker does not see the driver's folder.
            RuntimeError: for a SystemExit, which would end the worker.
        """
        if not pool.sees(self.results, self.mark):
            raise NotShared(
                f"the worker on {platform.node()} does not see {self.results}, and candidates go on from checkpoints "
                "that other workers left there; give --results a folder that all machines share"
            )
        torch.set_num_threads(self.threads)
        job = Job(
            self.cell,
            tasks.load(self.cell.task),
            self.config,
            self.results,
            settings=self.job_settings,
            device=pool.device(),
            logger=self.logger,
        )
        trial = Trial(job, self.folder, self.settings, self.epochs)
        pool.print_to(trial.checkpoints(structure).with_suffix(".txt"))
        try:
            return trial(structure)
        except SystemExit as error:
            raise RuntimeError(f"SystemExit: {error.code}") from error


class Evaluations:
    """The evaluations of one search, by the job's workers, and what they cost.

    One that fails (an error, a worker that dies twice, or a training that diverges) costs its epochs and loses.

    epochs: trained so far, by this process or one that was interrupted.
    resumed: whether some were found on disk.
    error: why the last one failed that did.
    """

    def __init__(self, job: Job, folder: Path, settings: Mapping[str, Any], cost: CostMeasure | None = None) -> None:
        self.job = job
        self.epochs, self.resumed = 0, False
        self.error: BaseException | None = None
        self._workers = job.workers or pool.in_process()
        self._trial = functools.partial(Trial, job, folder, settings)
        self._measure = cost
        self._found: dict[Structure, Evaluated] = {}
        self._reached: dict[Structure, int] = {}
        self._costs: list[Cost] = []

    @property
    def workers(self) -> int:
        """How many evaluations run at a time."""
        return self._workers.size

    def __call__(self, structure: Structure, epochs: int) -> float | None:
        """Fitness on the validation part after `epochs` epochs in all; None if the evaluation failed or diverged."""
        return self.map(Rung(self, epochs), [structure])[0]

    def map(self, rung: Rung, structures: Sequence[Structure]) -> list[float | None]:
        """Fitness of distinct structures after a rung's epochs in all, in their order.

        Raises, after all others have ended:
            NotShared: if a worker cannot evaluate for want of the folder.
            NoWorkerLeft: if there is nobody to evaluate one.
        """
        trial = self._trial(rung.epochs)
        known = {s: found for s in structures if (found := Evaluated.read(trial.path(s))) is not None}
        new = [structure for structure in structures if structure not in known]
        run: Callable[[Structure], Evaluated] = trial if self.job.workers is None else trial.elsewhere()
        for structure, future in zip(new, self._workers.run(run, new), strict=True):
            if (error := future.exception()) is None:
                known[structure] = future.result()
                if known[structure].fitness is not None:
                    continue
                metric = self.job.task.metrics_of(self.job.config)[0].name
                error = Diverged(f"the training diverged: {metric} on the validation part is not finite")
            if isinstance(error, NotShared | pool.NoWorkerLeft):  # no fault of the structure
                raise error
            self.error = error
            where = trial.checkpoints(structure).name
            log.warning("%s: %s failed at %d epochs: %s", self.job.cell, where, rung.epochs, error, exc_info=error)
        good = sum(found.fitness is not None for found in known.values())
        log.info("%s: %d of %d candidates trained to %d epochs", self.job.cell, good, len(structures), rung.epochs)
        if self._measure is not None:  # here, when nobody trains any more: beside others it would measure those, too
            for structure, found in known.items():
                if found.fitness is not None and found.cost is None:
                    known[structure] = dataclasses.replace(found, cost=self._latency(structure))
                    known[structure].write(trial.path(structure))
        self.resumed = self.resumed or len(new) < len(structures)
        for structure in structures:
            trained = rung.epochs - self._reached.get(structure, 0)
            self._reached[structure] = rung.epochs
            self.epochs += trained
            if structure not in known:
                self._costs.append(Cost(trained))
                continue
            self._costs.append(dataclasses.replace(known[structure].training, epochs=trained))
            if known[structure].fitness is not None:  # or else that of the rung before is still its result
                self._found[structure] = known[structure]
        return [known[structure].fitness if structure in known else None for structure in structures]

    def _latency(self, structure: Structure) -> float:
        """See `CostMeasure`; of each structure it is measured once."""
        if structure in self._found and (known := self._found[structure].cost) is not None:
            return known
        job = self.job
        assert job.task.probe is not None
        model = build(job)
        structure.apply(model)
        split = Split("validation", job.cell.fold)
        probe = job.task.probe(model.to(computing_device(job.device)).eval(), job.config, split)
        return latency(probe.forward, max(probe.inputs, key=torch.Tensor.numel))

    def found(self, structure: Structure) -> Evaluated:
        """The last result of a structure that had one."""
        return self._found[structure]

    def cost(self) -> Cost:
        """Of all evaluations; seconds add up, whether they ran side by side or not."""
        return functools.reduce(operator.add, self._costs, Cost())


def as_fitness(value: float, metric: Metric) -> float | None:
    """A metric as what `Evolution` maximises, a number >= 0: itself, or 100 / (1 + value) where lower is better.

    None if it is not finite.
    """
    if not math.isfinite(value):
        return None
    return max(0.0, value) if metric.higher_is_better else 100 / (1 + max(0.0, value))
