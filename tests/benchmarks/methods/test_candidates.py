"""Candidates of a search: the same results side by side as one after another, and no fault loses or changes any."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import tasks
from benchmarks.cell import Cell
from benchmarks.methods.candidates import as_fitness, best_structure, powers
from benchmarks.methods.table import METHODS
from benchmarks.records.record import Record
from benchmarks.running import pool
from benchmarks.running.execute import run_cell
from rfnext import Structure, random_structure
from tasks.spec import SELECTED, Metric, Task

Make = Callable[..., Cell]

STRUCTURES = [Structure({"0": (d,), "2": (e,)}) for d, e in ((1, 1), (2, 4), (4, 2))]


def result(record: Record) -> tuple[Any, ...]:
    """What may not depend on who trained the candidates."""
    return record.metrics, record.metrics_last, record.structure, record.history, record.search.epochs


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.ranks])
def test_candidates_are_the_same_side_by_side(
    cell: Make, results: Path, workers: Callable[[Task[Any]], Any], toy: ModuleType, name: str
) -> None:
    alone = run_cell(cell(name))
    assert alone.status == "done", alone.reason
    two = workers(toy.TASK)
    beside = run_cell(cell(name, results=results.with_name("two")), two)
    assert beside.status == "done", beside.reason
    assert two.seen[:2] == ["begin", "end"]
    assert result(beside) == result(alone)
    assert beside.validation == alone.validation


def test_a_candidate_that_fails_ends_the_ranking_wherever_it_is_trained(
    cell: Make, failing: Callable[..., Cell], searching: Callable[..., Any], workers: Callable[[Task[Any]], Any]
) -> None:
    here = failing(cell("random_single"), STRUCTURES[1])
    for workplace in (None, workers(here.task)):
        with pytest.raises(RuntimeError, match="no memory for this one"):
            best_structure(searching(here, workplace), STRUCTURES, 3)


def test_the_best_on_validation_wins_whether_high_or_low_is_better(
    cell: Make, toy: ModuleType, searching: Callable[..., Any]
) -> None:
    here = cell("random_single")
    found = best_structure(searching(here), STRUCTURES, 15)
    assert [entry["structure"] for entry in found.history] == [
        {name: list(d) for name, d in structure.items()} for structure in STRUCTURES
    ]
    scores = [entry["validation"]["accuracy"] for entry in found.history]
    assert found.structure == STRUCTURES[scores.index(max(scores))]
    assert found.cost.epochs == 15
    lower = dataclasses.replace(toy.TASK, metrics=toy.TASK.metrics[::-1])
    found = best_structure(searching(dataclasses.replace(here, task=lower)), STRUCTURES, 15)
    losses = [entry["validation"]["loss"] for entry in found.history]
    assert found.structure == STRUCTURES[losses.index(min(losses))]


@pytest.mark.parametrize(
    ("value", "higher", "fitness"),
    [(50.0, True, 50.0), (-1.0, True, 0.0), (0.0, False, 100.0), (3.0, False, 25.0), (float("nan"), False, None)],
)
def test_fitness_is_what_evolution_takes(value: float, higher: bool, fitness: float | None) -> None:
    assert as_fitness(value, Metric("x", higher_is_better=higher)) == fitness


def test_candidates_end_at_the_longest_input_and_at_the_bounds(cell: Make) -> None:
    here = cell()
    assert powers(here) == (1, 2, 4, 8, 16)
    short = dataclasses.replace(here.task, longest_input=lambda config: 9)
    assert powers(dataclasses.replace(here, task=short)) == (1, 2, 4, 8)


@pytest.mark.slow
def test_real_networks_are_ranked_the_same_by_two_processes(results: Path, searching: Callable[..., Any]) -> None:
    task = tasks.load("action_segmentation")
    config = dataclasses.replace(task.presets["tiny"], epochs=4, stages=1, maps=8, stride=8)
    here = Cell(task, "short", config, METHODS["random_single"], 1, 0, results, "tiny", device="cpu")
    designed = Structure.read(task.build(config), task.where)
    drawn = [random_structure(designed, (1, 2, 4, 8, 16), np.random.default_rng(seed)) for seed in range(2)]
    there = dataclasses.replace(here, results=results.with_name("two"))
    with pool.local(["cpu", "cpu"]) as two:
        beside = best_structure(searching(there, two), drawn, config.epochs)
    alone = best_structure(searching(here), drawn, config.epochs)
    assert (beside.structure, beside.history) == (alone.structure, alone.history)
    assert beside.cost.epochs == alone.cost.epochs == 4
    for number in range(2):
        trained = [selected_weights(one.work / f"candidate{number}") for one in (here, there)]
        assert all(torch.equal(a, b) for a, b in zip(*(weights.values() for weights in trained), strict=True))
    assert "epoch 2 of 2, validation: " in (there.work / "candidate1.txt").read_text()


def selected_weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / SELECTED, weights_only=True)["state_dict"]
