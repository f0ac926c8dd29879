"""Searches that cells share: done once, taken over by the others, and done again when they are of no use."""

import dataclasses
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.cell import Cell
from benchmarks.methods.method import Found, Outcome
from benchmarks.methods.stored import FOUND, find
from benchmarks.methods.table import METHODS
from benchmarks.records import machine
from benchmarks.running.pool import in_process

Make = Callable[..., Cell]
Run = Callable[..., Outcome]


def search(cell: Cell) -> Found:
    assert cell.method.search is not None
    return find(cell, cell.method.search, in_process())


def test_local_methods_share_one_search(cell: Make, run: Run, results: Path) -> None:
    names = ["local_as_searched", "local_single", "local_multi", "local_merge"]
    outcomes = {}
    written = set()
    for name in names:
        outcomes[name] = run(cell(name))
        (found,) = results.rglob(FOUND)
        written.add(found.stat().st_mtime_ns)
    assert len(written) == 1
    searched = outcomes["local_as_searched"]
    for name in names[1:]:
        assert outcomes[name].search == searched.search
        assert outcomes[name].history == searched.history
    for name in ("local_single", "local_multi"):
        assert dict(outcomes[name].structure) == {k: tuple(d) for k, d in searched.history[-1]["structure"].items()}


@pytest.mark.parametrize("name", ["local_single", "one_shot_single"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / FOUND).write_text("{"),
        lambda folder: (folder / FOUND).write_text("[]"),
        lambda folder: (folder / FOUND).write_text((folder / FOUND).read_text().replace('"structure"', '"x"')),
        lambda folder: (folder / FOUND).write_text((folder / FOUND).read_text().replace('"epochs"', '"x"')),
        lambda folder: (folder / "last.pt").unlink(),
    ],
)
def test_a_damaged_search_is_done_again(cell: Make, name: str, damage: Callable[[Path], Any]) -> None:
    first = search(cell(name))
    damage(first.folder)
    again = search(cell(name))
    assert again.cost.seconds != first.cost.seconds
    assert again.structure == first.structure
    assert search(cell(name)) == again
    json.loads((first.folder / FOUND).read_text())


def test_a_search_of_another_protocol_is_not_taken_over(cell: Make, run: Run, toy: ModuleType) -> None:
    run(cell("local_single"))
    longer = run(cell("local_single", config=toy.Config(epochs=6)))
    assert longer.search.epochs == 6
    assert longer.history[-1]["step"] == 6


def test_a_search_of_older_code_is_taken_over_with_a_warning(
    cell: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not silently: an edit of task.py, such as another learning rate, is no other protocol."""
    sources = {"tasks/toy/task.py": "1a", "tasks/other/task.py": "2b"}
    monkeypatch.setattr(machine, "sources", lambda: sources)
    found = search(cell("local_single"))
    for name, warned in (("tasks/other/task.py", False), ("tasks/toy/task.py", True)):
        sources[name] = "edited"
        caplog.clear()
        assert search(cell("local_single")) == found
        messages = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
        assert any("although tasks/toy has changed since" in message for message in messages) is warned


def test_searches_that_start_from_different_ones_are_different(cell: Make, results: Path) -> None:
    alone, after = search(cell("local_single")), search(cell("one_shot_to_local_single"))
    assert alone.folder != after.folder
    assert len(list(results.rglob(FOUND))) == 3
    assert after.cost.epochs == 2 * alone.cost.epochs


def test_a_second_process_waits_instead_of_searching_again(cell: Make, toy: ModuleType) -> None:
    fits: list[object] = []
    begun, go_on = threading.Event(), threading.Event()

    def fit(model: Any, config: Any, run: Any) -> None:
        fits.append(run)
        begun.set()
        go_on.wait(30)
        toy.fit(model, config, run)

    task = dataclasses.replace(toy.TASK, fit=fit)
    found: list[Found] = []
    both = [threading.Thread(target=lambda name=name: found.append(search(cell(name, task=task)))) for name in NAMES]
    for thread in both:
        thread.start()
        assert begun.wait(30)
    go_on.set()
    for thread in both:
        thread.join(60)
    assert len(fits) == 1
    assert found[0] == found[1]


NAMES = ("local_single", "local_multi")


def test_what_depends_on_the_method_is_not_shared(cell: Make, results: Path) -> None:
    for name in ("random_single", "tuned_single"):
        assert METHODS[name].search is not None
        found = search(cell(name))
        assert found.folder.is_relative_to(cell(name).work)
    assert not list(results.rglob(FOUND))


def test_a_search_on_other_data_is_not_taken_over(own: Make, mine: list[Path], results: Path) -> None:
    first = search(own(mine[0], "local_single", preset="ours"))
    assert search(own(mine[0], "local_multi", preset="ours")) == first
    other = search(own(mine[1], "local_single", preset="ours"))
    assert other.folder == first.folder
    assert other.cost.seconds != first.cost.seconds
    # The same data in another folder is the same.
    moved = mine[1].rename(mine[1].with_name("moved"))
    assert search(own(moved, "local_multi", preset="ours")) == other
