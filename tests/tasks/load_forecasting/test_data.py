"""The parts of a fold: blocks in time, and which value belongs to which position."""

from datetime import datetime

import numpy as np
import pytest

from tasks.load_forecasting.data import Sizes, sizes_of, split
from tasks.load_forecasting.series import Series
from tasks.spec import DataError


def series(length: int = 1000) -> Series:
    """Every value is its own step; the covariates count in other ways."""
    steps = np.arange(length, dtype=np.float64)
    return Series(
        ("load", "observed", "known"), np.stack([steps, 1000 + steps, 2000 + steps]), datetime(2024, 1, 1), 60.0
    )


@pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
def test_folds_are_blocks_of_a_tenth_after_all_that_is_older(fold: int):
    assert sizes_of(1000, Sizes(4, 10), fold) == (300 + 100 * fold, 400 + 100 * fold, 500 + 100 * fold)


def test_a_position_belongs_to_the_part_of_its_target():
    fold = split(series(), ("known",), Sizes(horizon=4, burn_in=10), 2)
    assert fold.ends == (500, 600, 700)
    ranges = {"train": (14, 500), "validation": (500, 600), "test": (600, 700)}
    for part, (first, end) in ranges.items():
        where = fold.positions(part)  # type: ignore[arg-type]
        assert fold.targets[where].tolist() == list(range(first, end)), part
        present = np.arange(first, end) - 4
        assert fold.inputs[0, where].tolist() == present.tolist()
        assert fold.inputs[1, where].tolist() == (1000 + present).tolist(), "observed: up to the present"
        assert fold.inputs[2, where].tolist() == (2000 + present + 4).tolist(), "known: of the time that is forecast"


def test_errors_are_in_units_of_the_training_part_alone():
    fold = split(series(), (), Sizes(4, 10), 1)
    assert fold.spread() == pytest.approx(np.arange(400).std())


def test_ends_may_be_given():
    fold = split(series(), (), Sizes(4, 10, (600, 700, 900)), 1)
    assert fold.ends == (600, 700, 900)
    assert fold.targets[fold.positions("test")].tolist() == list(range(700, 900))


@pytest.mark.parametrize(
    ("sizes", "fold", "message"),
    [
        (Sizes(4, 10), 6, "there is no fold 6; there are 1, 2, 3, 4, 5"),
        (Sizes(4, 10, (600, 700, 900)), 2, "there is no fold 2: with --split"),
        (Sizes(4, 10, (600, 700, 1001)), 1, "the series has 1000 steps, and the test part is to end at 1001"),
        (Sizes(1, 0, (600, 700, 700)), 1, "too few for parts"),
        (Sizes(40, 400), 1, "the training part of fold 1 has 400 steps, fewer than the first 400"),
    ],
)
def test_what_does_not_fit_is_said(sizes: Sizes, fold: int, message: str):
    with pytest.raises(DataError, match=message):
        split(series(), (), sizes, fold)
