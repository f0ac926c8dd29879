"""Many cells: plans them, keeps what is done, runs the rest in worker processes.

    python -m benchmarks.suite PRESET [--task T ...] [--method M ...] [--seeds 0 1] [--folds 1 2] [--list]
    python -m benchmarks.suite PRESET --task T ... -- [fields of T's config, as for benchmarks.run]

A cell is kept if its record was made here, is done and has the planned protocol; failed cells are tried again.
Records that came with the repository are replaced by those of your own run (git shows how they differ), unless
--keep-elsewhere is given; records gathered from several machines need it, too. Interrupting costs the cells that
are running, never a finished one. Several suites may work on the same results folder.

Exit status: 0 all done, 1 a cell failed, 2 wrong usage, 3 only data is missing, 130 interrupted.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch
import tyro

import tasks
from benchmarks.methods import METHODS, Job
from benchmarks.record import ROOT, Busy, Cell, Record, describe_device, kept, read_all, write
from benchmarks.run import (
    UNAVAILABLE,
    UsageError,
    command_line,
    computing_device,
    describe,
    make_record,
    now,
    override,
    pick,
    preset_name,
    run_cell,
)


@dataclass(frozen=True)
class Options:
    """Run many cells: every method on every fold and seed of a preset, for all tasks that have it."""

    preset: tyro.conf.Positional[str] = "tiny"
    """Named config of the tasks."""
    task: tuple[str, ...] = ()
    """Only these tasks."""
    method: tuple[str, ...] = ()
    """Only these methods."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds to run on every fold."""
    folds: tuple[int, ...] = ()
    """Only these folds."""
    workers: int | Literal["auto"] = "auto"
    """Cells at a time; auto: one per GPU, or one per core with one thread each."""
    resume: bool = False
    """Continue interrupted trainings from their checkpoints instead of starting those cells anew."""
    keep_elsewhere: bool = False
    """Also keep records that were not made in this folder: those that came with the repository, or were copied."""
    list: bool = False
    """Print tasks, presets, methods and cells, and run nothing."""
    results: Path = ROOT / "results"
    """Folder of the records; checkpoints and logs go to its work folder."""


@dataclass
class Plan:
    """What a suite has to do.

    presets: by task. unavailable: task -> what is missing. skipped: what is left out, and why.
    """

    presets: dict[str, list[str]] = field(default_factory=dict)
    kept: dict[Cell, Record] = field(default_factory=dict)
    missing: list[Job] = field(default_factory=list)
    unavailable: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def cells(self) -> int:
        return len(self.kept) + len(self.missing)


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
    methods = [pick("method", name, METHODS) for name in options.method] or list(METHODS)
    found = Plan()
    for name in names:
        try:
            task = tasks.load(name)
        except Exception as error:  # a task that lacks a package, say, is no reason to leave the others out
            found.unavailable[name] = f"cannot be loaded: {type(error).__name__}: {error}"
            continue
        found.presets[name] = list(task.presets)
        if options.preset not in task.presets:
            found.skipped.append(f"{name} has no preset {options.preset!r}; it has {', '.join(task.presets)}")
            continue
        config = override(task, options.preset, overrides, "python -m benchmarks.suite ... --")
        preset = preset_name(task, options.preset, config)
        folds = task.folds(config)
        if unknown := [fold for fold in options.folds if fold not in folds]:
            found.skipped.append(
                f"{name} has no fold {', '.join(map(str, unknown))}; it has {', '.join(map(str, folds))}"
            )
        for fold in folds:
            for seed in options.seeds if fold in (options.folds or folds) else ():
                for method in methods:
                    cell = Cell(name, preset, method, fold, seed)
                    command = command_line(task, method, options.preset, config, fold, seed)
                    job = Job(cell, task, config, options.results, command, resume=options.resume)
                    if record := kept(cell, job.protocol(), options.results, elsewhere=options.keep_elsewhere):
                        found.kept[cell] = record
                    else:
                        found.missing.append(job)
        if any(job.cell.task == name for job in found.missing) and (reason := task.unavailable(config)):
            found.unavailable[name] = reason
    if known := dict.fromkeys(preset for presets in found.presets.values() for preset in presets):
        pick("preset", options.preset, known)
    if not found.cells and not found.unavailable:
        raise UsageError(f"no cell to run; {'; '.join(found.skipped)}")
    return found


def estimate_seconds(missing: Sequence[Job], results: Path, workers: int) -> float | None:
    """Wall-clock seconds for the missing cells by the records of this machine; None if there are none."""
    records = [
        record
        for record in read_all(results)[0]
        if record.status == "done" and not record.resumed and record.device["name"] == _device_name()
    ]
    sharing = {name for name, method in METHODS.items() if method.shares_search}
    total, searches = 0.0, set()
    for job in missing:
        cell = job.cell
        similar = [r for r in records if (r.task, r.preset) == (cell.task, cell.preset)]
        same = [r for r in similar if r.method == cell.method] or similar
        if not same:
            return None
        shared = cell.method in sharing
        total += fmean(r.training.seconds + r.evaluation_seconds + (0 if shared else r.search.seconds) for r in same)
        if shared and (cell.task, cell.fold, cell.seed) not in searches:
            searches.add((cell.task, cell.fold, cell.seed))
            searched = [r.search.seconds for r in similar if r.search.epochs and r.method in sharing]
            total += fmean(searched or [r.training.seconds for r in similar])
    return total / workers


def _device_name() -> str:
    return describe_device(computing_device("auto"))["name"]


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


def run_all(missing: Sequence[Job], devices: Sequence[str]) -> Iterator[Result]:
    """Run jobs, one worker process per device, and yield each result as it comes.

    The cells that share a search follow one another, so that the search is done once while other workers do
    other cells. A cell that another process is running is left for the end, and then waited for. Every worker
    has a pool of its own, so that one that dies takes no other cell with it.
    """
    chains: dict[tuple[str, int, int], list[Job]] = {}
    alone: list[Job] = []
    for job in missing:
        if METHODS[job.cell.method].shares_search:
            chains.setdefault((job.cell.task, job.cell.fold, job.cell.seed), []).append(job)
        else:
            alone.append(job)
    ready = [(job, False) for job in [*(chain.pop(0) for chain in chains.values()), *alone]]
    late: list[tuple[Job, bool]] = []
    idle = [(_pool(), device) for device in devices[: len(missing)]]
    running: dict[Future[Record], tuple[Job, ProcessPoolExecutor, str]] = {}
    try:
        while ready or late or running:
            while idle and (ready or (late and not running)):
                if not ready:
                    ready, late = late, []
                (job, patient), (pool, device) = ready.pop(0), idle.pop(0)
                running[_submit(pool, job, device, patient)] = (job, pool, device)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, pool, device = running.pop(future)
                try:
                    result = Result(job.cell, future.result())
                except Busy:
                    late.append((job, True))
                    idle.append((pool, device))
                    continue
                except BrokenProcessPool:
                    pool.shutdown()
                    pool = _pool()
                    result = _record_failure(job, "its worker process died (killed, or out of memory?)")
                except (Exception, SystemExit) as error:
                    result = _record_failure(job, f"{type(error).__name__}: {error}")
                idle.append((pool, device))
                if METHODS[job.cell.method].shares_search:
                    chain = chains[job.cell.task, job.cell.fold, job.cell.seed]
                    ready += [(follower, False) for follower in chain]
                    chain.clear()
                yield result
    except BaseException:
        for pool, _ in idle:
            pool.shutdown(wait=False, cancel_futures=True)
        for _, pool, _ in running.values():
            pool.shutdown(wait=False, cancel_futures=True)
        _stop_children()
        raise
    for pool, _ in idle:
        pool.shutdown()


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker)


def _submit(pool: ProcessPoolExecutor, job: Job, device: str, patient: bool) -> "Future[Record]":
    # The worker is started here and inherits that Ctrl-C is ignored: the parent ends it in order.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # The task stays behind: its functions need not be picklable.
        return pool.submit(_work, job.cell, job.config, job.results, job.command, device, job.resume, patient)
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def _work(cell: Cell, config: Any, results: Path, command: str, device: str, resume: bool, patient: bool) -> Record:
    log = log_path(cell, results)
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(log, "ab") as file:  # libraries write to the descriptors too
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    job = Job(cell, tasks.load(cell.task), config, results, command, device=device, resume=resume)
    return run_cell(job, wait=patient, rerun=False)


def log_path(cell: Cell, results: Path) -> Path:
    """What a cell's worker printed."""
    return cell.work(results) / "log.txt"


def _record_failure(job: Job, reason: str) -> Result:
    record = make_record(job, now(), reason=reason)
    try:
        write(record, job.results)
    except OSError as error:
        return Result(job.cell, None, f"{reason}; {error}")
    return Result(job.cell, record)


def _stop_children() -> None:
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    deadline = time.monotonic() + 5  # Lightning ends the batch first
    for child in children:
        child.join(max(0, deadline - time.monotonic()))
        if child.is_alive():
            child.kill()


def choose_devices(workers: int | Literal["auto"]) -> list[str]:
    """The device of each worker."""
    gpus = torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = (gpus or cores) if workers == "auto" else workers
    if count < 1:
        raise UsageError(f"--workers must be at least 1 or auto, got {workers}")
    return [f"cuda:{i % gpus}" if gpus else "cpu" for i in range(count)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show(found: Plan) -> None:
    """Print tasks with their presets, methods, and the state of every cell of the plan."""
    for name, presets in found.presets.items():
        print(f"task {name}: presets {', '.join(presets)}")
    for method in METHODS.values():
        print(f"method {method.name}: {method.description}")
    for note in found.skipped:
        print(f"skipped: {note}")
    for name, reason in found.unavailable.items():
        print(f"unavailable: {name}: {reason}")
    for cell in sorted([*found.kept, *(job.cell for job in found.missing)]):
        print(f"{'done   ' if cell in found.kept else 'missing'} {cell}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    here = given.index("--") if "--" in given else len(given)
    options = tyro.cli(Options, args=given[:here], prog="python -m benchmarks.suite")
    # Before any worker starts: its numeric libraries read this once, when they are loaded.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    try:
        devices = choose_devices(options.workers)
        found = plan(options, given[here + 1 :])
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.list:
        show(found)
        return 0
    try:
        return _run_plan(found, options, devices)
    except KeyboardInterrupt:
        print("interrupted; finished cells are kept, the same command goes on from here", file=sys.stderr)
        return 130


def _run_plan(found: Plan, options: Options, devices: Sequence[str]) -> int:
    for note in found.skipped:
        print(f"skipped: {note}")
    results = [
        _record_failure(job, UNAVAILABLE + found.unavailable[job.cell.task])
        for job in found.missing
        if job.cell.task in found.unavailable
    ]
    unavailable = len(results)
    for name, reason in found.unavailable.items():
        print(f"unavailable: {name}: {reason}")
    missing = [job for job in found.missing if job.cell.task not in found.unavailable]
    seconds = estimate_seconds(missing, options.results, len(devices)) if missing else 0
    guess = "no records of this machine to estimate the time from" if seconds is None else f"about {_duration(seconds)}"
    print(
        f"{found.cells} cells: {len(found.kept)} kept, {len(missing)} to run, {unavailable} unavailable; "
        f"workers: {len(devices)}; {guess}",
        flush=True,
    )
    if not missing and not found.unavailable:
        print("nothing to run; --results DIR runs everything anew, into another folder")
        return 0
    start = time.monotonic()
    failures: list[Result] = []
    for number, result in enumerate(run_all(missing, devices), 1):
        elapsed = time.monotonic() - start
        left = elapsed / number * (len(missing) - number)
        times = f"elapsed {_duration(elapsed)}, left {_duration(left)}"
        print(f"[{number}/{len(missing)}] {result.cell}: {result} ({times})", flush=True)
        if result.failed:
            failures.append(result)
    print(
        f"{len(found.kept)} kept, {len(missing) - len(failures)} done, {len(failures)} failed, "
        f"{unavailable} unavailable in {_duration(time.monotonic() - start)}"
    )
    for result in failures:
        print(f"failed: {result.cell}: {result}; log: {log_path(result.cell, options.results)}", file=sys.stderr)
    return 1 if failures else 3 if found.unavailable else 0


if __name__ == "__main__":
    sys.exit(main())
