"""Cells killed at random moments, started again until they are done, and compared with undisturbed ones.

    python -m tests.faults.kill9 --kills 20 --seed 0

The cells take turns over the tasks and over the families of methods, so that a few have each of both. Every cell runs
once undisturbed, then in another folder, where `kill -9` ends its whole process group at moments drawn from the seed.
Prints one JSON line per cell. Exit status: 0 all equal, 1 a cell differs or failed.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

import tasks
from benchmarks.records.places import ROOT
from tests.faults.outcome import differences, outcome

FAMILIES: dict[str, tuple[str, ...]] = {
    "baseline": ("baseline",),
    "local": ("local_single",),
    "multi": ("local_multi",),
    "one_shot": ("one_shot_single",),
    "genetic": ("genetic_single",),
    "retrained": ("local_merge",),
    "stored": ("local_single", "local_multi"),
}
"""Family -> its methods. All but the last one run undisturbed before, and leave the search that the last takes over."""

TASKS = tuple(tasks.names())
MOST = 3
"""Kills of one cell."""


@dataclass(frozen=True)
class Options:
    """Kill cells at random moments and compare them with undisturbed ones."""

    kills: int = 20
    """Kills in all, up to 3 per cell."""
    seed: int = 0
    """Of the moments."""
    task: tuple[str, ...] = TASKS
    """Tasks, in turns."""
    family: tuple[str, ...] = tuple(FAMILIES)
    """Families of methods, in turns."""
    preset: str = "tiny"
    """Preset of the tasks."""
    project: Path = ROOT
    """Folder of the project whose cells are run."""


@dataclass(frozen=True)
class Command:
    """The command line of a cell."""

    project: Path
    task: str
    method: str
    preset: str
    seed: int
    results: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Start it in a process group of its own; what it prints is appended to a file beside the results."""
        line = [sys.executable, "-m", "benchmarks.run", self.task, self.method, "--preset", self.preset]
        line += ["--seed", str(self.seed), "--device", "cpu", "--results", str(self.results)]
        with open(self.printed, "ab") as printed:
            return subprocess.Popen(
                line,
                cwd=self.project,
                env=os.environ | {"PYTHONPATH": str(self.project), "OMP_NUM_THREADS": "1"},
                stdout=printed,
                stderr=printed,
                start_new_session=True,
            )

    @property
    def printed(self) -> Path:
        """What all its runs printed."""
        return self.results.with_suffix(".txt")

    def finish(self) -> float:
        """Run it to its end and return the seconds; RuntimeError if it fails."""
        start = time.monotonic()
        status = self.start().wait()
        if status:
            raise RuntimeError(f"{self.task} {self.method} ended with {status}: {self.printed.read_text()[-2000:]}")
        return time.monotonic() - start

    def kill(self, after: float) -> bool:
        """Start it and kill it after some seconds; whether it was still running then."""
        process = self.start()
        try:
            process.wait(after)
            return False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True


def measure(commands: Sequence[tuple[Command, Command]], kills: int, rng: random.Random) -> dict[str, object]:
    """Run (undisturbed, disturbed) command lines in their order, killing the last disturbed one; say what came out."""
    for undisturbed, disturbed in commands[:-1]:
        undisturbed.finish()
        disturbed.finish()
    undisturbed, disturbed = commands[-1]
    seconds = undisturbed.finish()
    killed: list[float] = []
    while len(killed) < kills:
        after = rng.uniform(0, seconds)
        if not disturbed.kill(after):
            break
        killed.append(round(after, 2))
    disturbed.finish()
    different = differences(outcome(undisturbed.results), outcome(disturbed.results))
    continued = disturbed.printed.read_text(errors="replace").count("continuing the training")
    about = {"task": disturbed.task, "preset": disturbed.preset, "method": disturbed.method, "seed": disturbed.seed}
    killed_at = {"kills": len(killed), "seconds": round(seconds, 2), "killed_at": killed, "continued": continued}
    return about | killed_at | {"equal": not different, "different": different}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    options = tyro.cli(Options, args=arguments, prog="python -m tests.faults.kill9")
    rng = random.Random(options.seed)
    left, equal = options.kills, True
    turns = zip(itertools.cycle(options.task), itertools.cycle(options.family), itertools.count(), strict=False)
    with tempfile.TemporaryDirectory(prefix="rfnext-kill9-") as scratch:
        for task, family, number in turns:
            if left <= 0:
                break
            kinds = [Path(scratch, f"{number}", kind) for kind in ("undisturbed", "disturbed")]
            kinds[0].parent.mkdir()
            seed = number // (len(options.task) * len(options.family))
            commands = [
                tuple(Command(options.project, task, method, options.preset, seed, kind) for kind in kinds)
                for method in FAMILIES[family]
            ]
            try:
                said = measure(commands, min(left, MOST), rng)
            except RuntimeError as error:
                said = {"task": task, "method": FAMILIES[family][-1], "kills": 0, "equal": False, "error": str(error)}
                left -= 1
            print(json.dumps({"test": "kill9", "family": family} | said), flush=True)
            left -= int(str(said["kills"]))
            equal = equal and said["equal"] is True
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
