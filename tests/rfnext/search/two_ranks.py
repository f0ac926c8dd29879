"""Two processes on the CPU that run a test file as a program, one per rank."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def printed(script: str, folder: Path, *options: str, **environment: str) -> list[str]:
    """What `python OPTIONS SCRIPT rank rendezvous` prints on each of two ranks; both must end well.

    folder: where they meet. environment: of the processes, besides one thread for each.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, *options, script, str(rank), (folder / "rendezvous").as_uri()],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in processes]
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [output for output, _ in outputs]
