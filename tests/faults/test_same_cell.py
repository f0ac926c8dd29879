"""The same cell in two processes at once: one runs, the other says that it waits; one record, the same digits."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.cell import Cell
from benchmarks.running.execute import run_cell
from tests.faults.outcome import differences, outcome

pytestmark = pytest.mark.usefixtures("only_toy")  # a cell keeps only a network that opens here


@pytest.mark.slow
@pytest.mark.fault
def test_two_processes_do_not_disturb_each_other(
    start: Callable[..., subprocess.Popen[str]],
    project: Path,
    cell: Callable[..., Cell],
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on two machines that have mounted the results at different places."""
    shared, mounted = project / "shared", project / "mounted"
    shared.mkdir()
    mounted.symlink_to(shared)
    line = ("benchmarks.run", "toy", "local_single", "--preset", "slow", "--device", "cpu", "--results")
    both = [start(*line, str(shared)), start(*line, str(mounted))]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("is held by another process; waiting" in err for _, err in said) == 1
    # The search is done once; the second process takes it over.
    assert sum("taking over the search" in err for _, err in said) == 1
    assert len(list(shared.glob("runs/*/*/*/*"))) == 1
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    assert run_cell(cell("local_single", preset="slow")).status == "done"
    assert differences(outcome(results), outcome(shared)) == []
