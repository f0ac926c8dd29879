"""Folders that cannot be written: results are refused in one line, caches and data need not be writable."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.cell import Cell
from benchmarks.running.execute import run_cell
from tests.faults.outcome import differences, outcome

pytestmark = pytest.mark.usefixtures("only_toy")  # a cell keeps only a network that opens here

ReadOnly = Callable[..., list[str]]


def run(project: Path, line: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(line, cwd=project, env=variables, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.fault
def test_read_only_results_are_one_clear_error(read_only: ReadOnly, project: Path) -> None:
    folder = project / "results"
    folder.mkdir()
    line = read_only(folder, "benchmarks.run", "toy", "baseline", "--results", str(folder))
    done = run(project, line)
    assert done.returncode == 1, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("INFO ")]
    assert error.startswith("error: ")
    assert f"cannot write {folder}/work/.gitignore: " in error
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("what", ["cache", "data"])
def test_caches_and_data_are_only_read(
    what: str, read_only: ReadOnly, project: Path, mine: list[Path], own: Callable[..., Cell], results: Path
) -> None:
    for path in mine[0].iterdir():
        os.utime(path, (0, 0))  # old enough to be kept in the cache
    cache, folder = project / "cache", project / "results"
    cache.mkdir()
    command = ("benchmarks.run", "toy", "baseline", "--root", str(mine[0]), "--device", "cpu")
    line = read_only({"cache": cache, "data": mine[0]}[what], *command, "--results", str(folder))
    done = run(project, line, RFNEXT_CACHE=str(cache))
    assert done.returncode == 0, done.stderr
    assert run_cell(own(mine[0])).status == "done"
    assert differences(outcome(results), outcome(folder)) == []
