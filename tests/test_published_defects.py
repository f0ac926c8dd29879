"""Defects of the published code that no other test holds off; docs/defects.md lists all of them."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from rfnext import mixed_dilation_conv
from tests import python_processes

ROOT = Path(__file__).parents[1]

PEEKING = '''
"""A task that writes down which part of a fold is read."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from rfnext import Bounds, LocalConfig
from tasks.spec import Metric, Task


@dataclass(frozen=True)
class Config:
    """Settings."""

    epochs: int = 3
    """Epochs."""
    search: LocalConfig = field(default_factory=lambda: LocalConfig(interval=1, rounds=1, bounds=Bounds(1, 8)))
    """Local search."""


def data(part):
    with open("reads.txt", "a") as reads:
        print(part, file=reads)
    seed = ("train", "validation", "test").index(part)
    signals = torch.randn(8, 1, 32, generator=torch.Generator().manual_seed(seed))
    return signals, (signals.roll(2, 2) > 0).squeeze(1).long()


def fit(model, config, run):
    torch.manual_seed(run.seed)
    signals, labels = data("train")
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(config.epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(signals), labels).backward()
        optimizer.step()
        if run.search is not None:
            run.search.after_step()


@torch.no_grad()
def evaluate(model, config, split):
    signals, labels = data(split.part)
    return {"accuracy": 100 * (model(signals).argmax(1) == labels).double().mean().item()}


TASK = Task(
    name="peeking",
    version=1,
    metrics=(Metric("accuracy"),),
    presets={"tiny": Config()},
    build=lambda config: nn.Sequential(nn.Conv1d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=1)),
    fit=fit,
    evaluate=evaluate,
    where=lambda name, conv: True,
    unavailable=lambda config: None,
    folds=lambda config: (1,),
    data_label=lambda config: "noise",
    published=lambda config: None,
)
'''


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project whose only task is PEEKING."""
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("rfnext", "benchmarks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    task = tmp_path / "tasks" / "peeking"
    task.mkdir(parents=True)
    for path in (ROOT / "tasks").glob("*.py"):
        shutil.copy(path, tmp_path / "tasks")
    (task / "task.py").write_text(PEEKING)
    return tmp_path


def call(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m <arguments>` in the copy of the project."""
    surroundings = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *arguments]
    return python_processes.run(command, cwd=project, env=surroundings, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
@pytest.mark.defect(1, 2)
@pytest.mark.parametrize("method", ["tuned_single", "random_single", "one_shot_ranked_single", "genetic_single"])
def test_the_test_part_is_read_when_all_choices_are_made(method: str, project: Path):
    done = call(project, "benchmarks.run", "peeking", method, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    reads = (project / "reads.txt").read_text().split()
    assert reads.count("validation") > 2  # candidates are compared on it
    assert 1 <= reads.count("test") <= 2  # the chosen epoch and the last one
    assert "train" not in reads[reads.index("test") :]


@pytest.mark.slow
@pytest.mark.defect(3)
def test_a_record_has_the_seed_that_makes_it_again(project: Path):
    records = []
    for results, seed in (("one", "7"), ("two", "7"), ("three", "8")):
        done = call(project, "benchmarks.run", "peeking", "random_single", "--seed", seed, "--results", results)
        assert done.returncode == 0, done.stderr
        (path,) = (project / results).glob(f"runs/peeking/tiny/random_single/fold1-seed{seed}.json")
        records.append(json.loads(path.read_text()))
    one, two, three = records
    assert (one["seed"], three["seed"]) == (7, 8)
    assert [one[name] == two[name] for name in ("structure", "metrics", "validation")] == [True] * 3
    assert one["structure"] != three["structure"]


@pytest.mark.slow
@pytest.mark.defect(8)
def test_a_suite_ends_without_ending_the_processes_of_others(project: Path):
    """One that is named like a worker of Ray, and like our own, goes on."""
    pretence = [sys.executable, "-c", "import time; time.sleep(600)", "ray::IDLE", "benchmarks.suite"]
    bystander = subprocess.Popen(pretence, start_new_session=True)
    try:
        done = call(project, "benchmarks.suite", "tiny", "--method", "baseline", "local_single", "--workers", "2")
        assert done.returncode == 0, done.stderr
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.defect(8)
def test_no_process_is_ended_by_its_name():
    words = ("pkill", "killall", "ray stop", "process_iter", "pgrep")
    for package in ("rfnext", "tasks", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                text = {ast.Constant: "value", ast.Attribute: "attr", ast.Name: "id"}.get(type(node))
                found = str(getattr(node, text)) if text else ""
                assert not any(word in found for word in words), f"{path}:{getattr(node, 'lineno', 0)}: {found}"


@pytest.mark.defect(17)
def test_the_operator_is_linear_in_one_dimension():
    """An activation inside of it would make the exported network another function than the searched one."""
    x = torch.randn(2, 4, 30, dtype=torch.float64)
    weight = torch.randn(6, 4, 3, dtype=torch.float64)
    probability = torch.tensor([0.3, 0.7], dtype=torch.float64)
    y = mixed_dilation_conv(x, weight, None, probability, [(1,), (4,)])
    assert (y < 0).any()
    torch.testing.assert_close(mixed_dilation_conv(-x, weight, None, probability, [(1,), (4,)]), -y)


@pytest.mark.defect(18)
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(5, 1, 1), (7, 2, 1), (3, 3, 2), (9, 2, 4)])
def test_one_dimension_has_every_kernel_stride_and_group(kernel: int, stride: int, groups: int):
    x = torch.randn(2, 4, 60, dtype=torch.float64)
    weight = torch.randn(8, 4 // groups, kernel, dtype=torch.float64)
    half = (kernel - 1) // 2
    expected = sum(
        p * F.conv1d(x, weight, stride=stride, padding=d * half, dilation=d, groups=groups)
        for p, d in ((0.25, 1), (0.75, 3))
    )
    probability = torch.tensor([0.25, 0.75], dtype=torch.float64)
    y = mixed_dilation_conv(x, weight, None, probability, [(1,), (3,)], stride=stride, groups=groups)
    torch.testing.assert_close(y, expected)
