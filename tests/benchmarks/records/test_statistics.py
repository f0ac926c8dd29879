"""Means and intervals against values computed by hand."""

import math

import pytest

from benchmarks.records.statistics import Estimate, estimate, number, paired


def test_folds_are_the_units_and_seeds_are_averaged_within_them() -> None:
    found = estimate({(1, 0): 1.0, (1, 1): 3.0, (2, 0): 4.0, (3, 0): 6.0})
    assert found is not None
    assert (found.mean, found.units, found.cells) == (4.0, 3, 4)
    # Units 2, 4, 6: standard deviation 2, t(0.975, 2) = 4.3027.
    assert found.half_width == pytest.approx(4.302653 * 2 / math.sqrt(3), rel=1e-6)


def test_with_one_fold_the_seeds_are_the_units() -> None:
    found = estimate({(1, 0): 1.0, (1, 1): 3.0})
    assert found is not None
    assert (found.mean, found.units) == (2.0, 2)
    assert found.half_width == pytest.approx(12.706205 * math.sqrt(2) / math.sqrt(2), rel=1e-6)
    one = estimate({(1, 0): 5.0})
    assert one == Estimate(5.0, None, 1, 1)
    assert one is not None
    assert not one.decided
    assert estimate({}) is None


def test_pairs_are_the_cells_that_both_have() -> None:
    assert paired({(1, 0): 3.0, (2, 0): 1.0}, {(1, 0): 1.0, (3, 0): 9.0}) == {(1, 0): 2.0}


def test_a_number_never_hides_on_which_side_of_zero_its_interval_ends() -> None:
    assert number(Estimate(1.64, 0.36, 3, 3), 1) == "1.6 ± 0.4"
    assert number(Estimate(1.64, None, 1, 1), 1, signed=True) == "+1.6"
    close = Estimate(1.34, 1.26, 3, 3)
    assert close.decided
    assert number(close, 1, signed=True) == "+1.34 ± 1.26"
