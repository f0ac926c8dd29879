"""Successive halving: which structures are promoted, what it costs, and what failures do."""

import math
import pickle
from multiprocessing.pool import ThreadPool

import pytest

from rfnext import Structure, halve
from rfnext.search.halving import Rung

STRUCTURES = [Structure({"conv": (d,)}) for d in range(1, 9)]


class Trainer:
    """Fitness is the dilation, growing with the epochs; counts what is trained."""

    def __init__(self, failing: dict[int, int] | None = None) -> None:
        self.failing = failing or {}
        self.calls: list[tuple[int, int]] = []

    def __call__(self, structure: Structure, epochs: int) -> float | None:
        ((dilation,),) = structure.values()
        self.calls.append((dilation, epochs))
        return None if self.failing.get(dilation) == epochs else dilation + epochs / 100


def test_the_best_go_on_and_keep_their_last_score():
    train = Trainer()
    fitness = halve(STRUCTURES, [2, 4, 8], train, promoted=0.5)
    assert [d for d, epochs in train.calls if epochs == 2] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [d for d, epochs in train.calls if epochs == 4] == [8, 7, 6, 5]
    assert [d for d, epochs in train.calls if epochs == 8] == [8, 7]
    assert fitness == pytest.approx(
        dict(zip(STRUCTURES, [1.02, 2.02, 3.02, 4.02, 5.04, 6.04, 7.08, 8.08], strict=True))
    )


def test_shares_are_rounded_up_and_one_rung_is_a_plain_ranking():
    train = Trainer()
    halve(STRUCTURES[:3], [1, 3], train, promoted=0.1)
    assert [d for d, epochs in train.calls if epochs == 3] == [3]
    assert len(halve(STRUCTURES, [5], Trainer())) == 8


def test_duplicates_are_trained_once():
    train = Trainer()
    halve([*STRUCTURES, *STRUCTURES], [1], train)
    assert len(train.calls) == 8


def test_the_budget_is_never_exceeded():
    for budget in range(30):
        train = Trainer()
        fitness = halve(STRUCTURES, [2, 5], train, promoted=0.25, budget=budget)
        spent = sum(2 if epochs == 2 else 3 for _, epochs in train.calls)
        assert spent <= budget
        assert len(fitness) == min(8, budget // 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_a_failure(value: float):
    """NaN compares false with everything, so that sorting by it would promote whatever comes to stand first."""

    def train(structure: Structure, epochs: int) -> float:
        ((dilation,),) = structure.values()
        calls.append((dilation, epochs))
        return value if dilation % 2 or (dilation, epochs) == (8, 4) else dilation

    calls: list[tuple[int, int]] = []
    fitness = halve(STRUCTURES, [2, 4], train, promoted=0.25)
    assert [d for d, epochs in calls if epochs == 4] == [8, 6]
    assert list(fitness.values()) == [None, 2, None, 4, None, 6, None, 8]


def test_a_failure_does_not_go_on_and_a_late_one_keeps_the_earlier_score():
    train = Trainer(failing={8: 1, 7: 2})
    fitness = halve(STRUCTURES, [1, 2], train, promoted=0.25)
    assert [d for d, epochs in train.calls if epochs == 2] == [7, 6]
    assert fitness[STRUCTURES[7]] is None
    assert fitness[STRUCTURES[6]] == pytest.approx(7.01)


@pytest.mark.parametrize("rungs", [[], [0, 1], [2, 2], [3, 1]])
def test_rungs_must_increase(rungs):
    with pytest.raises(ValueError, match="rungs"):
        halve(STRUCTURES, rungs, Trainer())


@pytest.mark.parametrize("promoted", [0, -1, 1.1])
def test_a_share_is_a_share(promoted):
    with pytest.raises(ValueError, match="promoted"):
        halve(STRUCTURES, [1], Trainer(), promoted=promoted)


def quality(structure: Structure, epochs: int) -> float | None:
    """The worst half fails."""
    ((dilation,),) = structure.values()
    return dilation + epochs / 100 if dilation > 4 else None


@pytest.mark.parametrize("budget", [7, 16, 19, 100])
def test_a_rung_can_be_trained_side_by_side_with_the_same_result(budget):
    # By threads; real processes are started in tests/benchmarks/methods/test_genetic.py.
    expected = halve(STRUCTURES, [2, 4, 8], quality, promoted=0.5, budget=budget)
    with ThreadPool(2) as pool:
        assert halve(STRUCTURES, [2, 4, 8], quality, promoted=0.5, budget=budget, map=pool.map) == expected
        assert halve(STRUCTURES, [2, 4, 8], quality, promoted=0.5, budget=budget, map=pool.imap) == expected


def test_a_rung_can_be_sent_to_other_processes():
    rung = pickle.loads(pickle.dumps(Rung(quality, 4)))  # noqa: S301 (our own bytes)
    assert [rung(structure) for structure in STRUCTURES] == [quality(structure, 4) for structure in STRUCTURES]


def test_a_map_gets_each_rung_at_once_and_no_more_than_the_budget_allows():
    rungs = []

    def collect(rung, structures):
        rungs.append((rung.epochs, len(structures)))
        return reversed([rung(structure) for structure in reversed(structures)])

    halve(STRUCTURES, [2, 4, 8], quality, promoted=0.5, budget=21, map=collect)
    assert rungs == [(2, 8), (4, 2)]
