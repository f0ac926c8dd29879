"""Statistics: what an interval is over, and how it is printed."""

import pytest

from benchmarks.records.statistics import Estimate, estimate, number, paired


def test_the_interval_is_over_folds_after_averaging_their_seeds() -> None:
    found = estimate({(1, 0): 69.0, (1, 1): 71.0, (2, 0): 72.0, (2, 1): 72.0, (3, 0): 70.0, (3, 1): 78.0})
    assert found is not None
    assert found.mean == pytest.approx(72.0)
    # Fold means 70, 72, 74: standard deviation 2; t(0.975, 2 degrees of freedom) = 4.3027 in any t table.
    assert found.half_width == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)
    assert (found.units, found.cells) == (3, 6)


def test_with_one_fold_the_interval_is_over_seeds() -> None:
    found = estimate({(1, 0): 60.0, (1, 1): 62.0, (1, 2): 64.0})
    assert found is not None
    # t(0.975, 2) = 4.3027; standard deviation of 60, 62 and 64 is 2.
    assert found.half_width == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)
    assert (found.units, found.over) == (3, "seed")


def test_two_units_are_too_few_for_an_interval_which_is_said_in_words() -> None:
    folds = estimate({(1, 0): 20.0, (1, 1): 24.0, (2, 0): 50.0, (2, 1): 54.0})
    seeds = estimate({(1, 0): 2.0, (1, 1): 3.0})
    assert folds == Estimate(37.0, None, 2, 4, "fold")
    assert seeds == Estimate(2.5, None, 2, 2, "seed")
    assert not folds.decided
    assert number(folds, 1) == "37.0 (2 folds)"
    assert number(seeds, 1, signed=True) == "+2.5 (2 seeds)"


def test_one_number_has_no_interval_and_none_has_no_mean() -> None:
    assert estimate({(1, 0): 60.0}) == Estimate(60.0, None, 1, 1, "seed")
    assert estimate({}) is None


def test_only_cells_that_both_have_are_paired() -> None:
    assert paired({(1, 0): 3.0, (2, 0): 5.0}, {(1, 0): 1.0, (3, 0): 0.0}) == {(1, 0): 2.0}


@pytest.mark.parametrize(("mean", "half", "decided"), [(1.0, 0.9, True), (-1.0, 0.9, True), (1.0, 1.0, False)])
def test_a_difference_is_decided_if_its_interval_leaves_out_zero(mean: float, half: float, decided: bool) -> None:
    assert Estimate(mean, half, 3, 3).decided is decided
    assert not Estimate(mean, None, 1, 1).decided


def test_rounding_does_not_hide_on_which_side_of_zero_an_interval_ends() -> None:
    assert number(Estimate(-1.61, 1.60, 5, 10), 1, signed=True) == "-1.61 ± 1.60"
    assert number(Estimate(-1.61, 1.40, 5, 10), 1, signed=True) == "-1.6 ± 1.4"
    assert number(Estimate(61.6, 1.6, 5, 10), 1) == "61.6 ± 1.6"
    assert number(Estimate(61.6, None, 1, 1), 1) == "61.6"
