"""Fronts and crowding against their definitions, on points with many ties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfnext.pareto import crowding_distance, non_dominated, non_dominated_fronts

Point = tuple[float, float]
GRID = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=14)
ANYWHERE = st.lists(st.tuples(*[st.floats(0, 1e300, allow_subnormal=False)] * 2), max_size=14)


def dominates(one: Point, other: Point) -> bool:
    return one[0] >= other[0] and one[1] <= other[1] and one != other


def slow_fronts(points: list[Point]) -> list[set[int]]:
    """The rank of a point is one more than that of the worst point that dominates it."""
    rank: dict[int, int] = {}
    while len(rank) < len(points):
        for i, point in enumerate(points):
            above = [j for j, other in enumerate(points) if dominates(other, point)]
            if i not in rank and all(j in rank for j in above):
                rank[i] = 1 + max((rank[j] for j in above), default=-1)
    return [{i for i in rank if rank[i] == r} for r in range(max(rank.values(), default=-1) + 1)]


def slow_crowding(front: list[Point]) -> list[float]:
    """For each axis the nearest other value to either side, by comparing with every other point."""
    result = []
    for i, point in enumerate(front):
        if point in front[:i]:
            result.append(0.0)
            continue
        total = 0.0
        for axis in range(2):
            above = [other[axis] for other in front if other[axis] > point[axis]]
            below = [other[axis] for other in front if other[axis] < point[axis]]
            extent = max(p[axis] for p in front) - min(p[axis] for p in front)
            total += (min(above) - max(below)) / extent if above and below else math.inf
        result.append(total)
    return result


@given(GRID | ANYWHERE)
def test_fronts_are_those_of_the_definition(points: list[Point]) -> None:
    fronts = non_dominated_fronts(points)
    assert [set(front) for front in fronts] == slow_fronts(points)
    assert sorted(index for front in fronts for index in front) == list(range(len(points)))
    assert non_dominated(points) == (fronts[0] if points else [])
    for front in fronts:
        assert [points[index] for index in front] == sorted((points[index] for index in front), key=lambda p: p[1])


@given(GRID | ANYWHERE)
def test_crowding_is_that_of_the_definition(points: list[Point]) -> None:
    for indices in non_dominated_fronts(points):
        front = [points[index] for index in indices]
        for shown in (front, front[::-1]):
            assert crowding_distance(shown) == pytest.approx(slow_crowding(shown))


def test_a_worked_example() -> None:
    points = [(10.0, 4.0), (8.0, 1.0), (9.0, 2.0), (9.5, 3.0), (9.0, 5.0), (7.0, 1.0), (9.0, 2.0)]
    assert non_dominated_fronts(points) == [[1, 2, 6, 3, 0], [5, 4]]
    # Fitness runs from 8 to 10 and cost from 1 to 4; the neighbours of (9, 2) are (8, 1) and (9.5, 3).
    expected = [math.inf, 1.5 / 2 + 2 / 3, 0.0, 1 / 2 + 2 / 3, math.inf]
    assert crowding_distance([points[i] for i in (1, 2, 6, 3, 0)]) == pytest.approx(expected)
