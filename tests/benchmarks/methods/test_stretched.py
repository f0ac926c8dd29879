"""The stretched hand design: its candidates by hand-worked numbers, and which one wins."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import tasks
from benchmarks.cell import Cell
from benchmarks.methods.genetic import Evaluations
from benchmarks.methods.stretched import stretched, stretched_design
from rfnext import everything

Make = Callable[..., Cell]


def network(*dilations: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv1d(1, 1, 3, padding=d, dilation=d) for d in dilations))


@pytest.mark.parametrize(
    ("designed", "ends", "expected"),
    [
        ((1, 2, 4), (1, 4), (1, 2, 4)),
        ((1, 2, 4), (4, 256), (4, 32, 256)),
        ((1, 2, 4), (1, 512), (1, 23, 512)),
        ((1, 2, 4), (16, 16), (16, 16, 16)),
        ((1, 2, 4, 8, 1, 2, 4, 8), (1, 27), (1, 3, 9, 27, 1, 3, 9, 27)),  # stages stay alike
        ((4, 2, 1), (2, 32), (32, 8, 2)),
        ((1, 1), (8, 64), (8, 8)),
    ],
)
def test_a_design_is_stretched_in_its_logarithm(
    designed: tuple[int, ...], ends: tuple[int, int], expected: tuple[int, ...]
):
    found = stretched_design(network(*designed), everything, *ends)
    assert tuple(d for (d,) in found.values()) == expected


def test_axes_that_are_not_searched_keep_their_dilation() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, (1, 3), padding=(0, 2), dilation=(1, 2)), nn.Conv2d(1, 1, 3, padding=1))
    assert dict(stretched_design(model, everything, 4, 16)) == {"0": (1, 16), "1": (4, 4)}


def test_a_network_of_two_stages_is_stretched_in_both() -> None:
    task = tasks.load("action_segmentation")
    model = task.build(task.presets["tiny"])
    found = stretched_design(model, task.where, 1, 243)
    stages = [[d for name, (d,) in found.items() if name.startswith(f"stages.{k}.")] for k in range(3)]
    assert stages == [[1, 3, 9, 27, 81, 243]] * 3


def test_the_best_of_those_that_were_trained_longest_wins(cell: Make, searching: Callable[..., Any]) -> None:
    job = searching(cell("stretched_single"))
    found = stretched(job)
    designs = 6  # pairs of 1, 4 and 16
    assert found.structure.keys() == {"0", "2"}
    assert found.history[-1]["step"] == found.cost.epochs
    budget = job.cell.config.epochs * job.cell.method.search.trainings
    assert designs <= found.cost.epochs <= budget


def test_designs_that_all_fail_are_an_error(
    cell: Make, searching: Callable[..., Any], diverging: Callable[..., Cell]
) -> None:
    with pytest.raises(RuntimeError, match="all of 6 designs failed"):
        stretched(searching(diverging(cell("stretched_single"), lambda structure, epochs: True)))


def test_a_design_of_few_epochs_does_not_win(
    cell: Make, searching: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    job = searching(cell("stretched_single"))
    real = Evaluations.map

    def flattered(self: Evaluations, rung: Any, structures: Any) -> Any:
        found = real(self, rung, structures)
        if self.epochs <= len(structures) * rung.epochs:  # the first rung
            last = structures[-1]
            self.fitness[last] = 1e9 if found[-1] is not None and found[-1] < max(f for f in found if f) else found[-1]
        return found

    monkeypatch.setattr(Evaluations, "map", flattered)
    assert stretched(job).history[-1]["fitness"] < 1e9
