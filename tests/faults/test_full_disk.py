"""A full disk: one clear error, nothing half-written, and the same digits once there is space."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.records.places import ROOT


@pytest.mark.slow
@pytest.mark.fault
def test_a_cell_on_a_full_disk_is_equal_once_there_is_space() -> None:
    line = [sys.executable, "-m", "tests.faults.full_disk", "--method", "local_merge"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["refused"] > 5
