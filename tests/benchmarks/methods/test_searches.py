"""Searches of one or two trainings: what they choose from, within which budget, and what they start from."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from torch import nn

from benchmarks.cell import Cell
from benchmarks.methods.candidates import powers
from benchmarks.methods.method import Outcome
from benchmarks.methods.searches import capped_design, draw_structure
from benchmarks.methods.stored import FOUND
from rfnext import everything

Make = Callable[..., Cell]
Runs = Callable[..., Outcome]


def lists(structure: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(dilation) for name, dilation in structure.items()}


def test_random_search_stays_within_the_budget_and_takes_the_best(cell: Make, run: Runs, toy: ModuleType) -> None:
    outcome = run(cell("random_single", config=toy.Config(epochs=12)))
    assert outcome.search.epochs == 5 * (12 // 5)
    assert len(outcome.history) == 5
    best = max(outcome.history, key=lambda entry: entry["validation"]["accuracy"])
    assert lists(outcome.structure) == best["structure"]
    assert run(cell("random_single", config=toy.Config(epochs=3))).search.epochs == 3


def test_random_structures_are_uniform_over_the_candidates(toy: ModuleType) -> None:
    rng = np.random.default_rng(0)
    draws = [draw_structure(toy.build(toy.Config()), toy.TASK.where, (1, 4, 8), rng) for _ in range(600)]
    for name in ("0", "2"):
        counts = Counter(draw[name] for draw in draws)
        # Each is expected 200 times; 60 is five standard deviations.
        assert set(counts) == {(1,), (4,), (8,)}
        assert all(abs(count - 200) < 60 for count in counts.values())
    with pytest.raises(ValueError, match="no power of two"):
        draw_structure(toy.build(toy.Config()), toy.TASK.where, (), rng)


def test_random_search_draws_from_the_candidates_of_one_shot_search(cell: Make, run: Runs, toy: ModuleType) -> None:
    # The largest dilation by hand is 4; a control with a smaller space than the search's would be none.
    here = cell("random_single", config=toy.Config(epochs=40))
    drawn = {d for entry in run(here).history for axes in entry["structure"].values() for d in axes}
    assert max(drawn) > 4
    assert drawn <= set(powers(here))


def test_random_structures_keep_axes_that_have_no_dilation() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, (3, 2)), nn.Conv2d(1, 1, (1, 3)), nn.Conv2d(1, 1, 1))
    rng = np.random.default_rng(0)
    draws = [draw_structure(network, everything, (2, 4, 8), rng) for _ in range(50)]
    assert {draw["0"] for draw in draws} == {(2, 1), (4, 1), (8, 1)}
    assert {draw["1"] for draw in draws} == {(1, 2), (1, 4), (1, 8)}
    assert all(set(draw) == {"0", "1"} for draw in draws)


def test_the_design_is_capped_by_wrapping_its_exponents() -> None:
    growing = nn.Sequential(*(nn.Conv1d(1, 1, 3, padding=2**i, dilation=2**i) for i in range(6)))
    capped = capped_design(growing, everything, 8)
    assert [d for (d,) in capped.values()] == [1, 2, 4, 8, 1, 2]
    flat = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, (1, 3), padding=(0, 1)))
    assert dict(capped_design(flat, everything, 4)) == {"0": (4, 4), "1": (1, 4)}


def test_the_tuned_design_is_the_best_of_its_limits(cell: Make, run: Runs) -> None:
    outcome = run(cell("tuned_single"))
    assert [entry["structure"] for entry in outcome.history] == [{"0": [2], "2": [1]}, {"0": [2], "2": [4]}]
    best = max(outcome.history, key=lambda entry: entry["validation"]["accuracy"])
    assert lists(outcome.structure) == best["structure"]


def test_a_search_goes_on_from_the_structure_that_another_one_found(cell: Make, run: Runs, results: Path) -> None:
    refined = run(cell("one_shot_to_local_single"))
    coarse = run(cell("one_shot_single"))
    assert refined.search.epochs == 2 * coarse.search.epochs
    start = next(entry for entry in refined.history if entry["step"] == 0)
    assert start["structure"] == lists(coarse.structure) == coarse.history[-1]["structure"]
    assert len(list(results.rglob(FOUND))) == 2


def test_costs_are_resumed_if_those_of_the_search_before_are(cell: Make, run: Runs, toy: ModuleType) -> None:
    """Else tables would compare seconds that lack what came before the interruption."""

    def stopping(model: nn.Module, config: Any, run: Any) -> None:
        toy.fit(model, config, run)
        if not run.resume:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(cell("one_shot_single", task=dataclasses.replace(toy.TASK, fit=stopping)))
    refined = run(cell("one_shot_to_local_single"))
    assert refined.resumed
    assert refined.search.epochs == 2 * refined.training.epochs


def test_the_one_shot_search_finds_the_planted_reach(cell: Make, run: Runs, toy: ModuleType) -> None:
    # The label depends on samples 6 to both sides: layers of 2 + 4 reach them, as do 4 + 2; the widest reach too far.
    outcome = run(cell("one_shot_single", config=toy.Config(epochs=20)))
    assert 4 <= sum(d for (d,) in outcome.structure.values()) <= 12
    assert outcome.metrics["accuracy"] > 85
    probability = outcome.history[-1]["probability"]
    assert all(len(share) == 5 and sum(share) == pytest.approx(1, abs=1e-3) for share in probability.values())


def test_one_shot_ranked_takes_over_the_search_and_the_best_of_its_readouts(
    cell: Make, run: Runs, toy: ModuleType, results: Path
) -> None:
    config = toy.Config(epochs=10)
    coarse = run(cell("one_shot_single", config=config))
    outcome = run(cell("one_shot_ranked_single", config=config))
    assert len(list(results.rglob(FOUND))) == 1
    # One training to search, five candidates that share another, one to train: three in all.
    assert (outcome.search.epochs, outcome.training.epochs) == (20, 10)
    ranked = outcome.history[len(coarse.history) :]
    assert outcome.history[: len(coarse.history)] == coarse.history
    structures = [entry["structure"] for entry in ranked]
    assert len(structures) == 5
    assert all(structures.count(one) == 1 for one in structures)
    assert structures[0] == lists(coarse.structure)
    share = coarse.history[-1]["probability"]
    assert {name: [2 ** max(range(5), key=p.__getitem__)] for name, p in share.items()} in structures[:2]
    assert all(d in (1, 2, 4, 8, 16) for one in structures[1:] for (d,) in one.values())
    best = max(ranked, key=lambda entry: entry["validation"]["accuracy"])
    assert lists(outcome.structure) == best["structure"]


def test_a_diverged_candidate_loses(cell: Make, run: Runs, diverging: Callable[..., Cell]) -> None:
    here = cell("random_single")
    best = lists(run(here).structure)

    def was_best(structure: Mapping[str, tuple[int, ...]], epochs: int) -> bool:
        return lists(structure) == best and epochs == 1

    outcome = run(dataclasses.replace(diverging(here, was_best), results=here.results / "again"))
    assert lists(outcome.structure) != best
    assert any(entry["validation"] == {"accuracy": None} for entry in outcome.history)
