"""Run one cell of a table.

    python -m benchmarks.run TASK METHOD [--preset P] [--fold F] [--seed S] [field overrides] [--name N] [--fresh]
    python -m benchmarks.run TASK genetic_single --trial-workers 2     # the candidates of its search side by side
    python -m benchmarks.run --from RECORD [--results DIR] [paths of the data]      # again, see benchmarks.repeat

`--help` lists tasks and methods; with a TASK also every field of its config with the preset's defaults. A config with
fields of the protocol that differ from the preset, or with own data, has a name of its own, --name or the preset's plus
hashes, so that its record neither replaces nor mixes with the preset's.

Exit status: 0 done (--from: and equal), 1 failed (or different), 2 wrong usage, 3 the task's data is missing,
4 different on another machine or with other versions, 130 interrupted.
"""

import argparse
import contextlib
import itertools
import logging
import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

import tasks
from benchmarks import repeat
from benchmarks.arguments import UsageError, check_device, check_seed, leave, parse_both, pick, preset_name, refuse_idle
from benchmarks.cell import Cell
from benchmarks.methods.method import Method
from benchmarks.methods.table import METHODS
from benchmarks.planning.estimate import time_training, trainings
from benchmarks.records.identity import identify
from benchmarks.records.machine import describe_device
from benchmarks.records.places import ROOT, sweep_up
from benchmarks.records.record import UNAVAILABLE
from benchmarks.running import cluster, live, pool
from benchmarks.wandb_results import offline_folders
from benchmarks.written import written
from rfnext.files import explained
from rfnext.lazy import LazyModule
from tasks.ranges import GPUS, THREADS, check_ranges
from tasks.spec import DataError, Logger, device_of

if TYPE_CHECKING:
    from benchmarks.methods import stored
    from benchmarks.running import execute
else:
    stored = LazyModule("benchmarks.methods.stored")
    execute = LazyModule("benchmarks.running.execute")


@dataclass(frozen=True)
class Options:
    """How a cell is run, besides the fields of the task's config."""

    preset: str = "tiny"
    """Named config of the task."""
    name: str | None = None
    """Name of the results, where fields of the preset are changed or the data is your own. By default the preset's
    name, with a hash of the changes, and for own data with its folder and a hash of it."""
    fold: int | None = None
    """Fold to run; by default the first one."""
    seed: int = 0
    """Seed of initial weights, order of the data, dropout and random structures."""
    fresh: bool = False
    """Do everything anew: half-finished trainings of this cell, and the searches that it shares with other methods."""
    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1, ..."""
    estimate: bool = False
    """Time a few steps on the data, print how long the cell takes, and run nothing. Takes half a minute at most."""
    threads: int = 1
    """Threads of torch on the CPU. 1 as in the suite, so that results do not depend on the number of cores."""
    trial_workers: int | Literal["auto"] | None = None
    """Candidates that a search trains at a time, each in a process of its own: a number, or auto for one per GPU or
    core. By default one, in this process; on a cluster, all that fit. Results do not depend on it."""
    ray_address: str | None = None
    """Train candidates on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local, which starts one here. All else
    runs here. All machines must share the results folder."""
    gpus_per_trial: float | None = None
    """GPUs of a candidate on a cluster, may be a fraction. By default 1 if the cluster has any."""
    logger: Logger = "none"
    """Where the curves of trainings go."""
    results: Path = ROOT / "results"
    """Folder of the records. Checkpoints and logs go to its folder work."""

    def __post_init__(self) -> None:
        check_ranges(self, {"threads": THREADS, "trial_workers": THREADS, "gpus_per_trial": GPUS})


def parse(arguments: Sequence[str]) -> tuple[Cell, Options]:
    """Turn a command line into a cell.

    Raises:
        UsageError: for an unknown task, method, preset or fold, a method that the task leaves out, an impossible
            seed or number of threads.
        SystemExit: after --help (0) or a wrong option (2), which tyro has explained.
    """
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[:2]))
    known_tasks = tasks.names()
    overview = (
        "Runs one method on one task: one cell of a table. With --from RECORD in place of TASK and METHOD it runs the "
        "cell of a record again and compares the two (--from RECORD --help).\n\n"
        "Exit status: 0 done (--from: and equal), 1 failed (or different), 2 wrong usage, 3 data is missing, "
        "4 different on another machine or with other versions, 130 interrupted.\n\n"
        f"TASK: {', '.join(known_tasks)}\n\n"
        "METHOD:\n\n" + "\n\n".join(f"{method.name}: {method.description}" for method in METHODS.values())
    )
    if not names:
        tyro.cli(Options, args=list(arguments), prog="python -m benchmarks.run TASK METHOD", description=overview)
        raise UsageError(f"give a TASK ({', '.join(known_tasks)}) and a METHOD ({', '.join(METHODS)}) first")
    task = tasks.load(pick("task", names[0], known_tasks))
    if len(names) == 2:
        pick("method", names[1], METHODS)
    rest = arguments[len(names) :]
    # The preset comes first: its fields are the defaults of the others.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="tiny")
    base = pick("preset", first.parse_known_args(rest)[0].preset, task.presets)
    options, config = parse_both(
        Options(preset=base),
        task.presets[base],
        rest,
        prog=f"python -m benchmarks.run {task.name} {names[1] if len(names) == 2 else 'METHOD'}",
        description=f"{overview}\n\nPRESET: {', '.join(task.presets)}. Defaults below are those of {base}.",
    )
    refuse_idle(task.presets[base], config)
    if len(names) < 2:
        raise UsageError(f"give a METHOD after the task: {', '.join(METHODS)}")
    if reason := METHODS[names[1]].unfit(task, config):
        where = task.name if names[1] in task.leaves_out else f"{task.name} with preset {base}"
        raise UsageError(f"{names[1]} is not for {where}: {reason}")
    _check(options)
    folds = task.folds(config)
    fold = folds[0] if options.fold is None else options.fold
    if fold not in folds:
        raise UsageError(f"{task.name} {base} has no fold {fold}; its folds: {', '.join(map(str, folds))}")
    identity = identify(task, config)
    cell = Cell(
        task=task,
        preset=preset_name(task, base, config, options.name, identity),
        config=config,
        method=METHODS[names[1]],
        fold=fold,
        seed=options.seed,
        results=options.results,
        base=base,
        device=options.device,
        threads=options.threads,
        logger=options.logger,
        resume=not options.fresh,
        identity=identity,
    )
    return cell, options


def _check(options: Options) -> None:
    check_seed(options.seed)
    check_device(options.device)
    if options.gpus_per_trial is not None and options.ray_address is None:
        raise UsageError("--gpus-per-trial is for clusters; give --ray-address, too")


def candidate_workers(method: Method, options: Options) -> contextlib.AbstractContextManager[pool.Pool | None]:
    """Where a method's search trains its candidates; None: one after another in this process.

    Raises:
        UsageError: if the method trains none.
        ClusterError: if the cluster cannot be used.
    """
    count = options.trial_workers
    if (count is not None or options.ray_address is not None) and not method.ranks:
        known = ", ".join(name for name, one in METHODS.items() if one.ranks)
        raise UsageError(f"{method.name} trains no candidates; --trial-workers and --ray-address are for {known}")
    if options.ray_address is not None:
        return cluster.on_ray(options.ray_address, workers=count or "auto", gpus_per_worker=options.gpus_per_trial)
    if count is None:
        return contextlib.nullcontext()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # numeric libraries of the workers read it when loaded
    devices = pool.choose_devices(count)
    return pool.local(devices if options.device == "auto" else [options.device] * len(devices))


def _how_to_go_on(arguments: Sequence[str]) -> str:
    given = {argument.partition("=")[0] for argument in arguments}
    if repeat.FLAG in given and "--results" not in given:
        return "The same command starts anew; with --results DIR it could go on."
    same = "Without --fresh, the same command" if "--fresh" in given else "The same command"
    return f"{same} goes on from the last finished epoch."


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    line = live.OneLine()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", handlers=[live.Lines(line)])
    try:
        if repeat.is_asked_for(arguments):
            return repeat.main(arguments)
        cell, options = parse(arguments)
        import torch

        torch.set_num_threads(options.threads)
        if options.estimate:
            return _estimate(cell)
        if sys.stderr.isatty():
            live.show_by(line)
        sweep_up(cell.results)
        with candidate_workers(cell.method, options) as workers:
            if options.fresh and not cell.task.unavailable(cell.config):
                stored.forget(cell)
            record = execute.run_cell(cell, workers)
    except (UsageError, cluster.ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {explained(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        line.clear()
        print(f"interrupted; nothing was recorded. {_how_to_go_on(arguments)}", file=sys.stderr)
        return 130
    line.clear()
    live.show_by(None)
    if record.status == "done":  # the error is said below
        print(f"{record.key}: {execute.describe(record)}")
    for text in written(cell, record):
        print(text)
    if cell.logger == "wandb" and (folders := offline_folders(cell)):
        print(f"Weights & Biases, offline; upload with: wandb sync {shlex.join(map(str, folders))}")
    if record.status == "done":
        return 0
    print(f"error: {record.reason}", file=sys.stderr)
    return 3 if (record.reason or "").startswith(UNAVAILABLE) else 1


def _estimate(cell: Cell) -> int:
    """Print how long a cell takes here; 1 if no step ended in time, 3 if its data is missing."""
    if missing := cell.task.unavailable(cell.config):
        print(f"error: {missing}", file=sys.stderr)
        return 3
    try:
        timed = time_training(cell.task, cell.config, device=cell.device)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    print(f"{cell.key}, on {describe_device(device_of(cell.device))['name']}: {timed}")
    if math.isinf(timed.training):
        return 1
    count, folds = trainings(cell.method), len(cell.task.folds(cell.config))
    whole = timed.training * count
    donor = any(search.donor for search in cell.method.searches)
    of_donor = "; the search is on another network, and is counted as on this one" if donor else ""
    print(
        f"{cell.method.name} costs {count:g} training{'s' if count != 1 else ''} (a step that searches takes up to 1.4 "
        f"times as long): about {live.duration(whole)} for this fold, {live.duration(whole * folds)} for all {folds}"
        f"{of_donor}"
    )
    return 0


if __name__ == "__main__":
    leave(main())
