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

import numpy as np
import pytest
import torch

import tasks
from benchmarks import pool, suite
from benchmarks.evaluations import Evaluated, Evaluations, NotShared, Trial, shortened
from benchmarks.methods import GENETIC, METHODS
from benchmarks.record import Cell, Record, read_all
from benchmarks.run import run_cell
from benchmarks.searches import genetic_search, train_and_rank
from benchmarks.training import FOUND, Job, fit
from rfnext import Structure
from rfnext.search.evolution import random_structure
from rfnext.search.halving import Rung
from tasks.spec import SELECTED, Task

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


@dataclasses.dataclass
class Workers:
    """Run what they are given as worker processes would, without the driver's task; `seen` says when."""

    seen: list[str] = dataclasses.field(default_factory=list)
    size: int = 2

    def run(self, function: Any, items: Any) -> list[Any]:
        self.seen.append("begin")
        sent, items = pickle.loads(pickle.dumps((function, list(items))))  # noqa: S301 (made right here)
        done = pool.in_process().run(sent, items)
        self.seen.append("end")
        return done


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Task[Any]], Workers]:
    """Makes workers that load a task of the test."""

    def make(task: Task[Any]) -> Workers:
        monkeypatch.setattr(tasks, "load", lambda name: task)
        monkeypatch.setattr(pool, "print_to", lambda path: None)  # it is this process's output here
        monkeypatch.setattr(pool, "_device", "cpu")
        return Workers()

    return make


@pytest.mark.parametrize("name", ["tuned_design", "random_search", "one_shot_ranked", "learnable_spacings"])
def test_ranked_candidates_are_the_same_side_by_side(
    job: Callable[..., Job], results: Path, workers: Callable[[Task[Any]], Workers], name: str
) -> None:
    alone = run_cell(job(name))
    assert alone.status == "done", alone.reason
    there = dataclasses.replace(job(name), results=results.with_name("two"), workers=workers(job().task))
    beside = run_cell(there)
    assert there.workers.seen == ["begin", "end"]  # type: ignore[union-attr]
    assert result(beside) == result(alone)
    assert beside.validation == alone.validation


def test_a_ranked_candidate_that_fails_ends_the_search_wherever_it_is_trained(
    job: Callable[..., Job], workers: Callable[[Task[Any]], Workers]
) -> None:
    here = failing(job("random_search"), STRUCTURES[1])
    for one in (here, dataclasses.replace(here, workers=workers(here.task))):
        with pytest.raises(RuntimeError, match="no memory for this one"):
            train_and_rank(one, STRUCTURES, 3)


@pytest.mark.slow
def test_real_networks_are_ranked_the_same_by_two_processes(results: Path) -> None:
    task = tasks.load("action_segmentation")
    cell = Cell(task.name, "tiny", "random_search", 1, 0)
    config = dataclasses.replace(task.presets["tiny"], epochs=4, stages=1, maps=8, stride=8)
    here = Job(cell, task, config, results, settings={}, device="cpu")
    designed = Structure.read(task.build(config), task.where)
    drawn = [random_structure(designed, (1, 2, 4, 8, 16), np.random.default_rng(seed)) for seed in range(2)]
    with pool.local(["cpu", "cpu"]) as two:
        there = dataclasses.replace(here, results=results.with_name("two"), workers=two)
        beside = train_and_rank(there, drawn, config.epochs)
    alone = train_and_rank(here, drawn, config.epochs)
    assert (beside.structure, beside.history) == (alone.structure, alone.history)
    assert beside.cost.epochs == alone.cost.epochs == 4
    for number in range(2):
        trained = [load_selected_weights(one.folder(f"candidate{number}")) for one in (here, there)]
        assert all(torch.equal(a, b) for a, b in zip(*(weights.values() for weights in trained), strict=True))
    assert "epoch 2: " in there.folder("candidate1.txt").read_text()


def load_selected_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / SELECTED, weights_only=True)


def test_a_trial_elsewhere_needs_the_very_folder(
    job: Callable[..., Job],
    toy: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    workers: Callable[[Task[Any]], Workers],
) -> None:
    workers(toy.TASK)
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


SHORTENED = {"population": 4, "generations": 3, "rungs": (0.25, 0.375), "promoted": 0.25, "budget": 2, "shorten": 2}


@pytest.fixture
def segmentation(results: Path) -> tuple[Job, list[tuple[int, int, Structure]]]:
    """A job on the embedded recordings, and the stride, epochs and structure of each training."""
    real = tasks.load("action_segmentation")
    trained: list[tuple[int, int, Structure]] = []

    def fit(model: Any, config: Any, run: Any) -> None:
        trained.append((config.stride, config.epochs, Structure.read(model, real.where)))
        real.fit(model, config, run)

    config = dataclasses.replace(real.presets["tiny"], epochs=8, stages=1, layers=3, maps=8, stride=8)
    cell = Cell(real.name, "tiny", "global_shortened", 1, 0)
    settings = METHODS["global_shortened"].settings
    return Job(cell, dataclasses.replace(real, fit=fit), config, results, settings=settings, device="cpu"), trained


def test_a_structure_on_shorter_input_has_smaller_dilations() -> None:
    structure = Structure({"a": (1,), "b": (2, 4), "c": (5, 7), "d": (64,)})
    assert dict(shortened(structure, 2)) == {"a": (1,), "b": (1, 2), "c": (3, 4), "d": (32,)}
    assert dict(shortened(structure, 3)) == {"a": (1,), "b": (1, 1), "c": (2, 2), "d": (21,)}
    assert shortened(structure, 1) == structure


def test_structures_that_are_the_same_on_shorter_input_are_trained_once(
    segmentation: tuple[Job, list[tuple[int, int, Structure]]], results: Path
) -> None:
    here, trained = segmentation
    names = list(Structure.read(here.task.build(here.config), here.task.where))
    one, same, other = (
        Structure(dict(zip(names, ((d,), (2,), (8,)), strict=True))) for d in (1, 2, 4)
    )  # 1 and 2 are both 1 on half the input
    evaluations = Evaluations(here, results / "work" / "search", {}, shorten=2, whole=3)
    values = evaluations.map(Rung(evaluations, 2), [one, same, other])
    assert values[0] == values[1]
    assert [stride for stride, *_ in trained] == [16, 16]
    assert [[d for (d,) in structure.values()] for *_, structure in trained] == [[1, 1, 4], [2, 1, 4]]
    assert (evaluations.epochs, evaluations.cost().epochs) == (2, 2)  # two trainings of two epochs of half the length
    # Neither is it in a later generation, nor is that counted as a resumption.
    assert evaluations.map(Rung(evaluations, 2), [same]) == values[:1]
    assert (evaluations.epochs, evaluations.resumed, len(trained)) == (2, False, 2)
    # On whole input they are two, and begin anew.
    whole = evaluations.map(Rung(evaluations, 3), [one, same])
    assert [(stride, epochs) for stride, epochs, _ in trained[2:]] == [(8, 3), (8, 3)]
    assert [structure for *_, structure in trained[2:]] == [one, same]
    assert evaluations.epochs == evaluations.cost().epochs == 2 + 2 * 3
    straight = Evaluations(here, results / "work" / "straight", {})
    assert straight.map(Rung(straight, 3), [one, same]) == whole


def test_one_that_fails_on_shorter_input_fails_for_all_that_are_the_same(
    segmentation: tuple[Job, list[tuple[int, int, Structure]]], results: Path
) -> None:
    here, trained = segmentation
    one, same = (Structure.read(here.task.build(here.config), here.task.where) for _ in range(2))
    same = Structure({name: (d if d > 1 else 2,) for name, (d,) in one.items()})

    def evaluate(*arguments: Any) -> dict[str, float]:
        return dict.fromkeys((metric.name for metric in here.task.metrics), float("nan"))

    lost = dataclasses.replace(here, task=dataclasses.replace(here.task, evaluate=evaluate))
    evaluations = Evaluations(lost, results / "work" / "search", {}, shorten=2, whole=3)
    assert evaluations.map(Rung(evaluations, 2), [one]) == [None]
    assert evaluations.map(Rung(evaluations, 2), [same]) == [None]
    assert len(trained) == evaluations.epochs == evaluations.cost().epochs == 1


def test_a_search_on_shorter_input_is_the_same_resumed_and_by_workers(
    segmentation: tuple[Job, list[tuple[int, int, Structure]]],
    results: Path,
    workers: Callable[[Task[Any]], Workers],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, trained = segmentation
    with caplog.at_level("INFO"):
        found = genetic_search(here, **SHORTENED)
    assert "rungs of 2, 3 epochs, all but the last on input 2 times shorter" in caplog.text
    assert found.folder.parent.name == "genetic_shortened"
    assert {(stride, epochs) for stride, epochs, _ in trained} == {(16, 2), (8, 3)}
    assert len(set(trained)) == len(trained)
    spent = sum(1 if stride == 16 else 3 for stride, *_ in trained)
    assert spent == found.cost.epochs == found.history[-1]["step"] <= 2 * 8
    # What it goes by is the fitness on shorter input; what it finds is the best on whole input.
    told = {
        epochs: [json.loads(path.read_text())["fitness"] for path in found.folder.glob(f"candidate-*-{epochs}.json")]
        for epochs in (2, 3)
    }
    assert min(told[2]) > max(told[3]), "here they are no match for each other"
    assert found.history[-1]["fitness"] == max(told[3])
    assert found.structure in [structure for stride, _, structure in trained if stride == 8]
    straight, count = set(trained), len(trained)
    trained.clear()

    again = dataclasses.replace(here, results=results.with_name("two"), workers=workers(here.task))
    calls = []

    def stopping(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return fit(*arguments, **named)

    monkeypatch.setattr("benchmarks.evaluations.fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        genetic_search(again, **SHORTENED)
    resumed = genetic_search(again, **SHORTENED)
    assert resumed.resumed
    assert (resumed.structure, resumed.history) == (found.structure, found.history)
    assert resumed.cost.epochs == found.cost.epochs
    assert set(trained) == straight
    assert len(trained) == count


def test_a_task_without_shorter_input_says_so(job: Callable[..., Job], toy: ModuleType) -> None:
    without = dataclasses.replace(toy.TASK, shortened=None)
    record = run_cell(job("global_shortened", task=without))
    assert record.reason == "ValueError: task toy has no shorter input: it has no `shortened`"
    assert suite.left_out(without, "global_shortened") == "the task has no shorter input"
    assert suite.left_out(toy.TASK, "global_shortened") is None


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
    job: Callable[..., Job], toy: ModuleType, results: Path, workers: Callable[[Task[Any]], Workers]
) -> None:
    seen = (two := workers(toy.TASK)).seen

    def probe(*arguments: Any) -> Any:
        seen.append("probe")
        return toy.TASK.probe(*arguments)

    here = job("global_pareto", task=dataclasses.replace(toy.TASK, probe=probe), workers=two)
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
    start: Start, call: Call, project: Path, kill: Kill, cluster: str
) -> None:
    line = ("benchmarks.run", "toy", "global_", "--preset", "slow", "--results", "two")
    process = start(*line, "--ray-address", cluster)
    assert kill_in_the_middle(process, project / "two", lambda: kill("ray::PoolActor.run_batch"))
    _, err = process.communicate(timeout=240)
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
