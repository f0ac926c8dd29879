"""Processes on the CPU that run a test file as a program, one per rank."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests import python_processes

ROOT = Path(__file__).parents[1]


def printed(
    script: str, folder: Path, *options: str, ranks: int = 2, limit: float = 300, **environment: str
) -> list[str]:
    """What `python OPTIONS SCRIPT rank ranks rendezvous` prints on each rank; all must end well.

    folder: where they meet. limit: seconds, after which all are ended. environment: besides one thread for each.
    """
    # Files: a rank that fills a pipe would wait for its reader, and others for the rank.
    outputs = [(folder / f"output{rank}", folder / f"errors{rank}") for rank in range(ranks)]
    processes = [
        _start([*options, script, str(rank), str(ranks), (folder / "rendezvous").as_uri()], environment, *outputs[rank])
        for rank in range(ranks)
    ]
    end = time.monotonic() + limit
    try:
        for process in processes:
            process.wait(timeout=max(0, end - time.monotonic()))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors.read_text()
    return [output.read_text() for output, _ in outputs]


def _start(arguments: list[str], environment: dict[str, str], output: Path, errors: Path) -> "subprocess.Popen[bytes]":
    with open(output, "wb") as own, open(errors, "wb") as wrong:
        command = [sys.executable, *arguments]
        return python_processes.Popen(command, env=environment_of_ranks() | environment, stdout=own, stderr=wrong)


def environment_of_ranks() -> dict[str, str]:
    """The environment of a process that imports this repository and computes with one thread."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
