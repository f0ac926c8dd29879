"""Run many cells: plan them, keep what is done, run the rest in worker processes.

    python -m benchmarks.suite PRESET [--task T ...] [--method M ...] [--seeds 0 1] [--folds 1 2] [--list]
    python -m benchmarks.suite PRESET --task T ... -- [fields of T's config, as for benchmarks.run]
    python -m benchmarks.suite PRESET --ray-address auto        # on the Ray cluster that this machine is a node of

PRESET is a preset of the tasks or one of their suites, several presets that are run together: "tiny" is the main job,
"paper" all whose numbers papers report. Those with data here run, and for the others the output says what to download.

A cell is kept if its record was run here, is done and has the planned protocol; failed cells are tried again. Records
that came with the repository are not kept unless --keep-committed is given. After an interruption, the same command
goes on: finished cells are kept, and half-finished trainings continue after their last whole epoch. With --fresh all is
done anew. Several suites may work on the same results folder.

Exit status: 0 all done, 1 a cell failed, a record is broken or the results folder cannot be written, 2 wrong usage or
no such cluster, 3 only data is missing, 130 interrupted.
"""

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from benchmarks.arguments import UsageError, check_seed, leave
from benchmarks.planning.plan import Plan, Request, make_plan
from benchmarks.planning.plan_text import show_details, show_needs, show_plan
from benchmarks.records.folder import read_all
from benchmarks.records.lines import Broken
from benchmarks.records.machine import device_name
from benchmarks.records.places import ROOT, sweep_up, work_folder
from benchmarks.records.record import UNAVAILABLE, Record, ask_anew
from benchmarks.running import cluster, pool
from benchmarks.running.live import duration
from benchmarks.wandb_results import offline_folders, sync_command
from benchmarks.written import dilations
from rfnext.files import explained
from rfnext.lazy import LazyModule
from tasks.command_line import parse_or_end
from tasks.ranges import GPUS, THREADS, check_ranges
from tasks.spec import Logger

if TYPE_CHECKING:
    from benchmarks.methods import stored
    from benchmarks.running import schedule
    from benchmarks.running.schedule import Result
else:
    stored = LazyModule("benchmarks.methods.stored")
    schedule = LazyModule("benchmarks.running.schedule")


@dataclass(frozen=True)
class Options:
    """Run many cells: every method on every fold and seed of a preset, for all tasks that have it.

    Fields of one task's config follow after --, as in: --task action_segmentation -- --epochs 20

    Exit status: 0 all done, 1 a cell failed, a record is broken or the results folder cannot be written, 2 wrong usage
    or no such cluster, 3 only data is missing, 130 interrupted.
    """

    preset: tyro.conf.Positional[str] = "tiny"
    """Preset of the tasks, or a suite of presets. paper: all that papers report."""
    task: tuple[str, ...] = ()
    """Only these tasks; by default all that have the preset."""
    method: tuple[str, ...] = ()
    """Only these methods; by default the standard ones. all: every method."""
    seeds: tuple[int, ...] = (0,)
    """Seeds to run on every fold."""
    folds: tuple[int, ...] = ()
    """Only these folds; by default all."""
    name: str | None = None
    """Name of the results, where fields of the preset are changed or the data is your own. By default the preset's
    name, with a hash of the changes, and for own data with its folder and a hash of it."""
    workers: int | Literal["auto"] = "auto"
    """Cells that run at a time. auto: one per GPU, or one per core with one thread each; on a cluster, all that fit."""
    ray_address: str | None = None
    """Run on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local, which starts one here."""
    gpus_per_cell: float | None = None
    """GPUs of a cell on a cluster, may be a fraction. By default 1 if the cluster has any."""
    logger: Logger = "none"
    """Where the curves of trainings go. wandb needs no account: without one, WANDB_MODE is offline."""
    wandb: bool = False
    """Short for --logger wandb."""
    fresh: bool = False
    """Do everything anew: finished cells, stored searches and half-finished trainings. Interrupted, it goes on without
    --fresh."""
    keep_committed: bool = False
    """Also keep records that came with the repository."""
    list: bool = False
    """Print the plan, a line per table, and run nothing."""
    verbose: bool = False
    """With --list: also tasks, presets, methods and every cell."""
    results: Path = ROOT / "results"
    """Folder of the records. Checkpoints and logs go to its folder work."""

    def __post_init__(self) -> None:
        check_ranges(self, {"workers": THREADS, "gpus_per_cell": GPUS})


def _name(broken: Sequence[Broken]) -> int:
    """Say what is no record: a few of it, all may have the same fault. Returns the exit status that it makes."""
    for fault in broken[:3]:
        print(f"error: {fault}", file=sys.stderr)
    if (more := len(broken) - 3) > 0:
        print(f"error: and {more} more that are no records; python -m benchmarks.report names all", file=sys.stderr)
    return 1 if broken else 0


def _check(options: Options) -> None:
    if options.gpus_per_cell is not None and options.ray_address is None:
        raise UsageError("--gpus-per-cell is for clusters; give --ray-address, too")
    for seed in options.seeds:
        check_seed(seed, "--seeds")


def _request(options: Options, overrides: Sequence[str]) -> Request:
    return Request(
        suite=options.preset,
        results=options.results,
        tasks=options.task,
        methods=options.method,
        folds=options.folds,
        seeds=options.seeds,
        logger="wandb" if options.wandb else options.logger,
        resume=not options.fresh,
        committed=options.keep_committed,
        overrides=overrides,
        name=options.name,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    here = given.index("--") if "--" in given else len(given)
    options = parse_or_end(Options, given[:here], prog="python -m benchmarks.suite")
    # Before any worker starts: its numeric libraries read this once, when they are loaded.
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        _check(options)
        records = read_all(options.results)
        gc.freeze()  # they stay to the end; a search of thousands of them for garbage takes a tenth of a second
        plan = make_plan(_request(options, given[here + 1 :]), records)
        if options.list:
            if options.verbose:
                show_details(plan)
            show_plan(plan, records.all, len(pool.choose_devices(options.workers)), device_name())
            if options.preset == "paper":
                show_needs()
            return _name(records.broken)
        sweep_up(options.results)
        status = _run(plan, options, records.all)
        if records.broken:  # what was run again is whole now
            broken = _name(read_all(options.results).broken)
            return broken if status in (0, 3) else status
        return status
    except (UsageError, cluster.ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        same = "without --fresh, the same command" if options.fresh else "the same command"
        print(f"interrupted; finished cells are kept, {same} goes on from here", file=sys.stderr)
        return 130


def _workers(options: Options) -> tuple[pool.Pool, str | None]:
    """The pool, and the device's name where it is known."""
    if options.ray_address is None:
        return pool.local(pool.choose_devices(options.workers)), device_name()
    return cluster.on_ray(options.ray_address, workers=options.workers, gpus_per_worker=options.gpus_per_cell), None


def _run(plan: Plan, options: Options, records: Sequence[Record]) -> int:
    from benchmarks.running.progress import Progress  # with rich, which --list does not need

    workers, machine = _workers(options)
    with workers:
        expected = show_plan(plan, records, workers.size, machine)
        missing = [(table.unavailable, cell) for table in plan.tables if table.unavailable for cell in table.missing]
        for reason, cell in missing:
            schedule.failure(cell, f"{UNAVAILABLE}{reason}")
        if not plan.missing and not plan.unavailable:
            print("nothing to run; --fresh runs everything anew, with --results DIR into another folder")
            return 0
        for cell in plan.missing if options.fresh else ():
            ask_anew(cell.key, cell.results)  # also for the next suite, if this one is interrupted
            stored.forget(cell)
        failures: list[Result] = []
        results: list[Result] = []
        with Progress(len(plan.missing), expected) as progress:
            for result in schedule.run_all(plan.missing, workers, progress.show):
                progress.add(f"{result.cell}: {result}")
                results.append(result)
                if result.failed:
                    failures.append(result)
    print(
        f"{len(plan.kept)} kept, {progress.done - len(failures)} done, {len(failures)} failed, "
        f"{len(missing)} unavailable in {duration(progress.elapsed)}"
    )
    for text in _outcome(results, options):
        print(text)
    for result in failures:
        print(f"failed: {result.cell}: {result}; log: {result.cell.log}", file=sys.stderr)
    return 1 if failures else 3 if plan.unavailable else 0


def _outcome(results: "Sequence[Result]", options: Options) -> list[str]:
    """What was found, of the first fold and seed of each table, where things are, and how to upload the curves."""
    from benchmarks.running.progress import shortest

    said: list[str] = []
    seen = set[tuple[str, ...]]()
    for result in sorted(results, key=lambda one: one.cell.key):
        row = result.cell.key[:3]
        if result.record is None or result.failed or row in seen:
            continue
        seen.add(row)
        if moved := dilations(result.record):
            said.append(f"dilations of {result.cell}: {moved}")
    done = [result.cell for result in results if not result.failed]
    if done:
        work = shortest(work_folder(options.results))
        said.append(f"networks, structures and logs: {work}/TASK/PRESET/METHOD/foldF-seedS/")
    if (options.results / "pictures").exists():
        said.append(f"pictures: {shortest(options.results / 'pictures')}")
    if (options.wandb or options.logger == "wandb") and any(map(offline_folders, done)):
        said.append(f"Weights & Biases, offline; upload with: {sync_command(work_folder(options.results))}")
    return said


if __name__ == "__main__":
    leave(main())
