"""Many cells: plans them, keeps what is done, runs the rest in worker processes.

    python -m benchmarks.suite PRESET [--task T ...] [--method M ...] [--seeds 0 1] [--folds 1 2] [--list]
    python -m benchmarks.suite PRESET --task T ... -- [fields of T's config, as for benchmarks.run]
    python -m benchmarks.suite PRESET --ray-address auto        # on the Ray cluster that this machine is a node of

PRESET stands for every preset of that name and those that go on with a dash ("tiny", "tiny-hrnet", ...), each with
its own table, and "paper" for all whose numbers papers report: those with data here run, and for the others it is
said what to download.

A cell is kept if its record was made here, is done and has the planned protocol; failed cells are tried again.
Records that came with the repository are replaced by those of your own run (git shows how they differ), unless
--keep-elsewhere is given; records gathered from several machines need it, too. Interrupting costs the cells that
are running, never a finished one. Several suites may work on the same results folder.

Exit status: 0 all done, 1 a cell failed or the results folder cannot be written, 2 wrong usage or no such cluster,
3 only data is missing, 130 interrupted.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, TextIO

import torch
import tyro

import tasks
from benchmarks import pool
from benchmarks.methods import METHODS
from benchmarks.record import ROOT, Busy, Cell, Record, computing_device, describe_device, kept, read_all, write
from benchmarks.run import (
    UNAVAILABLE,
    Assignment,
    Delivery,
    UsageError,
    check_seed,
    command_line,
    describe,
    log_path,
    make_record,
    now,
    override,
    pick,
    preset_name,
    receive,
    work,
)
from benchmarks.training import Job
from tasks.spec import Logger, Task

PAPER = ("50salads", "breakfast", "gtea", "coco-", "ljspeech")
"""What the preset "paper" stands for: presets of these names, and those that begin so where it ends in a dash."""


@dataclass(frozen=True)
class Options:
    """Run many cells: every method on every fold and seed of a preset, for all tasks that have it."""

    preset: tyro.conf.Positional[str] = "tiny"
    """Named config of the tasks, with those that go on with a dash; paper: all that papers report."""
    task: tuple[str, ...] = ()
    """Only these tasks."""
    method: tuple[str, ...] = ()
    """Only these methods; all: also those that are not standard."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to run on every fold."""
    folds: tuple[int, ...] = ()
    """Only these folds."""
    workers: int | Literal["auto"] = "auto"
    """Cells at a time; auto: one per GPU, or one per core with one thread each; on a cluster, all that fit."""
    ray_address: str | None = None
    """Run on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local to start one here."""
    gpus_per_cell: float | None = None
    """GPUs of a cell on a cluster, may be a fraction; by default 1 if it has any."""
    logger: Logger = "none"
    """Where the trainings' curves go; wandb needs no account (WANDB_MODE=offline is its default then)."""
    wandb: bool = False
    """Short for --logger wandb."""
    resume: bool = False
    """Continue interrupted trainings from their checkpoints instead of starting those cells anew."""
    keep_elsewhere: bool = False
    """Also keep records that were not made in this folder: those that came with the repository, or were copied."""
    list: bool = False
    """Print tasks, presets, methods and cells, and run nothing."""
    results: Path = ROOT / "results"
    """Folder of the records; checkpoints and logs go to its work folder."""


@dataclass
class PlannedTable:
    """The cells of one table.

    kept: done cells. missing: those to run. unavailable: what is missing, if they cannot be run.
    left_out: methods that make no sense for the task, with the reason.
    """

    task: str
    preset: str
    kept: list[Cell] = field(default_factory=list)
    missing: list[Job] = field(default_factory=list)
    unavailable: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def runnable(self) -> list[Job]:
        return [] if self.unavailable else self.missing

    def __str__(self) -> str:
        return f"{self.task} {self.preset}"


@dataclass
class Plan:
    """What a suite has to do.

    presets: by task. broken: tasks that cannot be loaded, and why. skipped: what else is left out, and why.
    """

    tables: list[PlannedTable] = field(default_factory=list)
    presets: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[Job]:
        """Cells to run that can be run."""
        return [job for table in self.tables for job in table.runnable]

    @property
    def left_out(self) -> list[tuple[str, str, str]]:
        """Table, method and reason of what makes no sense for a task."""
        return [(str(table), *pair) for table in self.tables for pair in table.left_out.items()]

    @property
    def unavailable(self) -> dict[str, str]:
        """What cannot be run, and why: what to download and where to put it."""
        return self.broken | {str(table): table.unavailable for table in self.tables if table.unavailable}


def plan(options: Options, overrides: Sequence[str] = ()) -> Plan:
    """Sort the cells of a suite into done and missing ones.

    Args:
        options: what to run.
        overrides: command line of config fields; for one task only, whose fields they are.

    Raises UsageError for an unknown task or method and if no task has the preset, and SystemExit for wrong
    overrides, which tyro has explained.
    """
    if overrides and len(options.task) != 1:
        raise UsageError("fields after -- belong to one task; name it with --task")
    names = [pick("task", name, tasks.names()) for name in options.task] or tasks.names()
    methods = [name for name, method in METHODS.items() if method.standard]
    if options.method:
        named = [pick("method", name, [*METHODS, "all"]) for name in options.method]
        methods = [name for name in METHODS if name in named or "all" in named]
    found = Plan()
    for name in names:
        try:
            task = tasks.load(name)
        except Exception as error:  # a task that lacks a package, say, is no reason to leave the others out
            found.broken[name] = f"cannot be loaded: {type(error).__name__}: {error}"
            continue
        found.presets[name] = list(task.presets)
        presets = [preset for preset in task.presets if _stands_for(options.preset, preset)]
        if not presets:
            found.skipped.append(f"{name} has no preset {options.preset!r}; it has {', '.join(task.presets)}")
        for preset in presets:
            config = override(task, preset, overrides, "python -m benchmarks.suite ... --")
            folds = task.folds(config)
            if unknown := [fold for fold in options.folds if fold not in folds]:
                found.skipped.append(
                    f"{name} has no fold {', '.join(map(str, unknown))}; it has {', '.join(map(str, folds))}"
                )
            chosen = [fold for fold in folds if fold in (options.folds or folds)]
            if chosen:
                found.tables.append(_table(task, preset, config, methods, chosen, options))
    known = dict.fromkeys([preset for presets in found.presets.values() for preset in presets] + ["paper"])
    if found.presets and not any(_stands_for(options.preset, preset) for preset in known):
        pick("preset", options.preset, known)
    if not any(table.kept or table.missing for table in found.tables) and not found.broken:
        reasons = [
            *found.skipped,
            *(f"{g}: {method} {why}" for g in found.tables for method, why in g.left_out.items()),
        ]
        raise UsageError(f"no cell to run; {'; '.join(reasons)}")
    return found


def _stands_for(given: str, preset: str) -> bool:
    names = PAPER if given == "paper" else (given, f"{given}-")
    return any(preset.startswith(name) if name.endswith("-") else preset == name for name in names)


def left_out(task: Task[Any], method: str) -> str | None:
    """Why a method makes no sense for a task; None if it does."""
    batches = METHODS[method].settings.get("probability_batches", "train")
    if batches not in task.probability_batches:
        return f"the task's training has no {batches} batches for probabilities".replace("_", "-")
    if "shorten" in METHODS[method].settings and task.shortened is None:
        return "the task has no shorter input"
    return task.leaves_out.get(method)


def _table(
    task: Task[Any], preset: str, config: Any, methods: Sequence[str], folds: Sequence[int], options: Options
) -> PlannedTable:
    found = PlannedTable(task.name, preset_name(task, preset, config))
    found.left_out = {method: reason for method in methods if (reason := left_out(task, method))}
    logger = "wandb" if options.wandb else options.logger
    for fold in folds:
        for seed in options.seeds:
            for method in (method for method in methods if method not in found.left_out):
                cell = Cell(task.name, found.preset, method, fold, seed)
                command = command_line(task, method, preset, config, fold, seed)
                job = Job(
                    cell,
                    task,
                    config,
                    options.results,
                    settings=METHODS[method].settings,
                    command=command,
                    logger=logger,
                    resume=options.resume,
                )
                if kept(cell, job.protocol(), options.results, elsewhere=options.keep_elsewhere):
                    found.kept.append(cell)
                else:
                    found.missing.append(job)
    if found.missing:
        found.unavailable = task.unavailable(config)
    return found


def estimate_seconds(missing: Sequence[Job], records: Sequence[Record]) -> float | None:
    """Seconds that one worker would take for the missing cells, by records like them; None if there are none.

    A cell is estimated by the finished records of its task, preset and method, or of the other methods where that
    has none. A search that several cells share is counted once.
    """
    timed = [record for record in records if record.status == "done" and not record.resumed]
    total = 0.0
    counted: dict[Search, float] = {}  # seconds from the start to the end of a search that another one may go on from
    for job in missing:
        cell = job.cell
        similar = [r for r in timed if (r.task, r.preset) == (cell.task, cell.preset)]
        same = [r for r in similar if r.method == cell.method] or similar
        if not same:
            return None
        total += fmean(r.training.seconds + r.evaluation_seconds for r in same)
        if not (searches := searches_of(cell)):
            total += fmean(r.search.seconds for r in same)
            continue
        names = METHODS[cell.method].searches
        if METHODS[cell.method].ranks:
            total += fmean(r.training.seconds for r in same)
        known = [(r, METHODS[r.method]) for r in similar if r.method in METHODS]
        sharing = [r for r, method in known if method.searches == names and not method.ranks]
        if sharing:
            seconds = fmean(r.search.seconds for r in sharing)
        else:  # a genetic search says what it may take; the others are one training each
            trainings = job.settings.get("budget", 1) + len(names) - 1
            seconds = trainings * fmean(r.training.seconds for r in same)
        if searches[-1] not in counted:
            total += max(0.0, seconds - max((counted[search] for search in searches if search in counted), default=0.0))
            counted[searches[-1]] = seconds
    return total


Search = tuple[str, str, int, int, str]
"""Task, preset, fold, seed and name of a search that is done once."""


def searches_of(cell: Cell) -> list[Search]:
    """The searches that a cell starts from, each going on from the one before."""
    return [(cell.task, cell.preset, cell.fold, cell.seed, name) for name in METHODS[cell.method].searches]


@dataclass(frozen=True)
class Result:
    """What became of a cell: its record, or the reason why there is not even one (a full disk, say)."""

    cell: Cell
    record: Record | None
    reason: str | None = None

    @property
    def failed(self) -> bool:
        return self.record is None or self.record.status == "failed"

    def __str__(self) -> str:
        return f"failed, no record: {self.reason}" if self.record is None else describe(self.record)


def run_all(
    missing: Sequence[Job], workers: pool.Pool, show: Callable[[Sequence[Cell]], None] = lambda running: None
) -> Iterator[Result]:
    """Run jobs and yield each result as it comes.

    A search that several cells share is done by the first of them, while the others wait and workers do other cells.
    A cell that another process is running is left for the end, and then waited for. `show` is called about once a
    second with the cells that are being run.
    """
    ready = [
        (job, False) for job in sorted(missing, key=lambda job: not searches_of(job.cell))
    ]  # others wait for these
    late: list[tuple[Job, bool]] = []
    running: dict[Future[Delivery], Job] = {}
    doing: dict[Search, Cell] = {}  # searches and the first cell of each; all others may take over what is done
    done: set[Search] = set()

    def free(job: Job) -> bool:
        return all(doing.get(search, job.cell) == job.cell for search in searches_of(job.cell))

    while ready or late or running:
        if not running and not any(free(job) for job, _ in ready):
            ready, late = [*late, *ready], []
        while workers.room > 0 or not running:
            if (following := next((entry for entry in ready if free(entry[0])), None)) is None:
                break
            ready.remove(following)
            job, patient = following
            doing |= dict.fromkeys(set(searches_of(job.cell)) - done, job.cell)
            assignment = Assignment(
                job.cell, job.config, job.results, pool.mark(job.results), job.command, job.logger, job.resume, patient
            )
            running[workers.submit(work, assignment)] = job
        show([job.cell for job in running.values()])
        for future in workers.wait(timeout=1):
            job = running.pop(future)
            try:
                result = Result(job.cell, receive(future.result(), job.results))
            except Busy:
                late.append((job, True))
                continue
            except pool.WorkerDied as error:
                result = _record_failure(job, str(error))
            except Exception as error:
                result = _record_failure(job, f"{type(error).__name__}: {error}")
            done.update(searches_of(job.cell))
            doing = {search: cell for search, cell in doing.items() if cell != job.cell}
            yield result


def _record_failure(job: Job, reason: str) -> Result:
    record = make_record(job, now(), reason=reason)
    try:
        write(record, job.results)
    except OSError as error:
        return Result(job.cell, None, f"{reason}; {error}")
    return Result(job.cell, record)


class Progress:
    """What is shown while cells run: a line per result, and on a terminal one that changes below them."""

    def __init__(self, total: int, expected: float | None, out: TextIO) -> None:
        self.total, self.done, self.expected, self.out = total, 0, expected, out
        self.start = time.monotonic()
        self.live = out.isatty()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.start

    @property
    def times(self) -> str:
        """Time gone, and time left: by the pace so far, by the estimate before the first result."""
        left = None if self.expected is None else max(0.0, self.expected - self.elapsed)
        if self.done:
            left = self.elapsed / self.done * (self.total - self.done)
        return f"elapsed {_duration(self.elapsed)}, left {'unknown' if left is None else _duration(left)}"

    def show(self, running: Sequence[Cell]) -> None:
        """Draw the changing line anew; nothing where the output is no terminal."""
        if self.live:
            cells = "; ".join(map(str, running))
            line = f"[{self.done}/{self.total}] {self.times}; running: {cells}"
            self.out.write(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}")
            self.out.flush()

    def add(self, result: Result) -> None:
        """One more cell has ended."""
        self.done += 1
        self.clear()
        print(f"[{self.done}/{self.total}] {result.cell}: {result} ({self.times})", file=self.out, flush=True)

    def clear(self) -> None:
        """Remove the changing line."""
        if self.live:
            self.out.write("\r\x1b[2K")
            self.out.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show_all(found: Plan) -> None:
    """Print tasks with their presets, methods, and the state of every cell of the plan."""
    for name, presets in found.presets.items():
        print(f"task {name}: presets {', '.join(presets)}")
    for method in METHODS.values():
        print(f"method {method.name}: {method.description}{'' if method.standard else ' (only if named, or by all)'}")
    _show_gaps(found)
    cells = [(cell, "done") for table in found.tables for cell in table.kept]
    for table in found.tables:
        state = "unavailable" if table.unavailable else "to run"
        cells += [(job.cell, state) for job in table.missing]
    width = max((len(state) for _, state in cells), default=0)
    for cell, state in sorted(cells):
        print(f"{state:<{width}} {cell}")


def _show_gaps(found: Plan) -> None:
    for note in found.skipped:
        print(f"skipped: {note}")
    for name, method, reason in found.left_out:
        print(f"left out: {name} {method}: {reason}")
    for name, reason in found.unavailable.items():
        print(f"unavailable: {name}: {reason}")


def show_plan(found: Plan, records: Sequence[Record], workers: pool.Pool, machine: str | None) -> float | None:
    """Print what is kept, missing and unavailable, and the estimated time; return that, in seconds of waiting.

    Args:
        found: the plan.
        records: whose costs the estimate is made of.
        workers: what the cells will run on.
        machine: device name of the records that are preferred, since they were made here.
    """
    _show_gaps(found)
    own = [record for record in records if record.device["name"] == machine]
    seconds: list[float | None] = []
    for table in found.tables:
        state = f"{len(table.kept) + len(table.missing)} cells, {len(table.kept)} kept, "
        if table.unavailable:
            state += f"{len(table.missing)} unavailable"
        else:
            state += f"{len(table.missing)} to run"
            if table.missing:
                here, anywhere = (estimate_seconds(table.runnable, known) for known in (own, records))
                alone = anywhere if here is None else here
                state += f", {'time unknown' if alone is None else f'{_duration(alone)} of work'}"
                state += " by records of another machine" if here is None and anywhere is not None else ""
                seconds.append(alone)
        print(f"plan: {table}: {state}")
    known = [value for value in seconds if value is not None]
    hours = f", {sum(known) / 3600 if workers.on_gpus else 0:.1f} GPU-hours"
    guess = f"about {_duration(sum(known) / workers.size)}{hours}" if known or not seconds else "time unknown"
    if len(known) < len(seconds):
        guess += f" (no record to estimate {len(seconds) - len(known)} of {len(seconds)} tables from)"
    kept_cells = sum(len(table.kept) for table in found.tables)
    unavailable = sum(len(table.missing) - len(table.runnable) for table in found.tables)
    print(
        f"{kept_cells + len(found.missing) + unavailable} cells: {kept_cells} kept, {len(found.missing)} to run, "
        f"{unavailable} unavailable; workers: {workers.size}; {guess}",
        flush=True,
    )
    return sum(known) / workers.size if len(known) == len(seconds) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    here = given.index("--") if "--" in given else len(given)
    options = tyro.cli(Options, args=given[:here], prog="python -m benchmarks.suite")
    # Before any worker starts: its numeric libraries read this once, when they are loaded.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        if options.workers != "auto" and options.workers < 1:
            raise UsageError(f"--workers must be at least 1 or auto, got {options.workers}")
        if options.gpus_per_cell is not None and options.ray_address is None:
            raise UsageError("--gpus-per-cell is for clusters; give --ray-address, too")
        for seed in options.seeds:
            check_seed(seed, "--seeds")
        found = plan(options, given[here + 1 :])
        if options.list:
            show_all(found)
            return 0
        return _run_plan(found, options)
    except (UsageError, pool.ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept, the same command goes on from here", file=sys.stderr)
        return 130


def _run_plan(found: Plan, options: Options) -> int:
    records = read_all(options.results)[0]
    if options.ray_address is None:
        machine = describe_device(computing_device("auto"))["name"]
        workers = pool.local(pool.choose_devices(options.workers))
    else:
        machine = None
        workers = pool.on_ray(options.ray_address, workers=options.workers, gpus_per_worker=options.gpus_per_cell)
    with workers:
        expected = show_plan(found, records, workers, machine)
        unavailable = [
            _record_failure(job, f"{UNAVAILABLE}{table.unavailable}")
            for table in found.tables
            if table.unavailable
            for job in table.missing
        ]
        if not found.missing and not found.unavailable:
            print("nothing to run; --results DIR runs everything anew, into another folder")
            return 0
        progress = Progress(len(found.missing), expected, sys.stdout)
        failures: list[Result] = []
        try:
            for result in run_all(found.missing, workers, progress.show):
                progress.add(result)
                if result.failed:
                    failures.append(result)
        finally:
            progress.clear()
    kept_cells = sum(len(table.kept) for table in found.tables)
    print(
        f"{kept_cells} kept, {progress.done - len(failures)} done, {len(failures)} failed, "
        f"{len(unavailable)} unavailable in {_duration(progress.elapsed)}"
    )
    for result in failures:
        print(f"failed: {result.cell}: {result}; log: {log_path(result.cell, options.results)}", file=sys.stderr)
    return 1 if failures else 3 if found.unavailable else 0


if __name__ == "__main__":
    sys.exit(main())
