"""The arithmetic of the search, against tables worked by hand and properties that must hold for every input."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfnext.dilation import Bounds, expectation, neighbours


def one_axis(centre: int, *, spread: float, branches: int, bounds: Bounds, rule: str) -> list[int]:
    found = neighbours((centre,), (3,), spread=spread, branches=branches, bounds=bounds, rule=rule)  # type: ignore[arg-type]
    return [dilation for (dilation,) in found]


# The detection runs: two branches, spread 0.5, dilations 1 to 24. By "paper" (1 - e)D and (1 + e)D are rounded half to
# even: 7 gives 3.5 -> 4 and 10.5 -> 10. By "default" the offset is rounded half up, at least 1: 7 - 4 and 7 + 4.
TWO_BRANCHES = [
    # centre, paper, default
    (1, [1, 2], [1, 2]),
    (2, [1, 3], [1, 3]),
    (3, [2, 4], [1, 5]),
    (4, [2, 6], [2, 6]),
    (5, [2, 8], [2, 8]),
    (7, [4, 10], [3, 11]),
    (9, [4, 14], [4, 14]),
    (11, [6, 16], [5, 17]),
    (16, [8, 24], [8, 24]),
    (17, [8, 24], [8, 24]),
    (24, [12, 24], [12, 24]),
]

# The action-segmentation runs: three branches, spread 0.1, dilations 1 to 2048. 1 to 4 are the published dead zone
# (defect 10): 0.9 x 4 = 3.6 -> 4 and 1.1 x 4 = 4.4 -> 4. 5 gives 4.5 -> 4 and 5.5 -> 6, 15 gives 13.5 -> 14 and
# 16.5 -> 16, 25 gives 22.5 -> 22 and 27.5 -> 28.
THREE_BRANCHES = [
    (1, [1], [1, 2]),
    (2, [2], [1, 2, 3]),
    (3, [3], [2, 3, 4]),
    (4, [4], [3, 4, 5]),
    (5, [4, 5, 6], [4, 5, 6]),
    (8, [7, 8, 9], [7, 8, 9]),
    (15, [14, 15, 16], [13, 15, 17]),
    (16, [14, 16, 18], [14, 16, 18]),
    (25, [22, 25, 28], [22, 25, 28]),
    (128, [115, 128, 141], [115, 128, 141]),
    (512, [461, 512, 563], [461, 512, 563]),
    (1024, [922, 1024, 1126], [922, 1024, 1126]),
    (2048, [1843, 2048], [1843, 2048]),
]


@pytest.mark.parametrize(("centre", "paper", "default"), TWO_BRANCHES)
def test_two_branches(centre: int, paper: list[int], default: list[int]) -> None:
    settings = {"spread": 0.5, "branches": 2, "bounds": Bounds(1, 24)}
    assert one_axis(centre, rule="paper", **settings) == paper  # type: ignore[arg-type]
    assert one_axis(centre, rule="default", **settings) == default  # type: ignore[arg-type]


@pytest.mark.parametrize(("centre", "paper", "default"), THREE_BRANCHES)
@pytest.mark.defect(10)
def test_three_branches_and_the_dead_zone(centre: int, paper: list[int], default: list[int]) -> None:
    settings = {"spread": 0.1, "branches": 3, "bounds": Bounds(1, 2048)}
    assert one_axis(centre, rule="paper", **settings) == paper  # type: ignore[arg-type]
    assert one_axis(centre, rule="default", **settings) == default  # type: ignore[arg-type]


@pytest.mark.defect(10)
def test_dead_zone_at_the_segmentation_spread() -> None:
    """e = 0.15 freezes 1 to 3 by "paper"; by "default" each can move both ways (1 only up)."""
    for centre in (1, 2, 3):
        frozen = one_axis(centre, spread=0.15, branches=3, bounds=Bounds(1, 64), rule="paper")
        free = one_axis(centre, spread=0.15, branches=3, bounds=Bounds(1, 64), rule="default")
        assert frozen == [centre]
        assert free == [d for d in (centre - 1, centre, centre + 1) if d >= 1]
    assert one_axis(4, spread=0.15, branches=3, bounds=Bounds(1, 64), rule="paper") == [3, 4, 5]


def test_more_branches_are_evenly_spaced() -> None:
    settings = {"spread": 0.5, "bounds": Bounds(1, 64)}
    for rule in ("paper", "default"):
        assert one_axis(16, branches=5, rule=rule, **settings) == [8, 12, 16, 20, 24]  # type: ignore[arg-type]
        assert one_axis(24, branches=4, rule=rule, **settings) == [12, 20, 28, 36]  # type: ignore[arg-type]
        assert one_axis(16, branches=9, rule=rule, **settings) == list(range(8, 25, 2))  # type: ignore[arg-type]


def test_axes_that_are_not_searched_keep_their_dilation() -> None:
    """Kernel 1 or even: the dilation stays, and does not multiply the branches; bounds do not apply."""
    for rule in ("paper", "default"):
        settings = {"spread": 0.5, "branches": 2, "bounds": Bounds(1, 24), "rule": rule}
        assert neighbours((4, 4), (3, 1), **settings) == [(2, 4), (6, 4)]  # type: ignore[arg-type]
        assert neighbours((4, 4), (2, 3), **settings) == [(4, 2), (4, 6)]  # type: ignore[arg-type]
        assert neighbours((30, 4), (4, 3), **settings) == [(30, 2), (30, 6)]  # type: ignore[arg-type]
        assert neighbours((4, 2, 8), (3, 3, 3), **settings) == [(2, 1, 4), (6, 3, 12)]  # type: ignore[arg-type]
        assert neighbours((4, 2), (1, 2), **settings) == [(4, 2)]  # type: ignore[arg-type]


@pytest.mark.defect(11)
def test_duplicates_are_dropped_in_order() -> None:
    assert neighbours((1, 4), (3, 3), spread=0.1, branches=3, bounds=Bounds(1, 2048), rule="paper") == [(1, 4)]
    # Equal on one axis only: a branch of its own.
    assert neighbours((1, 5), (3, 3), spread=0.1, branches=3, bounds=Bounds(1, 2048), rule="paper") == [
        (1, 4),
        (1, 5),
        (1, 6),
    ]


@pytest.mark.defect(14)
def test_the_paper_leaves_a_centre_outside_the_bounds_the_default_does_not() -> None:
    assert one_axis(40, spread=0.1, branches=3, bounds=Bounds(1, 24), rule="paper") == [24, 40]
    assert one_axis(40, spread=0.1, branches=3, bounds=Bounds(1, 24), rule="default") == [22, 24]


def test_estimates_by_the_paper() -> None:
    bounds = Bounds(1, 24)
    # 0.25 x 2 + 0.75 x 6 = 5; 0.5 x 1 + 0.5 x 2 = 1.5 -> 2 (half to even, defect 12); 0.5 x 2 + 0.5 x 3 = 2.5 -> 2.
    assert expectation([0.25, 0.75], [(2,), (6,)], bounds, "paper") == (5,)
    assert expectation([0.5, 0.5], [(1,), (2,)], bounds, "paper") == (2,)
    assert expectation([0.5, 0.5], [(2,), (3,)], bounds, "paper") == (2,)
    assert expectation([0.5, 0.5], [(2, 1), (3, 6)], bounds, "paper") == (2, 4)  # 2.5 -> 2, 3.5 -> 4
    assert expectation([0.125, 0.125, 0.75], [(22,), (24,), (40,)], bounds, "paper") == (24,)  # 35.75, clipped


def test_estimates_by_default() -> None:
    bounds = Bounds(1, 24)
    # Symmetric branches: the expectation; a tie goes to the integer nearer to the centre.
    assert expectation([0.25, 0.75], [(2,), (6,)], bounds, "default", (4,)) == (5,)
    assert expectation([0.25, 0.75], [(1,), (3,)], bounds, "default", (2,)) == (2,)  # 2.5
    assert expectation([0.75, 0.25], [(1,), (3,)], bounds, "default", (2,)) == (2,)  # 1.5
    assert expectation([0.125, 0.875], [(1,), (3,)], bounds, "default", (2,)) == (3,)  # 2.75
    # Cut off at 1: what both branches have in common (2 x 0.25) stays at the centre, 0.5 x 1 + 0.5 x 2 = 1.5 -> 1.
    assert expectation([0.25, 0.75], [(1,), (2,)], bounds, "default", (1,)) == (1,)
    assert expectation([0.125, 0.875], [(1,), (2,)], bounds, "default", (1,)) == (2,)  # 0.25 x 1 + 0.75 x 2 = 1.75
    # Cut off at 24: 0.6 x 20 stays, the rest is 0.4 on 10: 12 + 4 = 16. Evidence for the centre moves nothing.
    assert expectation([0.6, 0.2, 0.2], [(10,), (20,), (24,)], bounds, "default", (20,)) == (16,)
    assert expectation([0.1, 0.8, 0.1], [(10,), (20,), (24,)], bounds, "default", (20,)) == (20,)
    # Axis by axis: the first is cut off at 1, the second is symmetric.
    assert expectation([0.5, 0.5], [(1, 2), (2, 8)], bounds, "default", (1, 5)) == (1, 5)
    # An axis that is not searched stays, bounds or not.
    assert expectation([0.125, 0.875], [(30, 2), (30, 6)], bounds, "default", (30, 4)) == (30, 5)  # 5.5


@pytest.mark.defect(12)
def test_untouched_probabilities_move_the_paper_but_not_the_default() -> None:
    branches = neighbours((1,), (3,), spread=0.5, branches=2, bounds=Bounds(1, 24), rule="paper")
    assert expectation([0.5, 0.5], branches, Bounds(1, 24), "paper") == (2,)
    assert expectation([0.5, 0.5], branches, Bounds(1, 24), "default", (1,)) == (1,)


@st.composite
def searches(draw: st.DrawFn) -> tuple[int, float, int, Bounds]:
    """A centre within bounds, a spread, a number of branches."""
    low = draw(st.integers(1, 50))
    high = draw(st.none() | st.integers(low, 3000))
    centre = draw(st.integers(low, high or 3000))
    return centre, draw(st.floats(0.01, 1.0)), draw(st.integers(2, 9)), Bounds(low, high)


@given(searches())
def test_default_branches_are_distinct_and_reach_both_ways(case: tuple[int, float, int, Bounds]) -> None:
    centre, spread, branches, bounds = case
    found = one_axis(centre, spread=spread, branches=branches, bounds=bounds, rule="default")
    assert found == sorted(set(found))
    assert len(found) <= branches
    assert all(bounds.clip(d) == d for d in found)
    if centre > bounds.min:
        assert found[0] < centre
    if bounds.max is None or centre < bounds.max:
        assert found[-1] > centre
    if branches % 2:
        assert centre in found


@given(searches(), st.integers(1, 500))
def test_default_branches_lie_symmetric_and_grow_with_the_centre(
    case: tuple[int, float, int, Bounds], further: int
) -> None:
    centre, spread, branches, _ = case
    unbounded = Bounds(1, None)
    found = one_axis(centre, spread=spread, branches=branches, bounds=unbounded, rule="default")
    wider = one_axis(centre + further, spread=spread, branches=branches, bounds=unbounded, rule="default")
    assert wider[-1] - (centre + further) >= found[-1] - centre
    if found[0] > 1:
        assert [centre - d for d in found] == [d - centre for d in reversed(found)]
        assert len(found) == branches


@given(searches(), st.floats(1e-6, 1e6))
@pytest.mark.defect(12)
def test_equal_probabilities_leave_the_centre(case: tuple[int, float, int, Bounds], share: float) -> None:
    centre, spread, branches, bounds = case
    found = neighbours((centre,), (3,), spread=spread, branches=branches, bounds=bounds, rule="default")
    assert expectation([share] * len(found), found, bounds, "default", (centre,)) == (centre,)


@given(searches(), st.data())
def test_all_on_one_branch_reaches_it(case: tuple[int, float, int, Bounds], data: st.DataObject) -> None:
    centre, spread, branches, bounds = case
    for rule in ("paper", "default"):
        found = neighbours((centre,), (3,), spread=spread, branches=branches, bounds=bounds, rule=rule)
        chosen = data.draw(st.integers(0, len(found) - 1))
        probability = [float(i == chosen) for i in range(len(found))]
        assert expectation(probability, found, bounds, rule, (centre,)) == found[chosen]


@given(searches(), st.data())
def test_estimates_lie_among_the_branches(case: tuple[int, float, int, Bounds], data: st.DataObject) -> None:
    centre, spread, branches, bounds = case
    for rule in ("paper", "default"):
        found = neighbours((centre,), (3,), spread=spread, branches=branches, bounds=bounds, rule=rule)
        probability = [data.draw(st.floats(0, 1)) for _ in found]
        probability[data.draw(st.integers(0, len(found) - 1))] = 1.0
        (estimate,) = expectation(probability, found, bounds, rule, (centre,))
        assert bounds.clip(estimate) == estimate
        assert min(found)[0] <= estimate <= max(found)[0]


@given(searches(), st.data())
def test_for_symmetric_branches_the_default_is_the_rounded_mean(
    case: tuple[int, float, int, Bounds], data: st.DataObject
) -> None:
    centre, spread, branches, _ = case
    found = neighbours((centre,), (3,), spread=spread, branches=branches, bounds=Bounds(1, None), rule="default")
    probability = [data.draw(st.floats(0.01, 1)) for _ in found]
    mean = sum(p * d for p, (d,) in zip(probability, found, strict=True)) / sum(probability)
    if sum(d for (d,) in found) == centre * len(found) and abs(mean % 1 - 0.5) > 1e-6:
        estimate = expectation(probability, found, Bounds(1, None), "default", (centre,))
        assert estimate == (math.floor(mean + 0.5),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"branches": 1}, "at least 2 branches"),
        ({"spread": 0.0}, "spread must be in"),
        ({"spread": 1.5}, "spread must be in"),
        ({"spread": math.nan}, "spread must be in"),
        ({"rule": "ours"}, "unknown rule 'ours'; known: default, paper"),
        ({"centre": (1, 1)}, "different numbers of axes"),
    ],
)
def test_bad_arguments_of_neighbours(change: dict[str, object], message: str) -> None:
    arguments = {
        "centre": (1,),
        "kernel": (3,),
        "spread": 0.5,
        "branches": 2,
        "bounds": Bounds(1, 24),
        "rule": "default",
    }
    with pytest.raises(ValueError, match=message):
        neighbours(**(arguments | change))  # type: ignore[arg-type]


@pytest.mark.parametrize("probability", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [-0.5, 1.5]])
def test_bad_probabilities(probability: list[float]) -> None:
    for rule in ("paper", "default"):
        with pytest.raises(ValueError, match="finite, not negative and not all zero"):
            expectation(probability, [(1,), (2,)], Bounds(), rule, (1,))


def test_bad_lengths_and_bounds() -> None:
    with pytest.raises(ValueError, match="3 probabilities for 2 branches"):
        expectation([1, 1, 1], [(1,), (2,)], Bounds(), "default")
    with pytest.raises(ValueError, match="0 probabilities for 0 branches"):
        expectation([], [], Bounds(), "default")
    with pytest.raises(ValueError, match=r"Bounds\.min is 0"):
        Bounds(0)
    with pytest.raises(ValueError, match=r"Bounds\.max is 3, below Bounds\.min = 4"):
        Bounds(4, 3)


@pytest.mark.parametrize(
    ("bounds", "message"), [((1.5, 4), r"Bounds\.min is 1\.5"), ((1, 2.5), r"Bounds\.max is 2\.5")]
)
def test_bounds_are_integers(bounds: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message + ", not an integer"):
        Bounds(*bounds)  # type: ignore[arg-type]
    assert Bounds(1, None) == Bounds()
