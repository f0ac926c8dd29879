"""METHODS: names that follow from search and finish, and a contract that every row keeps on the toy task."""

import dataclasses
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from benchmarks.cell import Cell
from benchmarks.methods.method import Method, Outcome, SearchStage
from benchmarks.methods.stored import FOUND
from benchmarks.methods.table import METHODS
from tasks.spec import Split

Make = Callable[..., Cell]
Run = Callable[..., Outcome]
ToyMethod = Callable[[str], Method]

NAMES = (
    *("baseline", "tuned_single", "stretched_single", "random_single", "baseline_multi"),
    *("kernel_enlargement", "learnable_spacings"),
    *("local_as_searched", "local_single", "local_multi", "local_merge"),
    "transferred_single",
    *("one_shot_single", "one_shot_ranked_single", "one_shot_to_local_single", "one_shot_to_local_multi"),
    *("genetic_single", "genetic_to_local_single", "genetic_to_local_multi"),
)


def test_the_rows_are_those_of_the_tables() -> None:
    assert tuple(METHODS) == NAMES


@pytest.mark.parametrize("name", METHODS)
def test_a_name_follows_from_search_and_finish(name: str) -> None:
    method = METHODS[name]
    assert method.name == name
    assert re.fullmatch("[a-z0-9_]+", name)
    if method.search is None:
        assert name == method.finish.alone
    else:
        assert name == f"{method.search.name}_{method.finish.name}"
        assert dataclasses.replace(method, search=None).name == method.finish.alone


@pytest.mark.parametrize("name", METHODS)
def test_a_description_says_search_and_finish_in_one_line(name: str) -> None:
    method = METHODS[name]
    for part in (method.search, method.finish):
        if part is not None:
            assert part.description
            assert part.description in method.description
    assert len(method.description.splitlines()) == 1


def test_descriptions_and_settings_tell_rows_apart() -> None:
    assert len({method.description for method in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_settings_are_those_of_the_whole_chain(name: str) -> None:
    method = METHODS[name]
    chain = method.searches
    assert [search.start for search in chain] == [None, *chain[:-1]][: len(chain)]
    assert chain[-1:] == ((method.search,) if method.search else ())
    parts = [*(search.settings for search in chain), method.finish.settings]
    assert sum(map(len, parts)) == len(method.settings)  # none hides another's
    for settings in parts:
        assert settings.items() <= method.settings.items()


def test_a_chain_is_made_of_what_goes_on_from_each_other() -> None:
    def unused(*_: object) -> Any:
        raise AssertionError

    first = SearchStage("first", "one", unused, settings={"a": 1})
    second = SearchStage("second", "two", unused, settings={"b": 2}, start=first, ranks=True)
    method = Method(second, METHODS["baseline"].finish)
    assert method.searches == (first, second)
    assert method.settings == {"a": 1, "b": 2}
    assert method.name == "second_single"
    assert method.ranks
    assert not Method(first, METHODS["baseline"].finish).ranks


WEAK = {
    "random_single",
    "one_shot_single",
    "one_shot_ranked_single",
    "one_shot_to_local_single",
    "one_shot_to_local_multi",
}
"""In five epochs the one-shot search has hardly begun to choose; what it finds in time is tested elsewhere. Five random
structures of 25 need not hold a good one."""


def trainings(method: Method) -> float:
    """What its searches may cost, in trainings of the network."""
    return sum(search.trainings for search in method.searches) + method.finish.settings.get("trainings", 0)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_a_network_and_counts_its_cost(
    name: str, cell: Make, run: Run, toy_method: ToyMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0
    step = torch.optim.Adam.step

    def counting(self: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.Adam, "step", counting)
    here = cell(toy_method(name))
    outcome = run(here)
    for values in (outcome.metrics, outcome.metrics_last, outcome.validation):
        assert set(values) == {"accuracy", "loss"}
        assert values["accuracy"] > (45 if name in WEAK else 60)
    # What is reported is the score of the returned network, on the test part.
    assert outcome.metrics == here.task.evaluate(outcome.model, here.config, Split("test", 1))
    assert set(outcome.structure) == (set() if name == "learnable_spacings" else {"0", "2"})

    method, epochs = here.method, here.config.epochs
    trains, most = method.finish.trains, trainings(method)
    assert 0.5 * most * epochs <= outcome.search.epochs <= most * epochs
    assert outcome.training.epochs == (epochs if trains else 0)
    assert steps == 5 * (outcome.search.epochs + outcome.training.epochs)  # five per epoch
    found = {path.parent.parent.name for path in here.results.rglob(FOUND)}
    assert found == {search.name for search in method.searches if search.shared}
    for cost, used in ((outcome.search, most > 0), (outcome.training, trains)):
        assert (cost.seconds > 0) == used
        assert (cost.peak_memory_mb is not None) == used
    assert outcome.evaluation_seconds > 0
    assert not outcome.resumed


@pytest.mark.parametrize("name", METHODS)
def test_no_method_looks_at_the_test_part_before_its_last_choice(
    name: str, cell: Make, run: Run, toy: ModuleType, toy_method: ToyMethod
) -> None:
    seen: list[str] = []

    def fit(model: Any, config: Any, run: Any) -> None:
        toy.fit(model, config, run)
        seen.append("fit")

    def evaluate(model: Any, config: Any, split: Split) -> dict[str, float]:
        seen.append(split.part)
        return toy.evaluate(model, config, split)

    run(cell(toy_method(name), task=dataclasses.replace(toy.TASK, fit=fit, evaluate=evaluate)))
    choosing = seen[: seen.index("test")]
    assert "fit" in choosing
    assert seen[len(choosing) :] == ["test", "test", "validation"]  # the last epoch, the chosen one, and how it was


@pytest.mark.parametrize(
    "name", ["random_single", "local_as_searched", "local_multi", "one_shot_to_local_single", "genetic_single"]
)
def test_a_cell_is_reproduced_by_its_seed(name: str, cell: Make, run: Run, results: Any) -> None:
    one, two = (run(cell(name, results=results / folder)) for folder in ("one", "two"))
    assert (one.metrics, one.validation, one.history) == (two.metrics, two.validation, two.history)


def test_seeds_and_folds_are_different_cells(cell: Make, run: Run) -> None:
    found = [run(cell(seed=seed, fold=fold)).metrics["loss"] for seed, fold in ((0, 1), (1, 1), (0, 2))]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    "name",
    [
        "baseline",
        "local_single",
        "local_merge",
        "random_single",
        "kernel_enlargement",
        "learnable_spacings",
        "one_shot_ranked_single",
        "one_shot_to_local_single",
        "genetic_single",
    ],
)
def test_an_interrupted_cell_resumes_to_the_same_result(
    name: str, cell: Make, run: Run, toy_method: ToyMethod, results: Any
) -> None:
    here = cell(toy_method(name), preset="interrupt", fold=2)
    if name == "random_single":  # its candidates take one epoch each; the full training is what is interrupted
        assert here.config.epochs // 5 == 1
    while True:
        try:
            outcome = run(here)
            break
        except KeyboardInterrupt:
            pass
    assert outcome.resumed
    straight = run(cell(toy_method(name), fold=2, results=results / "straight"))
    assert outcome.metrics == straight.metrics
    assert outcome.structure == straight.structure
    assert outcome.history == straight.history
