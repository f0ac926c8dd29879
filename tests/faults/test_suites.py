"""Suites whose workers, or which themselves, are killed: no cell is lost or run twice, no process is left."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.running.execute import run_cell
from tests.faults.outcome import differences, half_written, outcome
from tests.faults.processes import alive, wait_for, workers

pytestmark = pytest.mark.usefixtures("only_toy")  # a cell keeps only a network that opens here

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., Cell]

METHODS_RUN = ("baseline", "local_single")
LINE = ("benchmarks.suite", "slow", "--workers", "2", "--method", *METHODS_RUN)


@pytest.fixture
def undisturbed(cell: Make, results: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The outcome of the same cells, run in this process; the slow toy sleeps and computes nothing else."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for method in METHODS_RUN:
        for fold in (1, 2):
            assert run_cell(cell(method, preset="slow", fold=fold)).status == "done"
    monkeypatch.undo()
    return outcome(results)


@pytest.mark.slow
@pytest.mark.fault
def test_a_suite_goes_on_without_a_worker_and_after_its_own_end(
    start: Start, call: Call, project: Path, undisturbed: dict[str, object]
) -> None:
    found = project / "results"
    suite = start(*LINE, start_new_session=True)
    wait_for(lambda: list(found.rglob("last.ckpt")))
    os.kill(workers(suite.pid)[0], signal.SIGKILL)
    wait_for(lambda: list(found.glob("runs/*/*/*/*.json")))
    suite.kill()
    _, err = suite.communicate(timeout=60)
    assert "a worker process died (BrokenProcessPool); its item is tried once more" in err
    wait_for(lambda: not alive(suite.pid), 20)
    assert not half_written(found)
    kept = {path: path.read_bytes() for path in found.glob("runs/*/*/*/*.json")}

    again = start(*LINE, start_new_session=True)
    wait_for(lambda: workers(again.pid))
    os.kill(workers(again.pid)[0], signal.SIGKILL)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"4 cells: {len(kept)} kept, {4 - len(kept)} to run" in out
    ended = re.findall(r"^\[\d/\d\] (toy slow \w+ fold \d seed \d): ", out, re.MULTILINE)
    assert len(ended) == len(set(ended)) == 4 - len(kept)
    assert {path: path.read_bytes() for path in kept} == kept
    assert differences(undisturbed, outcome(found)) == []
    wait_for(lambda: not alive(again.pid), 20)  # its last helper process ends by itself


@pytest.mark.slow
@pytest.mark.fault
def test_ctrl_c_twice_ends_a_suite_and_its_workers(start: Start, project: Path) -> None:
    suite = start(*LINE, start_new_session=True)
    wait_for(lambda: list((project / "results").rglob("last.ckpt")))
    os.killpg(suite.pid, signal.SIGINT)
    time.sleep(0.1)
    os.killpg(suite.pid, signal.SIGINT)
    _, err = suite.communicate(timeout=60)
    assert suite.returncode == 130, err
    assert "interrupted; finished cells are kept" in err
    assert "Traceback" not in err
    wait_for(lambda: not alive(suite.pid), 20)
    assert not half_written(project / "results")


@pytest.mark.slow
@pytest.mark.fault
def test_a_search_goes_on_without_a_worker(start: Start, project: Path, cell: Make, results: Path) -> None:
    search = start("benchmarks.run", "toy", "genetic_single", "--trial-workers", "2", start_new_session=True)
    wait_for(lambda: list((project / "results").rglob("candidate-*/last.ckpt")))
    os.kill(workers(search.pid)[0], signal.SIGKILL)
    _, err = search.communicate(timeout=120)
    assert search.returncode == 0, err
    assert "its item is tried once more" in err
    assert run_cell(cell(METHODS["genetic_single"])).status == "done"
    assert differences(outcome(results), outcome(project / "results")) == []
    assert not alive(search.pid)
