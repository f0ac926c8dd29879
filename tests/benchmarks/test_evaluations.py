"""Candidates of a search: the same results side by side as one after another, and no fault loses or changes any."""

import dataclasses
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

import tasks
from benchmarks import pool
from benchmarks.evaluations import Evaluated, Evaluations, NotShared, Trial
from benchmarks.methods import GENETIC, METHODS
from benchmarks.record import Record, read_all
from benchmarks.run import run_cell
from benchmarks.searches import genetic_search
from benchmarks.training import FOUND, Job
from rfnext import Structure
from rfnext.halving import Rung

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]
Kill = Callable[[str], int | None]

STRUCTURES = [Structure({"0": (d,), "2": (e,)}) for d, e in ((1, 1), (2, 4), (4, 2))]


def result(record: Record) -> tuple[Any, ...]:
    """What may not depend on who trained the candidates."""
    return record.metrics, record.metrics_last, record.structure, record.history, record.search.epochs


def only(results: Path) -> Record:
    (record,), broken = read_all(results)
    assert not broken
    assert record.status == "done", record.reason
    return record


def test_an_evaluation_goes_on_from_the_one_before_and_is_kept(job: Callable[..., Job]) -> None:
    here = job("global_")
    folder = here.results / "work" / "search"
    first = Evaluations(here, folder, {})
    short = first.map(Rung(first, 2), STRUCTURES)
    long = first.map(Rung(first, 5), STRUCTURES[:1])
    assert first.epochs == first.cost().epochs == 3 * 2 + 3
    assert not first.resumed
    straight = Evaluations(here, folder.with_name("straight"), {})
    assert long == [straight(STRUCTURES[0], 5)]

    again = Evaluations(here, folder, {})
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert again.map(Rung(again, 2), STRUCTURES) == short
    assert again.map(Rung(again, 5), STRUCTURES[:1]) == long
    assert again.resumed
    assert again.cost() == first.cost()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    other = Evaluations(here, folder, {"rule": "another"})
    other(STRUCTURES[0], 2)
    assert not other.resumed


def test_a_damaged_result_is_made_again(job: Callable[..., Job]) -> None:
    here = job("global_")
    trial = Trial(here, here.results / "work" / "search", {}, 1)
    made = trial(STRUCTURES[0])
    path = trial.path(STRUCTURES[0])
    for text in ("", "[]", "{}", path.read_text()[:-9]):
        path.write_text(text)
        assert Evaluated.read(path) is None
    assert trial(STRUCTURES[0]).fitness == made.fitness
    assert Evaluated.read(path) is not None


def failing(job: Job, *structures: Structure) -> Job:
    """The job with a task whose training of these structures fails."""
    real = job.task.fit

    def fit(model: Any, config: Any, run: Any) -> None:
        if Structure.read(model, lambda name, conv: name in ("0", "2")) in structures:
            raise RuntimeError("no memory for this one")
        real(model, config, run)

    return dataclasses.replace(job, task=dataclasses.replace(job.task, fit=fit))


def test_one_that_fails_costs_its_epochs_and_loses(
    job: Callable[..., Job], results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = results / "work" / "search"
    evaluations = Evaluations(failing(job("global_"), STRUCTURES[1]), folder, {})
    first, second, third = evaluations.map(Rung(evaluations, 2), STRUCTURES)
    assert first is not None
    assert second is None
    assert third is not None
    assert evaluations.epochs == evaluations.cost().epochs == 6
    assert "failed at 2 epochs: no memory for this one" in caplog.text
    mended = Evaluations(job("global_"), folder, {})
    assert None not in mended.map(Rung(mended, 2), STRUCTURES)  # a failure is not kept


def test_if_all_fail_the_cell_says_why(job: Callable[..., Job], toy: ModuleType) -> None:
    record = run_cell(job("global_", preset="raise", fold=2))
    assert record.status == "failed"
    assert "evaluations of generation 0 failed" in (record.reason or "")
    assert "the last one by RuntimeError: the toy was told to fail; mend what made them fail" in (record.reason or "")


def diverging(job: Job, diverges: Callable[[Structure, int], bool]) -> Job:
    """The job with a task whose metric on the validation part is not finite for these structures and epochs."""
    real = job.task.evaluate

    def evaluate(model: Any, config: Any, split: Any) -> dict[str, float]:
        values = real(model, config, split)
        structure = Structure.read(model, lambda name, conv: name in ("0", "2"))
        lost = split.part == "validation" and diverges(structure, config.epochs)
        return dict.fromkeys(values, float("nan")) if lost else values

    return dataclasses.replace(job, task=dataclasses.replace(job.task, evaluate=evaluate))


def test_one_that_diverges_is_trained_from_its_first_epoch_by_whoever_goes_on(
    job: Callable[..., Job], results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = results / "work" / "search"
    lost = diverging(job("global_"), lambda structure, epochs: structure == STRUCTURES[1])
    evaluations = Evaluations(lost, folder, {}, "latency")
    values = evaluations.map(Rung(evaluations, 1), STRUCTURES)
    assert [value is None for value in values] == [False, True, False]
    assert evaluations.epochs == evaluations.cost().epochs == 3
    assert "failed at 1 epochs: the training diverged: accuracy on the validation part is not finite" in caplog.text
    assert not Trial(lost, folder, {}, 1).checkpoints(STRUCTURES[1]).exists()
    # One that diverges later on keeps the result it had.
    later = Evaluations(diverging(job("global_"), lambda *all_: True), folder, {}, "latency")
    assert later.map(Rung(later, 1), STRUCTURES[:1]) == values[:1]
    assert later.map(Rung(later, 2), STRUCTURES[:1]) == [None]
    assert later.found(STRUCTURES[0]).fitness == values[0]
    assert later.found(STRUCTURES[0]).cost == evaluations.found(STRUCTURES[0]).cost

    mended = Evaluations(job("global_"), folder, {})
    straight = Evaluations(job("global_"), folder.with_name("straight"), {})
    for epochs in (1, 2):
        assert mended.map(Rung(mended, epochs), STRUCTURES) == straight.map(Rung(straight, epochs), STRUCTURES)


def test_if_all_of_the_first_generation_diverge_a_rerun_goes_on_once_that_is_mended(job: Callable[..., Job]) -> None:
    with pytest.raises(RuntimeError) as caught:
        genetic_search(diverging(job("global_"), lambda *all_: True), **GENETIC)
    assert str(caught.value) == (
        "all evaluations of generation 0 failed, the last one by Diverged: the training diverged: accuracy on the "
        "validation part is not finite; mend what made them fail and run it again: they are then trained anew"
    )
    assert genetic_search(job("global_"), **GENETIC).cost.epochs == 30


def test_if_all_of_a_later_generation_fail_the_search_keeps_what_it_has_found(
    job: Callable[..., Job], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here = job("global_")
    whole = genetic_search(dataclasses.replace(here, results=tmp_path / "whole"), **GENETIC)
    first: set[Structure] = set()  # what is evaluated before the first one goes on to the second rung
    longer: set[Structure] = set()

    def late(structure: Structure, epochs: int) -> bool:
        if epochs > 1:
            longer.add(structure)
        elif not longer:
            first.add(structure)
        return structure not in first

    found = genetic_search(diverging(here, late), **GENETIC)
    assert found.history == whole.history[:1]
    assert dict(found.structure) == {name: tuple(d) for name, d in found.history[-1]["structure"].items()}
    assert found.cost.epochs < whole.cost.epochs
    assert "all evaluations of generation 1 failed, the last one by Diverged: " in caplog.text
    assert f"delete {found.folder / FOUND} and the records" in caplog.text
    (found.folder / FOUND).unlink()
    assert genetic_search(here, **GENETIC).history == whole.history


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_trainings_too_short_for_all_rungs_have_fewer(
    job: Callable[..., Job], toy: ModuleType, epochs: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        found = genetic_search(job("global_", config=toy.Config(epochs=epochs)), **GENETIC)
    assert 0 < found.cost.epochs <= 6 * epochs
    assert "rungs of 1 epochs" in caplog.text


def test_candidates_are_the_beginnings_of_the_full_training(job: Callable[..., Job], toy: ModuleType) -> None:
    spans = []

    def fit(model: Any, config: Any, run: Any) -> None:
        spans.append((config.epochs, run.schedule_epochs))
        toy.fit(model, config, run)

    outcome = run_cell(job("global_", task=dataclasses.replace(toy.TASK, fit=fit)))
    assert outcome.status == "done", outcome.reason
    assert set(spans[:-1]) == {(1, 5), (2, 5)}
    assert spans[-1] == (5, None)


def test_a_trial_elsewhere_needs_the_very_folder(
    job: Callable[..., Job], toy: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "load", lambda name: toy.TASK)
    monkeypatch.setattr(pool, "print_to", lambda path: None)  # it is this process's output here
    monkeypatch.setattr(pool, "_device", "cpu")
    here = job("global_")
    trial = Trial(here, here.results / "work" / "search", {"promoted": 0.25}, 2)
    sent = pickle.loads(pickle.dumps(trial.elsewhere()))  # noqa: S301 (made one line above)
    made = sent(STRUCTURES[0])
    assert trial.path(STRUCTURES[0]).exists()
    assert trial(STRUCTURES[0]) == made
    with pytest.raises(NotShared, match=r"does not see .*results, .*give --results a folder that all machines share"):
        dataclasses.replace(sent, mark="of another machine")(STRUCTURES[0])

    def leave(*arguments: object) -> None:
        raise SystemExit(7)

    leaving = dataclasses.replace(toy.TASK, fit=leave)
    monkeypatch.setattr(tasks, "load", lambda name: leaving)
    with pytest.raises(RuntimeError, match="SystemExit: 7"):
        sent(STRUCTURES[1])


def test_a_worker_without_the_folder_ends_the_search(job: Callable[..., Job], tmp_path: Path) -> None:
    class Far:
        size = 1

        def run(self, function: Any, items: Any) -> list[Any]:
            return pool.in_process().run(dataclasses.replace(function, mark="of another machine"), items)

    here = job("global_", workers=Far())
    with pytest.raises(NotShared):
        genetic_search(here, **GENETIC)


def test_without_workers_no_structure_is_to_blame(job: Callable[..., Job]) -> None:
    record = run_cell(job("global_", workers=pool.Pool([])))
    assert record.reason == "NoWorkerLeft: every worker died, and no other could be started"


def test_epochs_never_exceed_the_budget(job: Callable[..., Job], toy: ModuleType, tmp_path: Path) -> None:
    for budget in (0.2, 1, 2.1):
        settings = GENETIC | {"budget": budget, "rungs": (0.25, 0.5, 1.0)}
        here = dataclasses.replace(job("global_", config=toy.Config(epochs=4)), results=tmp_path / f"{budget}")
        found = genetic_search(here, **settings)
        trained = 0
        for marker in next(here.results.rglob(FOUND)).parent.glob("candidate-*"):
            if marker.is_dir():
                reached = [int(p.stem.rsplit("-", 1)[1]) for p in marker.parent.glob(f"{marker.name}-*.json")]
                trained += max(reached)
        assert 0 < trained == found.cost.epochs <= budget * 4 + 0.5


def test_the_budget_is_said_before_the_search_in_hours_where_cells_tell(
    job: Callable[..., Job], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run_cell(job("global_"))
    first = next(message for message in caplog.messages if "genetic search within" in message)
    assert "within 30 epochs (6 trainings), hours unknown before the first generation, with 1 worker; " in first
    assert any("30 epochs, the others take about" in message for message in caplog.messages)
    caplog.clear()
    with caplog.at_level("INFO"):
        run_cell(job("global_", fold=2))
    assert next(m for m in caplog.messages if "genetic search within" in m).count("hours by 1 finished cells like it")


def test_latency_finds_a_front_and_takes_the_fastest_that_is_good_enough(job: Callable[..., Job]) -> None:
    here = job("global_pareto")
    record = run_cell(here)
    assert record.status == "done", record.reason
    *rest, last = record.history
    assert rest
    front = last["front"]
    assert [one["latency"] for one in front] == sorted(one["latency"] for one in front)
    assert [one["fitness"] for one in front] == sorted({one["fitness"] for one in front})
    tolerance = METHODS["global_pareto"].settings["tolerance"]
    good = [one for one in front if one["fitness"] >= front[-1]["fitness"] - tolerance]
    assert last["structure"] == record.structure == good[0]["structure"]
    assert all(one["latency"] > 0 for one in front)
    # The fitness of every structure is that of its longest training.
    folder = next(here.results.rglob(FOUND)).parent
    told = [json.loads(path.read_text()) for path in folder.glob("candidate-*-*.json")]
    assert {(one["fitness"], one["latency"]) for one in front} <= {(one["fitness"], one["cost"]) for one in told}


def test_latency_is_measured_by_the_driver_once_the_workers_are_idle(
    job: Callable[..., Job], toy: ModuleType, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    class Workers:
        """Runs what it is given as a worker process would: without the driver's task."""

        size = 2

        def run(self, function: Any, items: Any) -> list[Any]:
            seen.append("begin")
            done = pool.in_process().run(pickle.loads(pickle.dumps(function)), items)  # noqa: S301 (made right here)
            seen.append("end")
            return done

    def probe(*arguments: Any) -> Any:
        seen.append("probe")
        return toy.TASK.probe(*arguments)

    monkeypatch.setattr(tasks, "load", lambda name: toy.TASK)
    monkeypatch.setattr(pool, "print_to", lambda path: None)
    monkeypatch.setattr(pool, "_device", "cpu")
    here = job("global_pareto", task=dataclasses.replace(toy.TASK, probe=probe), workers=Workers())
    folder = results / "work" / "search"
    evaluations = Evaluations(here, folder, {}, "latency")
    evaluations.map(Rung(evaluations, 1), STRUCTURES)
    evaluations.map(Rung(evaluations, 2), STRUCTURES[:1])
    assert seen == ["begin", "end", "probe", "probe", "probe", "begin", "end"]  # each structure once
    costs = [evaluations.found(structure).cost for structure in STRUCTURES]
    assert None not in costs
    again = Evaluations(here, folder, {}, "latency")
    again.map(Rung(again, 1), STRUCTURES)
    again.map(Rung(again, 2), STRUCTURES[:1])
    assert [again.found(structure).cost for structure in STRUCTURES] == costs


def test_latency_needs_a_probe(job: Callable[..., Job], toy: ModuleType) -> None:
    record = run_cell(job("global_pareto", task=dataclasses.replace(toy.TASK, probe=None)))
    assert record.reason == "ValueError: the latency of toy's networks cannot be measured: the task has no `probe`"


@pytest.mark.slow
def test_workers_change_no_result_though_one_is_killed(start: Start, call: Call, project: Path, kill: Kill) -> None:
    alone = call("benchmarks.run", "toy", "global_", "--results", "alone")
    assert alone.returncode == 0, alone.stderr
    process = start("benchmarks.run", "toy", "global_", "--preset", "slow", "--trial-workers", "2", "--results", "two")
    killed = kill_in_the_middle(process, project / "two", lambda: kill("multiprocessing.spawn"))
    assert killed
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "with 2 workers" in err
    assert err.count("its item is tried once more") == 1
    assert out.startswith("toy slow global_ fold 1 seed 0: accuracy")
    assert result(only(project / "two")) == result(only(project / "alone"))


@pytest.mark.slow
def test_a_killed_driver_loses_no_evaluation(start: Start, call: Call, project: Path) -> None:
    line = ("benchmarks.run", "toy", "global_", "--preset", "slow", "--results", "two")
    process = start(*line, "--trial-workers", "2")
    assert kill_in_the_middle(process, project / "two", lambda: process.send_signal(signal.SIGKILL) or 1)
    process.communicate(timeout=30)
    time.sleep(1)  # its workers end by themselves
    kept = {path: path.stat().st_mtime_ns for path in (project / "two").rglob("candidate-*-*.json")}
    assert kept
    done = call(*line)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert call("benchmarks.run", "toy", "global_", "--results", "alone").returncode == 0
    assert result(only(project / "two")) == result(only(project / "alone"))


@pytest.mark.slow
def test_a_ray_cluster_trains_the_candidates_though_a_worker_is_killed(
    start: Start, call: Call, project: Path, kill: Kill
) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    try:
        cluster.add_node(**small)
        line = ("benchmarks.run", "toy", "global_", "--preset", "slow", "--results", "two")
        process = start(*line, "--ray-address", cluster.address)
        assert kill_in_the_middle(process, project / "two", lambda: kill("ray::PoolActor.run_batch"))
        _, err = process.communicate(timeout=240)
    finally:
        cluster.shutdown()
    assert process.returncode == 0, err
    assert "with 2 workers" in err
    assert err.count("its item is tried once more") == 1
    assert call("benchmarks.run", "toy", "global_", "--results", "alone").returncode == 0
    assert result(only(project / "two")) == result(only(project / "alone"))


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
