"""What many records cost: time and memory of every command that reads them, one JSON line each.

    python -m tests.faults.record_scale [--cells 2000]

The records are made from the committed ones, with histories and profiles as large as a real run's.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.methods.table import METHODS
from benchmarks.records.folder import read_all
from benchmarks.records.places import ROOT
from benchmarks.records.record import Record, write

ROUNDS, BINS = 12, 41


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=2000)
    cells = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "results"
        made = generate(folder, cells)
        for name, command in commands(folder, cells).items():
            print(json.dumps({"command": name, "records": made} | measured(command)), flush=True)
    return 0


def commands(folder: Path, cells: int) -> dict[str, list[str]]:
    """What is measured: reading alone, and every command that reads all records."""
    seeds = map(str, range(max(1, cells // (5 * len(METHODS)))))
    imports = "import benchmarks.report.build, tasks; [tasks.load(name) for name in tasks.names()]"
    listed = ["-m", "benchmarks.suite", "tiny", "--task", "action_segmentation", "--method", "all", "--list"]
    return {
        "imports": ["-c", imports],
        "report": ["-m", "benchmarks.report", "--results", str(folder)],
        "report, again": ["-m", "benchmarks.report", "--results", str(folder)],
        "compare": ["-m", "benchmarks.compare", str(folder), str(folder)],
        f"suite --list, {cells} cells": [*listed, "--results", str(folder), "--seeds", *seeds],
    }


def generate(folder: Path, cells: int) -> int:
    """Write at least this many whole records of several tasks, presets, methods, folds and seeds; returns how many."""
    chance = random.Random(0)
    like: dict[tuple[str, str], dict[str, Record]] = {}
    for record in read_all(ROOT / "results").all:
        like.setdefault((record.task, record.preset), {}).setdefault(record.method, record)
    folds = {preset: 5 if preset[0] == "action_segmentation" else 1 for preset in like}
    per_seed = sum(len(methods) * folds[preset] for preset, methods in like.items())
    made = 0
    for seed in range(-(-cells // per_seed)):
        for preset, methods in like.items():
            for record in methods.values():
                for fold in range(1, folds[preset] + 1):
                    write(another(record, fold, seed, chance), folder)
                    made += 1
    return made


def another(record: Record, fold: int, seed: int, chance: random.Random) -> Record:
    """A record like this one of another fold and seed, with the history and the profiles of a whole run."""
    values = {
        kind: {name: value + chance.uniform(-1, 1) for name, value in getattr(record, kind).items()}
        for kind in ("metrics", "metrics_last", "validation")
    }
    history = []
    if record.search.epochs and record.structure:
        history = [
            {"step": step, "structure": {name: [step + 1] * len(d) for name, d in record.structure.items()}}
            for step in range(ROUNDS)
        ]
        history.append({"step": ROUNDS, "structure": record.structure})
    field = record.receptive_field
    if field is not None:
        profile = {"edges": [edge - BINS / 2 for edge in range(BINS + 1)], "share": [1 / BINS] * BINS}
        field = field | {"axes": [axis | profile for axis in field["axes"]]}
    update = {"fold": fold, "seed": seed, "history": history, "receptive_field": field}
    return record.model_copy(update=update | values)


def measured(command: list[str]) -> dict[str, float | int]:
    """Seconds by the clock and of computing, exit status, and the MiB that a command has allocated itself."""
    start, before = time.perf_counter(), computed()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    allocated = 0
    while process.poll() is None:
        allocated = max(allocated, resident(process.pid))
        time.sleep(0.05)
    times = {"seconds": round(time.perf_counter() - start, 1), "cpu_seconds": round(computed() - before, 1)}
    return times | {"status": process.returncode, "allocated_mib": allocated // 1024}


def computed() -> float:
    """Seconds that the processes took which this one has started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def resident(process: int) -> int:
    """KiB of memory that belong to a process and to no file: its libraries' code is left out."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0])
    except (OSError, IndexError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
