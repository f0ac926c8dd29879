"""What the start of a command costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from benchmarks.records.places import ROOT
from tests.faults.record_mutations import folder

STARTED = """
import gc, sys

searched = []
gc.callbacks.append(lambda phase, info: searched.append("torch" in sys.modules) if phase == "start" else None)
import benchmarks

assert "torch" not in sys.modules, "most commands need it, --help and --list do not"
import torch

assert not any(searched), "searched for garbage while torch was imported"
assert gc.isenabled()
assert gc.get_freeze_count() > 100_000
"""

LISTED = """
import gc, sys

gc.disable()
from benchmarks import suite

assert not gc.isenabled(), "it was switched off before"
gc.enable()
before = gc.get_freeze_count()
assert suite.main(["tiny", "--list", "--results", sys.argv[1]]) in (0, 1)
assert gc.isenabled()
assert gc.get_freeze_count() > before
"""


def test_torch_is_not_searched_for_garbage() -> None:
    """It took a third of the time of importing it, and as much again when the process ended."""
    subprocess.run([sys.executable, "-c", STARTED], cwd=ROOT, check=True, timeout=120)


def test_records_that_stay_are_not_searched_for_garbage() -> None:
    subprocess.run([sys.executable, "-c", LISTED, str(ROOT / "results")], cwd=ROOT, check=True, timeout=120)


WITHOUT_TORCH = """
import importlib, sys

module, *arguments = sys.argv[1:]
sys.argv[1:] = arguments
try:
    status = importlib.import_module(module).main(arguments)
except SystemExit as end:
    status = end.code
assert not status, status
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    "command",
    [
        "suite --help",
        "suite tiny --list",
        "suite tiny --list --verbose --keep-committed --method all",
        "suite paper --list",
        "run --help",
        *(f"run {name} local_single --help" for name in tasks.names()),
        "report.build --help",
        "report.build --results {results}",
        "report.compare {results} {results}",
    ],
)
def test_what_trains_nothing_does_not_import_torch(command: str, tmp_path: Path) -> None:
    """It takes 1.5 seconds of computing and 280 MiB: more than to read, list and print 2,000 cells."""
    words = command.format(results=folder(tmp_path)).split()
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, f"benchmarks.{words[0]}", *words[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
