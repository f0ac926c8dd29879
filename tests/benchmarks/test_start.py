"""What the start of a command costs."""

import subprocess
import sys

from benchmarks.records.places import ROOT

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
