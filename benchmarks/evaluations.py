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
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

import tasks
from benchmarks import pool
from benchmarks.record import Cell, Cost, computing_device, fingerprint
from benchmarks.training import Job, as_lists, build, fit, load_selected
from rfnext import Structure
from rfnext.files import write_text
from rfnext.receptive_field import latency
from rfnext.search.halving import Rung
from tasks.spec import Logger, Metric, Split

log = logging.getLogger(__name__)

CostMeasure = Literal["latency"]
"""What a structure costs; latency: seconds of one forward pass of the network with its initial weights on the longest
input of the task's probe, by `rfnext.receptive_field.latency`. It is that of the driver's device, whatever trains the
candidates. No timing is the same twice, so a search by latency is not either. Multiply-adds and parameters are no
choice here: convs that keep their output size have as many of them at every dilation, in all tasks, so there would be
nothing to weigh. (A search of one's own may tell `rfnext.Scored` any cost.)"""


class NotShared(RuntimeError):
    """A worker does not see the results folder, where candidates leave their checkpoints."""


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

    def log(self, structure: Structure) -> Path:
        return self.checkpoints(structure).with_suffix(".txt")

    def elsewhere(self) -> "Elsewhere":
        """The same on its way to a worker."""
        there = {"folder": self.folder.resolve(), "settings": dict(self.settings), "epochs": self.epochs}
        return Elsewhere.of(self.job, functools.partial(Trial, **there))


class Work(Protocol):
    """What is done for a job with one of many items, such as a `Trial` of a structure."""

    def __call__(self, item: Any, /) -> Any: ...

    def log(self, item: Any, /) -> Path:
        """Where the output of a worker process goes that does it."""
        ...


@dataclass(frozen=True)
class Elsewhere:
    """Work for a job on its way to a worker: without the job's task, whose functions need not be picklable.

    work: makes it of the job there. threads: of torch, for equal results.
    """

    work: Callable[[Job], Work]
    cell: Cell
    config: Any
    results: Path
    mark: str
    settings: dict[str, Any]
    resume: bool
    logger: Logger
    threads: int

    @classmethod
    def of(cls, job: Job, work: Callable[[Job], Work]) -> "Elsewhere":
        """What `work(job)` does, in a worker; `work` can be pickled."""
        return cls(
            work,
            job.cell,
            job.config,
            job.results.resolve(),  # workers of a cluster start in other folders
            pool.mark(job.results),
            dict(job.settings),
            job.resume,
            job.logger,
            torch.get_num_threads(),
        )

    def __call__(self, item: Any) -> Any:
        """Do it in a worker process, whose output goes to the item's log from here on.

        Raises:
            NotShared: if the worker does not see the driver's folder.
            RuntimeError: for a SystemExit, which would end the worker.
        """
        if not pool.sees(self.results, self.mark):
            raise NotShared(
                f"the worker on {platform.node()} does not see {self.results}, where candidates leave the checkpoints "
                "that others go on from; give --results a folder that all machines share"
            )
        torch.set_num_threads(self.threads)
        job = Job(
            self.cell,
            tasks.load(self.cell.task),
            self.config,
            self.results,
            settings=self.settings,
            device=pool.device(),
            logger=self.logger,
            resume=self.resume,
        )
        work = self.work(job)
        pool.print_to(work.log(item))
        try:
            return work(item)
        except SystemExit as error:
            raise RuntimeError(f"SystemExit: {error.code}") from error


class Evaluations:
    """The evaluations of one search, by the job's workers, and what they cost.

    One that fails (an error, a worker that dies twice, or a training that diverges) costs its epochs and loses.

    Rungs of fewer than `whole` epochs train on input that is `shorten` times shorter, what a structure is there: see
    `shortened`. Structures that are the same there are trained once. An epoch of it counts as 1 / `shorten`. The rung
    after does not go on from there but trains from the first epoch: a checkpoint holds the best epoch, too, which was
    chosen on other input.

    fitness: epochs in all -> structure -> its fitness then, where it has one.
    epochs: trained so far, by this process or one that was interrupted.
    resumed: whether some were found on disk.
    error: why the last one failed that did.
    """

    def __init__(
        self,
        job: Job,
        folder: Path,
        settings: Mapping[str, Any],
        cost: CostMeasure | None = None,
        *,
        shorten: int = 1,
        whole: int = 0,
    ) -> None:
        self.job = job
        self.fitness: defaultdict[int, dict[Structure, float]] = defaultdict(dict)
        self.epochs, self.resumed = 0, False
        self.error: BaseException | None = None
        self._workers = job.workers or pool.in_process()
        self._folder, self._settings = folder, settings
        self._measure = cost
        self._shorten, self._whole = shorten, whole
        self._found: dict[Structure, Evaluated] = {}
        self._reached: dict[Path, int] = {}  # epochs by the folder of the training
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
        factor = self._shorten if rung.epochs < self._whole else 1
        trial = Trial(self._job(factor), self._folder, self._settings, rung.epochs)
        meant = {structure: shortened(structure, factor) for structure in structures}
        distinct = list(dict.fromkeys(meant.values()))
        reached = {structure: self._reached.get(trial.checkpoints(structure), 0) for structure in distinct}
        known = {s: found for s in distinct if (found := Evaluated.read(trial.path(s))) is not None}
        # What this search has trained for another structure and is not known has failed, and would again.
        new = [structure for structure in distinct if structure not in known and reached[structure] < rung.epochs]
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
        how = f" on input {factor} times shorter" if factor > 1 else ""
        log.info("%s: %d of %d candidates trained to %d epochs%s", self.job.cell, good, len(distinct), rung.epochs, how)
        if self._measure is not None:  # here, when nobody trains any more: beside others it would measure those, too
            for structure, found in known.items():
                if found.fitness is not None and found.cost is None:
                    known[structure] = dataclasses.replace(found, cost=self._latency(structure))
                    known[structure].write(trial.path(structure))
        for structure in distinct:
            if reached[structure] >= rung.epochs:  # counted before
                continue
            self.resumed = self.resumed or structure not in new
            trained = math.ceil((rung.epochs - reached[structure]) / factor)
            self._reached[trial.checkpoints(structure)] = rung.epochs
            self.epochs += trained
            training = known[structure].training if structure in known else Cost()
            self._costs.append(dataclasses.replace(training, epochs=trained))
        for structure in structures:
            found = known.get(meant[structure])
            if found is not None and found.fitness is not None:  # or else that of the rung before is still its result
                self._found[structure] = found
                self.fitness[rung.epochs][structure] = found.fitness
        return [self.fitness[rung.epochs].get(structure) for structure in structures]

    def _job(self, factor: int) -> Job:
        """The job on input that is `factor` times shorter."""
        if factor == 1:
            return self.job
        assert self.job.task.shortened is not None
        return dataclasses.replace(self.job, config=self.job.task.shortened(self.job.config, factor))

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


def shortened(structure: Structure, factor: int) -> Structure:
    """What a structure is on input that is `factor` times shorter: its dilations divided by that, each at least 1.

    They are rounded to the nearest integer, halves up.
    """
    return Structure(
        {
            name: tuple(max(1, (2 * d + factor) // (2 * factor)) for d in dilation)
            for name, dilation in structure.items()
        }
    )


def as_fitness(value: float, metric: Metric) -> float | None:
    """A metric as what `Evolution` maximises, a number >= 0: itself, or 100 / (1 + value) where lower is better.

    None if it is not finite.
    """
    if not math.isfinite(value):
        return None
    return max(0.0, value) if metric.higher_is_better else 100 / (1 + max(0.0, value))
