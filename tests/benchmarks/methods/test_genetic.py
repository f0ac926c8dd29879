"""The genetic search: within its budget, nothing trained twice, and no fault loses or changes a result."""

import dataclasses
import errno
import json
import pickle
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.cell import Cell
from benchmarks.methods.genetic import Evaluated, Evaluations, Trial, genetic
from benchmarks.methods.method import Found, Outcome
from benchmarks.methods.searching import Searching
from benchmarks.methods.stored import FOUND, find
from benchmarks.methods.table import GENETIC
from benchmarks.methods.training import OtherData, fit
from benchmarks.records.folder import read_all
from benchmarks.records.record import Record
from benchmarks.running import pool
from benchmarks.running.execute import run_cell
from benchmarks.running.worker import NotShared, in_worker
from rfnext import Structure
from rfnext.search.halving import Rung
from tasks.spec import DataError, Task

Make = Callable[..., Cell]
Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]
Kill = Callable[[str], int | None]
MakeJob = Callable[..., Searching]

STRUCTURES = [Structure({"0": (d,), "2": (e,)}) for d, e in ((1, 1), (2, 4), (4, 2))]


@pytest.fixture
def job(cell: Make, searching: MakeJob) -> MakeJob:
    """A genetic search of the toy, in a folder of its own."""

    def make(folder: str = "search", here: Cell | None = None, **settings: Any) -> Searching:
        here = here or cell("genetic_single")
        return dataclasses.replace(searching(here, **settings), folder=here.results / "work" / folder)

    return make


def evaluations(job: Searching, **settings: Any) -> Evaluations:
    return Evaluations(job, settings)


def rung(of: Evaluations, epochs: int, structures: list[Structure]) -> list[float | None]:
    return of.map(Rung(of, epochs), structures)


def search(cell: Cell) -> Found:
    return find(cell, GENETIC, pool.in_process())


def test_it_keeps_to_its_budget_and_trains_nothing_twice(
    cell: Make, run: Callable[..., Outcome], toy: ModuleType
) -> None:
    here = cell("genetic_single", config=toy.Config(epochs=8))
    outcome = run(here)
    rungs, budget = here.method.settings["rungs"], here.method.settings["budget"]
    assert outcome.search.epochs <= budget * 8
    folder = next(here.results.rglob(FOUND)).parent
    first, last = (round(share * 8) for share in rungs)
    short, long = ({p.name.rsplit("-", 1)[0] for p in folder.glob(f"candidate-*-{n}.json")} for n in (first, last))
    assert long < short
    assert outcome.search.epochs == first * len(short) + (last - first) * len(long)
    fitness = [json.loads(path.read_text())["fitness"] for path in folder.glob("candidate-*-*.json")]
    assert outcome.history[-1]["fitness"] == max(fitness)


@pytest.mark.parametrize("budget", [0.2, 1, 2.1])
def test_epochs_never_exceed_the_budget(cell: Make, job: MakeJob, toy: ModuleType, budget: float) -> None:
    here = cell("genetic_single", config=toy.Config(epochs=4))
    found = genetic(job(here=here, budget=budget, rungs=(0.25, 0.5, 1.0)))
    trained = 0
    for marker in found.folder.glob("candidate-*"):
        if marker.is_dir():
            reached = [int(p.stem.rsplit("-", 1)[1]) for p in marker.parent.glob(f"{marker.name}-*.json")]
            trained += max(reached)
    assert 0 < trained == found.cost.epochs <= budget * 4 + 0.5


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_trainings_too_short_for_all_rungs_have_fewer(
    cell: Make, toy: ModuleType, epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        found = search(cell("genetic_single", config=toy.Config(epochs=epochs)))
    assert 0 < found.cost.epochs <= 6 * epochs
    assert "rungs of 1 epochs" in caplog.text


def test_candidates_are_the_beginnings_of_the_full_training(cell: Make, toy: ModuleType) -> None:
    spans = []

    def fit(model: Any, config: Any, run: Any) -> None:
        spans.append((config.epochs, run.schedule_epochs))
        toy.fit(model, config, run)

    made = run_cell(cell("genetic_single", task=dataclasses.replace(toy.TASK, fit=fit)))
    assert made.status == "done", made.reason
    assert set(spans[:-1]) == {(1, 5), (2, 5)}
    assert spans[-1] == (5, None)


def test_an_evaluation_goes_on_from_the_one_before_and_is_kept(job: MakeJob) -> None:
    here = job()
    first = evaluations(here)
    short = rung(first, 2, STRUCTURES)
    long = rung(first, 5, STRUCTURES[:1])
    assert first.epochs == first.cost().epochs == 3 * 2 + 3
    assert not first.resumed
    straight = evaluations(job("straight"))
    assert long == [straight(STRUCTURES[0], 5)]

    again = evaluations(here)
    before = {path: path.stat().st_mtime_ns for path in here.folder.rglob("*")}
    assert rung(again, 2, STRUCTURES) == short
    assert rung(again, 5, STRUCTURES[:1]) == long
    assert again.resumed
    assert again.cost() == first.cost()
    assert {path: path.stat().st_mtime_ns for path in here.folder.rglob("*")} == before
    other = evaluations(here, rule="another")
    other(STRUCTURES[0], 2)
    assert not other.resumed


def test_evaluations_of_other_code_or_kernels_are_made_anew(job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    here = job()

    def resumed() -> bool:
        found = evaluations(here)
        assert found(STRUCTURES[0], 2) is not None
        return found.resumed

    assert not resumed()
    monkeypatch.setattr("benchmarks.methods.genetic.code", lambda: "another")
    assert not resumed()
    monkeypatch.setenv("RFNEXT_IMPLEMENTATION", "branches")
    assert not resumed()
    assert resumed()
    assert len(list(here.folder.glob("candidate-*-2.json"))) == 3


def test_a_search_whose_first_training_was_interrupted_has_resumed_costs(
    job: MakeJob, cell: Make, toy: ModuleType
) -> None:
    def stopping(model: Any, config: Any, run: Any) -> None:
        toy.fit(model, dataclasses.replace(config, epochs=1), run)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluations(job(here=cell("genetic_single", task=dataclasses.replace(toy.TASK, fit=stopping))))(
            STRUCTURES[0], 2
        )
    again = evaluations(job())
    assert again(STRUCTURES[0], 2) is not None
    assert again.resumed  # its seconds lack the first epoch


def test_data_that_changes_ends_the_search(own: Make, mine: list[Path], toy: ModuleType) -> None:
    """It is no fault of the structures, and what was found by then is not taken for the whole."""
    fitted = []

    def fit(model: Any, config: Any, run: Any) -> None:
        toy.fit(model, config, run)
        fitted.append(run)
        if len(fitted) == 12:
            (mine[0] / "labels.txt").write_text("background")

    here = own(mine[0], "genetic_single", task=dataclasses.replace(toy.TASK, fit=fit))
    with pytest.raises(OtherData, match="the data is not what it was"):
        search(here)
    assert not list(here.results.rglob(FOUND))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), DataError("a.npy: cut off; download it again")]
)
def test_what_is_no_fault_of_the_structures_ends_the_search(error: Exception, cell: Make, toy: ModuleType) -> None:
    """Otherwise a disk that is full for a while decides what is found."""
    fitted = []

    def fit(model: Any, config: Any, run: Any) -> None:
        toy.fit(model, config, run)
        fitted.append(run)
        if len(fitted) == 12:
            raise error

    here = cell("genetic_single", task=dataclasses.replace(toy.TASK, fit=fit))
    with pytest.raises(type(error), match=str(error).replace("[", ".")):
        search(here)
    assert not list(here.results.rglob(FOUND))


def test_a_damaged_result_is_made_again(job: MakeJob) -> None:
    here = job()
    trial = Trial(here.folder, {}, 1)
    made = trial(here.cell, STRUCTURES[0])
    path = trial.path(here.cell, STRUCTURES[0])
    assert Evaluated.read(path) == made
    for text in ("", "[]", "{}", path.read_text()[:-9], path.read_text().replace("fitness", "x")):
        path.write_text(text)
        assert Evaluated.read(path) is None
    assert trial(here.cell, STRUCTURES[0]).fitness == made.fitness
    assert Evaluated.read(path) is not None


def test_one_that_fails_costs_its_epochs_and_loses(
    cell: Make, job: MakeJob, failing: Callable[..., Cell], caplog: pytest.LogCaptureFixture
) -> None:
    found = evaluations(job(here=failing(cell("genetic_single"), STRUCTURES[1])))
    first, second, third = rung(found, 2, STRUCTURES)
    assert first is not None
    assert second is None
    assert third is not None
    assert found.epochs == found.cost().epochs == 6
    assert "failed at 2 epochs: no memory for this one" in caplog.text
    assert None not in rung(evaluations(job()), 2, STRUCTURES)  # a failure is not kept


def test_if_all_fail_the_cell_says_why(cell: Make) -> None:
    made = run_cell(cell("genetic_single", preset="raise", fold=2))
    assert made.status == "failed"
    assert "evaluations of generation 0 failed" in (made.reason or "")
    assert "the last one by RuntimeError: the toy was told to fail; fix what made them fail" in (made.reason or "")


def test_one_that_diverges_is_trained_from_its_first_epoch_by_whoever_goes_on(
    cell: Make, job: MakeJob, diverging: Callable[..., Cell], caplog: pytest.LogCaptureFixture
) -> None:
    lost = job(here=diverging(cell("genetic_single"), lambda structure, epochs: structure == STRUCTURES[1]))
    found = evaluations(lost)
    values = rung(found, 1, STRUCTURES)
    assert [value is None for value in values] == [False, True, False]
    assert found.epochs == found.cost().epochs == 3
    assert "failed at 1 epochs: the training diverged" in caplog.text
    assert not Trial(lost.folder, {}, 1).checkpoints(lost.cell, STRUCTURES[1]).exists()
    # One that diverges later on keeps the result it had.
    later = evaluations(job(here=diverging(cell("genetic_single"), lambda *all_: True)))
    assert rung(later, 1, STRUCTURES[:1]) == values[:1]
    assert rung(later, 2, STRUCTURES[:1]) == [None]
    assert later.fitness[STRUCTURES[0]] == values[0]

    mended, straight = evaluations(job()), evaluations(job("straight"))
    for epochs in (1, 2):
        assert rung(mended, epochs, STRUCTURES) == rung(straight, epochs, STRUCTURES)


def test_if_all_of_the_first_generation_diverge_a_rerun_goes_on_once_that_is_mended(
    cell: Make, diverging: Callable[..., Cell]
) -> None:
    with pytest.raises(RuntimeError) as caught:
        search(diverging(cell("genetic_single"), lambda *all_: True))
    for part in ("all evaluations of generation 0 failed", "Diverged: the training diverged", "run it again"):
        assert part in str(caught.value)
    assert search(cell("genetic_single")).cost.epochs == 30


def test_if_all_of_a_later_generation_fail_the_search_keeps_what_it_has_found(
    cell: Make, results: Path, diverging: Callable[..., Cell], caplog: pytest.LogCaptureFixture
) -> None:
    here = cell("genetic_single")
    whole = search(cell("genetic_single", results=results / "whole"))
    first: set[Structure] = set()  # what is evaluated before the first one goes on to the second rung
    longer: set[Structure] = set()

    def late(structure: Structure, epochs: int) -> bool:
        if epochs > 1:
            longer.add(structure)
        elif not longer:
            first.add(structure)
        return structure not in first

    found = search(diverging(here, late))
    assert found.history == whole.history[:1]
    assert dict(found.structure) == {name: tuple(d) for name, d in found.history[-1]["structure"].items()}
    assert found.cost.epochs < whole.cost.epochs
    assert "all evaluations of generation 1 failed, the last one by Diverged: " in caplog.text
    assert f"delete {found.folder / FOUND} and the records" in caplog.text
    (found.folder / FOUND).unlink()
    assert search(here).history == whole.history


def test_an_interrupted_search_loses_no_evaluation(cell: Make, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cell("genetic_single")
    straight = search(cell("genetic_single", results=results / "straight"))
    trained: list[Path] = []

    def stopping(cell: Cell, model: Any, training: Any, *arguments: Any) -> Any:
        trained.append(training.folder)
        if len(trained) == 8:
            raise KeyboardInterrupt
        return fit(cell, model, training, *arguments)

    monkeypatch.setattr("benchmarks.methods.genetic.fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        search(here)
    found = search(here)
    assert found.structure == straight.structure
    assert found.history == straight.history
    assert found.cost.epochs == straight.cost.epochs
    assert found.resumed
    # Of the first eight, the one that was interrupted is begun again and no other.
    assert trained.count(trained[7]) >= 2
    assert len(set(trained[:7])) == 7


def test_a_trial_elsewhere_needs_the_very_folder(
    job: MakeJob, toy: ModuleType, workers: Callable[[Task[Any]], Any]
) -> None:
    workers(toy.TASK)
    here = job()
    trial = Trial(here.folder, {"promoted": 0.25}, 2)
    sent = pickle.loads(pickle.dumps(in_worker(trial, here.cell)))  # noqa: S301 (made one line above)
    made = sent(STRUCTURES[0])
    assert trial.path(here.cell, STRUCTURES[0]).exists()
    assert trial(here.cell, STRUCTURES[0]) == made
    with pytest.raises(NotShared, match="give --results a folder that all machines share"):
        dataclasses.replace(sent, mark="of another machine")(STRUCTURES[0])


def test_a_worker_without_the_folder_ends_the_search(cell: Make, only_toy: None) -> None:
    class Far(pool.Pool):
        def run(self, function: Any, items: Any) -> list[Any]:
            return pool.in_process().run(dataclasses.replace(function, mark="of another machine"), items)

    with pytest.raises(NotShared):
        find(cell("genetic_single"), GENETIC, Far([]))


def test_the_budget_is_said_before_the_search_in_hours_where_cells_tell(
    cell: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run_cell(cell("genetic_single"))
    first = next(message for message in caplog.messages if "genetic search within" in message)
    assert "within 30 epochs (6 trainings), hours unknown" in first
    assert "with 1 worker;" in first
    caplog.clear()
    with caplog.at_level("INFO"):
        run_cell(cell("genetic_single", fold=2))
    assert next(m for m in caplog.messages if "genetic search within" in m).count("hours by 1 finished cells like it")


def only(results: Path) -> Record:
    records = read_all(results)
    assert not records.broken
    (record,) = records.all
    assert record.status == "done", record.reason
    return record


def result(record: Record) -> tuple[Any, ...]:
    """What may not depend on who trained the candidates."""
    return record.metrics, record.metrics_last, record.structure, record.history, record.search.epochs


@pytest.mark.slow
@pytest.mark.fault
def test_workers_change_no_result_though_one_is_killed(start: Start, cell: Make, project: Path, kill: Kill) -> None:
    line = ("benchmarks.run", "toy", "genetic_single", "--preset", "slow", "--results", "two")
    process = start(*line, "--trial-workers", "2")
    assert kill_in_the_middle(process, project / "two", lambda: kill("multiprocessing.spawn"))
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "with 2 workers" in err
    assert err.count("its item is tried once more") == 1
    assert out.startswith("toy slow genetic_single fold 1 seed 0: accuracy")
    assert result(only(project / "two")) == result(run_cell(cell("genetic_single")))


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_driver_loses_no_evaluation(start: Start, call: Call, cell: Make, project: Path) -> None:
    line = ("benchmarks.run", "toy", "genetic_single", "--preset", "slow", "--results", "two")
    process = start(*line, "--trial-workers", "2")
    assert kill_in_the_middle(process, project / "two", lambda: process.send_signal(signal.SIGKILL) or 1)
    process.communicate(timeout=30)
    time.sleep(1)  # its workers end by themselves
    kept = {path: path.stat().st_mtime_ns for path in (project / "two").rglob("candidate-*-*.json")}
    assert kept
    done = call(*line)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert result(only(project / "two")) == result(run_cell(cell("genetic_single")))


def kill_in_the_middle(process: subprocess.Popen[str], results: Path, kill: Callable[[], object]) -> bool:
    """Kill when some candidates are done and others begun; whether it was done before the process ended."""
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
        done = list(results.rglob("candidate-*-1.json"))
        begun = list(results.rglob("candidate-*/last.ckpt"))
        if done and len(begun) >= len(done) and kill():
            return True
    return False


def test_what_was_evaluated_on_other_data_is_not_used(own: Make, mine: list[Path], tmp_path: Path) -> None:
    trial = Trial(tmp_path, {}, 1)
    one, other = (trial.path(own(root, "genetic_single", preset="ours"), STRUCTURES[0]) for root in mine)
    assert one != other
    moved = mine[1].rename(mine[1].with_name("moved"))
    assert trial.path(own(moved, "genetic_single", preset="ours"), STRUCTURES[0]) == other
