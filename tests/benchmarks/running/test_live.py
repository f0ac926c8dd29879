"""What a cell says of itself while it runs, and what a person reads of a finished one."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.planning.estimate import time_training, trainings
from benchmarks.running import live
from benchmarks.running.execute import run_cell
from benchmarks.running.live import State
from benchmarks.written import written
from rfnext import Structure
from tasks.spec import Progress, Run


@pytest.fixture
def telling(toy: ModuleType) -> Any:
    """The toy, whose training says how far it is."""

    def fit(model: Any, config: Any, run: Run) -> None:
        toy.fit(model, config, run)
        for epoch in range(config.epochs):
            for step in range(1, 6):
                run.progress(Progress(epoch, step, 5))
            run.progress(Progress(epoch + 1, 0, 5, {"accuracy": 50.0 + epoch}))

    return dataclasses.replace(toy.TASK, fit=fit)


def test_phases_have_headings_and_scores_are_of_the_validation_part(
    cell: Callable[..., Cell], telling: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[State] = []
    monkeypatch.setattr(live, "PAUSE", 0.0)
    live.show_by(seen.append)
    one = cell("local_single", task=telling)
    with caplog.at_level(logging.INFO):
        record = run_cell(one)
    live.show_by(None)
    assert record.status == "done"
    assert list(dict.fromkeys(state.phase for state in seen)) == ["search 1/2", "retrain 2/2"]
    assert [line for line in caplog.messages if line.startswith(("search ", "retrain"))] == [
        "search 1/2: local search",
        "retrain 2/2: trained with one dilation per conv",
    ]
    last = [state for state in seen if state.phase == "search 1/2"][-1]
    assert (last.epoch, last.epochs, last.score) == (5.0, 5, "accuracy 54.0 %")
    assert live.read(one.work) is None  # nothing runs any more
    again = cell("local_multi", task=telling)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run_cell(again)
    assert any(line.startswith("search 1/2: taking over") for line in caplog.messages)


def test_time_left_follows_the_pace() -> None:
    assert str(State("train 1/1")) == "train 1/1"
    # 2.5 of 10 epochs; the first was done before an interruption, so 1.5 took 30 s.
    assert State("train 1/1", 2.5, 10, "", 30.0, 1.0).left == pytest.approx(150.0)
    assert State("train 1/1", 1.0, 10, "", 0.0, 1.0).left is None


@pytest.mark.usefixtures("only_toy")
def test_a_finished_cell_says_what_it_has_found_and_written(cell: Callable[..., Cell]) -> None:
    one = cell("local_single")
    record = run_cell(one)
    said = dict(line.split(": ", 1) for line in written(one, record))
    before, after = said["dilations"].replace("; none has moved", " -> 2 4").split(" -> ")[:2]
    assert before == "2 4 1"[: len(before)]
    structure = Structure.load(said["structure"])
    assert [str(d[0]) for d in structure.values()] == after.split()
    assert all(Path(said[name]).exists() for name in ("record", "network", "structure", "picture"))


def test_a_training_is_timed_by_its_steps(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("benchmarks.planning.estimate.time.perf_counter", lambda: now[0])
    ended: list[int] = []

    def fit(model: Any, config: Any, run: Run) -> None:
        for step in range(1, 41):
            now[0] += 100.0 if step == 1 else 0.5  # the first step warms up
            run.progress(Progress(0, step, 40))
        ended.append(1)

    task = dataclasses.replace(toy.TASK, fit=fit)
    timed = time_training(task, toy.Config(epochs=7), seconds=1e6)
    assert not ended
    assert timed.step == 0.5
    assert timed.training == 0.5 * 40 * 7
    assert trainings(METHODS["local_single"]) == 2
    assert trainings(METHODS["local_as_searched"]) == 1
    assert trainings(METHODS["one_shot_to_local_single"]) == 3


def test_a_training_whose_first_step_does_not_end_is_unknown(toy: ModuleType) -> None:
    def fit(model: Any, config: Any, run: Run) -> None:
        while True:
            pass

    timed = time_training(dataclasses.replace(toy.TASK, fit=fit), toy.Config(), seconds=0.2)
    assert timed.training == float("inf")
    assert "unknown" in str(timed)
