"""A disk that is full at every possible moment, under cells of the toy task.

    python -m tests.faults.full_disk [--method local_merge ...]

`python -m benchmarks.run` runs with its results on a small disk with 0, 12, 24, ... KiB left. It must end with one
clear error that names the file, status 1, and no half-written file. Then there is space, the same command runs
again, and its record and network must be those of a run on an empty disk. Where no disk can be mounted, the limit of
the size of files takes its place, from one byte on.

Prints one JSON line per method. Exit status: 0 all equal, 1 a fault was found.
"""

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks import run
from tests.faults import small_disk
from tests.faults.outcome import differences, half_written, outcome
from tests.faults.points import in_fork
from tests.faults.toy_cells import EPOCHS, only_toy

SIZE = 2**20
STEP = 12288
INSIDE = "RFNEXT_SMALL_DISK"
"""Environment variable: the mounted disk, in the process that runs on it."""


@dataclass(frozen=True)
class Options:
    """Run cells of the toy task on a full disk."""

    method: tuple[str, ...] = ("local_merge", "genetic_single")
    """Methods."""


def run_command(method: str, results: Path, printed: Path, limit: int | None = None) -> int:
    """`python -m benchmarks.run` in a process of its own; returns its status. What it prints goes to a file.

    limit: bytes that a file may have, for lack of a small disk.
    """

    def work() -> None:
        with open(printed, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        line = ["toy", method, "--epochs", str(EPOCHS), "--name", "short", "--results", str(results)]
        status = run.main([*line, "--device", "cpu"])
        sys.stdout.flush()
        os._exit(status)

    return in_fork(work)


def fault_of(status: int, printed: str, folder: Path) -> str | None:
    """What is wrong with the end of a run on a full disk; None if nothing is."""
    if broken := half_written(folder):
        return f"half-written: {', '.join(path.name for path in broken)}"
    if status == 0:
        return None
    errors = [line for line in printed.splitlines() if not line.startswith(("INFO ", "WARNING "))]
    clear = len(errors) == 1 and errors[0].startswith("error: ") and str(folder) in errors[0]
    return None if status == 1 and clear else f"status {status}, said {errors[-5:]}"


def sweep(method: str, scratch: Path, folder: Path, fill: Callable[[int], int | None], free: Callable[[], None]) -> Any:
    """Run a method's cell with more and more space, until it fits; what came out, as a JSON value.

    fill: leaves some steps of free space, and returns the limit of the size of files. free: makes space.
    """
    printed, undisturbed = scratch / "printed.txt", scratch / "undisturbed"
    assert run_command(method, undisturbed, printed) == 0, printed.read_text()
    expected, faults, refused = outcome(undisturbed), [], 0
    for steps in range(SIZE // STEP):
        limit = fill(steps)
        status = run_command(method, folder, printed, limit)
        if fault := fault_of(status, printed.read_text(), folder):
            faults.append(f"{steps} steps: {fault}")
        free()
        if status == 0:
            break
        refused += 1
        if run_command(method, folder, printed) != 0:
            faults.append(f"{steps} steps: fails with space, too: {printed.read_text()[-300:]}")
        elif different := differences(expected, outcome(folder)):
            faults.append(f"{steps} steps: {', '.join(different[:3])} differ")
        shutil.rmtree(folder)
    shutil.rmtree(folder)  # the next method starts with an empty disk
    kind = "small disk" if limit is None else "limit of the size of files"
    return {"method": method, "by": kind, "refused": refused, "equal": not faults, "faults": faults}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = tyro.cli(Options, args=given, prog="python -m tests.faults.full_disk")
    disk = os.environ.get(INSIDE)
    with tempfile.TemporaryDirectory(prefix="rfnext-disk-") as made:
        if disk is None and small_disk.refusal() is None:
            os.environ[INSIDE] = made
            line = [sys.executable, "-m", "tests.faults.full_disk", *given]
            return os.spawnvp(os.P_WAIT, "unshare", small_disk.command(Path(made), f"size={SIZE}", line))
        scratch, ballast = Path(made), small_disk.Ballast(Path(disk or made))

        def fill(steps: int) -> int | None:
            if disk is None:
                return max(1, steps * STEP)
            ballast.leave(steps * STEP)
            return None

        torch.set_num_threads(1)
        only_toy()
        equal = True
        for method in options.method:
            here = scratch / method
            here.mkdir()
            said = sweep(method, here, Path(disk or here) / "results", fill, ballast.remove)
            print(json.dumps({"test": "full_disk"} | said), flush=True)
            equal = equal and said["equal"]
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
