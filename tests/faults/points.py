"""A crash at every single change of the file system, in cells of the toy task.

    python -m tests.faults.points [--method local_merge genetic_single ...] [--most 3]
    python -m tests.faults.points --method local_single --logger wandb --only wandb

A cell that runs undisturbed counts its changes: files opened for writing, renamed or removed, and folders made or
removed. Then, for each of them, a process runs the cell and ends right before that change, without
any clean-up; before a rename it ends a second time with half of the new file written. After each crash no file may
be half-written. The cell runs again, and its record and network must be those of the undisturbed run.

With --most N only N of the changes of each kind are tried, from the first to the last: a kind is what is done to files
of one name. A cell makes many that differ only in the epoch or the candidate. With --only TEXT those of paths with this
text are tried: a run of Weights & Biases, offline, is to be there after each crash, besides the record.

The changes are seen from outside, by Python's audit events. Prints one JSON line per method. Exit status: 0 all equal,
1 a cell differs.
"""

import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.cell import Cell
from benchmarks.running.execute import run_cell
from rfnext.integrations.wandb import RUN_FILE, offline_runs
from tasks.spec import Logger
from tests.faults.outcome import differences, half_written, outcome
from tests.faults.toy_cells import only_toy, toy_cell

CRASHED = 99
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")


@dataclass(frozen=True)
class Options:
    """Crash cells of the toy task at every change of the file system."""

    method: tuple[str, ...] = ("local_merge", "genetic_single")
    """Methods; a genetic search is a brief one."""
    most: int | None = None
    """Changes of each kind that are tried; None: all."""
    logger: Logger = "none"
    """Of the cells."""
    only: str = ""
    """Only changes of paths that have this below the folder of results."""


@dataclass
class Crash:
    """An audit hook that lists the changes below a folder, and ends the process right before one of them.

    seen: of each change, what is done and the name of the file, without numbers. at: number of the change, from 0 on;
    None: none. half: cut the file that is renamed there to its half. only: what a path has to hold to be counted.
    """

    folder: Path
    at: int | None = None
    half: bool = False
    only: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._changes(event, arguments):
            return
        if len(self.seen) == self.at:
            self.at = None  # what follows is a change, too
            if self.half and not os.path.islink(arguments[0]):
                os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            os._exit(CRASHED)
        self.seen.append((event, kind_of(arguments[0])))

    def _changes(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, _, flags = arguments
            return bool(flags & (os.O_WRONLY | os.O_RDWR)) and self._below(path)
        if event not in CHANGES:
            return False
        # What rmtree removes it names by the descriptor of its folder.
        relative = not self.only and not os.path.isabs(os.fsdecode(arguments[0]))
        return relative or self._below(arguments[0])

    def _below(self, path: Any) -> bool:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        start, whole = f"{self.folder}{os.sep}", os.fsdecode(path)
        return whole.startswith(start) and self.only in whole.removeprefix(start)


def kind_of(path: Any) -> str:
    """The name of a file without numbers, hashes, and what makes a temporary name unique."""
    name = re.sub(r"\.[0-9a-f]{8}-\d+-[a-z0-9_]{8}(?=\.tmp$)", "", os.path.basename(os.fsdecode(path)))
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", name)


def chosen(seen: Sequence[Sequence[str]], most: int | None) -> list[tuple[int, bool]]:
    """The crashes to try: numbers of changes, before renames both whole and half; at most so many changes of a kind."""
    kinds: dict[tuple[str, ...], list[int]] = {}
    for at, change in enumerate(seen):
        kinds.setdefault(tuple(change), []).append(at)
    kept = set()
    for places in kinds.values():
        count = min(len(places), most or len(places))
        kept |= {places[round(k * (len(places) - 1) / max(1, count - 1))] for k in range(count)}
    return [(at, half) for at in sorted(kept) for half in (False, True) if not half or seen[at][0] == "os.rename"]


def in_fork(work: Callable[[], None]) -> int:
    """Do the work in a process of its own, which ends without any clean-up; returns its exit status."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            logging.exception("a crash was expected, or nothing")
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(cell: Cell, crash: Crash, listed: Path | None = None) -> int:
    """Run a cell in a process of its own; exit status 0 if it is done. Lists the changes in a file, if given."""

    def work() -> None:
        sys.addaudithook(crash)
        assert run_cell(cell).status == "done"
        if listed is not None:
            listed.write_text(json.dumps(crash.seen))

    return in_fork(work)


def lost_run(folder: Path) -> str:
    """What is wrong with the offline run of a cell that logs to Weights & Biases; empty if nothing is."""
    stored = list(folder.rglob(RUN_FILE))
    if len(stored) != 1 or not json.loads(stored[0].read_text())["id"]:
        return f"{len(stored)} files {RUN_FILE}"
    runs = [path for path in offline_runs(folder) if list(path.glob("*.wandb"))]
    return "" if runs else "no offline run"


def measure(method: str, scratch: Path, options: Options) -> dict[str, Any]:
    """Crash a method's cell at the chosen changes; what came out, as a JSON value."""
    start = time.monotonic()
    listed, undisturbed, folder = scratch / "changes.json", scratch / "undisturbed", scratch / "crashed"
    cell = toy_cell(method, undisturbed, options.logger)
    assert run(cell, Crash(undisturbed, only=options.only), listed) == 0
    expected, seen = outcome(undisturbed), json.loads(listed.read_text())
    points = chosen(seen, options.most)
    faults: list[str] = []
    for at, half in points:
        cell = toy_cell(method, folder, options.logger)
        if (status := run(cell, Crash(folder, at, half, options.only))) != CRASHED:
            faults.append(f"change {at}: not reached, the process ended with {status}")
        elif broken := half_written(folder):
            faults.append(f"change {at}: {', '.join(path.name for path in broken)} half-written")
        elif run(cell, Crash(folder)) != 0:
            faults.append(f"change {at}, {' '.join(seen[at])}, half {half}: the cell failed")
        elif different := differences(expected, outcome(folder)):
            faults.append(f"change {at}, {' '.join(seen[at])}, half {half}: {', '.join(different[:3])} differ")
        elif options.logger == "wandb" and (lost := lost_run(folder)):
            faults.append(f"change {at}, {' '.join(seen[at])}, half {half}: {lost}")
        shutil.rmtree(folder, ignore_errors=options.logger == "wandb")  # wandb's own process may still write
    seconds = round(time.monotonic() - start, 1)
    writes = sum(event == "os.rename" for event, _ in seen)
    kinds = sorted({name for _, name in seen})
    return {"method": method, "crashes": len(points), "writes": writes, "kinds": kinds, "seconds": seconds} | {
        "equal": not faults,
        "faults": faults,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m tests.faults.points")
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    only_toy()
    equal = True
    with tempfile.TemporaryDirectory(prefix="rfnext-points-") as scratch:
        for method in options.method:
            # Once here, so that no other process has to import what the first training imports.
            run_cell(toy_cell(method, Path(scratch, method, "imports")))
            said = measure(method, Path(scratch, method), options)
            print(json.dumps({"test": "points"} | said), flush=True)
            equal = equal and said["equal"]
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
