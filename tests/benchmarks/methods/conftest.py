"""Running a method of the toy task without a record, and what its tests ask of networks and tasks."""

import dataclasses
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import tasks
from benchmarks.cell import Cell
from benchmarks.methods.method import Method, Outcome
from benchmarks.methods.searching import Searching
from benchmarks.methods.stored import find
from benchmarks.methods.table import METHODS
from benchmarks.running.pool import Pool, in_process
from rfnext import Structure
from tasks.spec import Task


@pytest.fixture
def run() -> Callable[..., Outcome]:
    """Runs the search and the finish of a cell."""

    def one(cell: Cell, pool: Pool | None = None) -> Outcome:
        pool = pool or in_process()
        found = find(cell, cell.method.search, pool) if cell.method.search else None
        return cell.method.finish.run(cell, pool, found)

    return one


@pytest.fixture
def toy_method() -> Callable[[str], Method]:
    """A method with settings that fit the toy: four groups do not divide the two channels of its second conv."""

    def one(name: str) -> Method:
        method = METHODS[name]
        if name != "kernel_enlargement":
            return method
        return dataclasses.replace(method, finish=dataclasses.replace(method.finish, settings={"groups": 2}))

    return one


@pytest.fixture
def searching() -> Callable[..., Searching]:
    """What the search of a cell's method is given; other settings are added to its own."""

    def one(cell: Cell, pool: Pool | None = None, **settings: Any) -> Searching:
        stage = cell.method.search
        assert stage is not None
        folder = cell.search_folder(stage.name) if stage.shared else cell.work
        return Searching(cell, pool or in_process(), folder, None, stage.all_settings | settings)

    return one


@pytest.fixture
def failing() -> Callable[..., Cell]:
    """A cell with a task whose training of some structures fails."""

    def one(cell: Cell, *structures: Structure) -> Cell:
        real = cell.task.fit

        def fit(model: Any, config: Any, run: Any) -> None:
            if Structure.read(model, lambda name, conv: name in ("0", "2")) in structures:
                raise RuntimeError("no memory for this one")
            real(model, config, run)

        return dataclasses.replace(cell, task=dataclasses.replace(cell.task, fit=fit))

    return one


@pytest.fixture
def diverging() -> Callable[..., Cell]:
    """A cell with a task whose metrics on the validation part are not finite for some structures and epochs."""

    def one(cell: Cell, diverges: Callable[[Structure, int], bool]) -> Cell:
        real = cell.task.evaluate

        def evaluate(model: Any, config: Any, split: Any) -> dict[str, float]:
            values = real(model, config, split)
            structure = Structure.read(model, lambda name, conv: name in ("0", "2"))
            lost = split.part == "validation" and diverges(structure, config.epochs)
            return dict.fromkeys(values, float("nan")) if lost else values

        return dataclasses.replace(cell, task=dataclasses.replace(cell.task, evaluate=evaluate))

    return one


class Workers(Pool):
    """Runs what it is given as worker processes would, without the driver's task; `seen` says when."""

    def __init__(self) -> None:
        super().__init__([])
        self.seen: list[str] = []

    @property
    def size(self) -> int:
        """Workers that it has."""
        return 2

    def run(self, function: Any, items: Any) -> list[Any]:
        """Run function(item) for every item."""
        self.seen.append("begin")
        sent, items = pickle.loads(pickle.dumps((function, list(items))))  # noqa: S301 (made right here)
        done = in_process().run(sent, items)
        self.seen.append("end")
        return done


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Task[Any]], Workers]:
    """Makes workers that load a task of the test."""

    def make(task: Task[Any]) -> Workers:
        monkeypatch.setattr(tasks, "load", lambda name: task)
        monkeypatch.setattr(os, "dup2", lambda *descriptors: None)  # it is this process's output here
        return Workers()

    return make
