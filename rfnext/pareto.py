"""Which of many results are worth their cost: non-dominated fronts, and how crowded a result's neighbourhood is.

Deb, Pratap, Agarwal and Meyarivan, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Transactions on
Evolutionary Computation 6(2), 2002, for two objectives: fitness, where higher is better, and cost, where lower is.

A point is (fitness, cost). One dominates another if it is no worse in both and better in one.
"""

import math
from collections.abc import Iterable, Sequence

Point = tuple[float, float]


def non_dominated(points: Sequence[Point]) -> list[int]:
    """Indices of the points that no other dominates, the cheapest first; equal points are all among them."""
    return _non_dominated(points, range(len(points)))


def non_dominated_fronts(points: Sequence[Point]) -> list[list[int]]:
    """Non-dominated sorting (section III-A): the front of all points, that of the others without it, and so on.

    Each front holds indices, the cheapest first.
    """
    fronts, left = [], list(range(len(points)))
    while left:
        fronts.append(front := _non_dominated(points, left))
        left = sorted(set(left).difference(front))
    return fronts


def crowding_distance(front: Sequence[Point]) -> list[float]:
    """How far the neighbours of each point of a front lie apart (section III-B): lonely ones are worth keeping.

    The distance between the next point to either side, in shares of the front's extent, is summed over both
    objectives; that of the front's two ends is infinite. Equal points crowd each other: only the first one of them
    counts, and the others get 0.
    """
    first = {point: index for index, point in reversed(list(enumerate(front)))}
    distance = [0.0] * len(front)
    along = sorted(first, key=lambda point: point[1])  # within a front, whoever costs more is fitter
    for end in (*along[:1], *along[-1:]):
        distance[first[end]] = math.inf
    for before, point, after in zip(along, along[1:], along[2:], strict=False):
        distance[first[point]] = sum(
            abs(after[axis] - before[axis]) / abs(along[-1][axis] - along[0][axis]) for axis in range(2)
        )
    return distance


def _non_dominated(points: Sequence[Point], indices: Iterable[int]) -> list[int]:
    """By increasing cost, a point is dominated unless it is fitter than all before it, or equals the last such one."""
    front: list[int] = []
    for index in sorted(indices, key=lambda i: (points[i][1], -points[i][0])):
        if not front or points[index][0] > points[front[-1]][0] or points[index] == points[front[-1]]:
            front.append(index)
    return front
