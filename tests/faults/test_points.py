"""A crash at every change of the file system, and what would be seen if a cell were not equal after it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.records.places import ROOT
from tests.faults.outcome import differences, half_written
from tests.faults.points import chosen, kind_of


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("method", ["local_merge", "genetic_single"])
def test_a_cell_that_crashed_anywhere_is_equal_afterwards(method: str) -> None:
    line = [sys.executable, "-m", "tests.faults.points", "--method", method, "--most", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["crashes"] > 20
    assert said["writes"] > 10
    assert ".now.json.#.tmp" in said["kinds"]  # what a cell is doing


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.timeout(900)  # wandb's own process starts twice for each crash
def test_a_crash_loses_no_offline_run_of_wandb() -> None:
    pytest.importorskip("wandb")
    line = [sys.executable, "-m", "tests.faults.points", "--method", "local_single", "--most", "1"]
    line += ["--logger", "wandb", "--only", "wandb-run.json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["crashes"] >= 5


def test_of_each_kind_the_first_the_last_and_one_between_are_tried() -> None:
    seen = [("open", kind_of(f"/a/.last.ckpt.0123abcd-77-ab_c{k:04}.tmp")) for k in range(9)]
    seen += [("os.rename", "x"), ("os.mkdir", kind_of("/a/fold1-seed0")), ("os.mkdir", kind_of("/a/fold2-seed0"))]
    assert chosen(seen, 3) == [(0, False), (4, False), (8, False), (9, False), (9, True), (10, False), (11, False)]
    assert len(chosen(seen, None)) == 13


def test_half_a_file_is_seen(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt")
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert half_written(tmp_path) == []
    for path in list(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:-1])
    (tmp_path / ".a.json.x.tmp").write_text("{")
    assert {path.name for path in half_written(tmp_path)} == {"a.pt", "a.json"}


def test_one_other_digit_is_seen() -> None:
    before = {"record": {"loss": 0.1}, "weight": torch.zeros(2)}
    assert differences(before, {"record": {"loss": 0.1}, "weight": torch.zeros(2)}) == []
    assert differences(before, {"record": {"loss": 0.1 + 1e-16}, "weight": torch.tensor([0, 1e-30])}) == [
        "record",
        "weight",
    ]
    assert differences(before, {"record": before["record"]}) == ["weight"]
