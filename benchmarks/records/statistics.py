"""Means and intervals of one number per fold and seed."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

Values = Mapping[tuple[int, int], float]
"""One number per (fold, seed)."""

FEWEST = 3
"""Units that an interval needs. Student's t over two would make it 12.7 standard errors wide, which says nothing."""

TOO_FEW = f"Fewer than {FEWEST} folds, or seeds of one fold, are too few for an interval."
"""For captions of tables that `number` prints in."""


@dataclass(frozen=True)
class Estimate:
    """A mean with the half width of its 95 % confidence interval, None where too few units give none.

    units: independent numbers, one per fold or per seed, as `over` says. cells: numbers in all.
    """

    mean: float
    half_width: float | None
    units: int
    cells: int
    over: Literal["fold", "seed"] = "fold"

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def estimate(values: Values) -> Estimate | None:
    """Mean and 95 % confidence interval (Student's t) of one number per (fold, seed); None if there is no number.

    The independent unit is the fold: seeds of one fold share its test videos or images, so they are averaged first, and
    the interval has (folds - 1) degrees of freedom. With a single fold the unit is the seed. Fewer than `FEWEST` units
    give no interval. Folds share training data, so the interval is somewhat too narrow (Bengio and Grandvalet, JMLR
    2004: no unbiased one exists).
    """
    folds: dict[int, list[float]] = {}
    for (fold, _), value in values.items():
        folds.setdefault(fold, []).append(value)
    units = [statistics.fmean(same) for same in folds.values()] if len(folds) > 1 else list(values.values())
    if not units:
        return None
    half = None
    if len(units) >= FEWEST:
        half = float(stdtrit(len(units) - 1, 0.975)) * statistics.stdev(units) / math.sqrt(len(units))
    return Estimate(statistics.fmean(units), half, len(units), len(values), "fold" if len(folds) > 1 else "seed")


def paired(ours: Values, theirs: Values) -> dict[tuple[int, int], float]:
    """Ours minus theirs, where both have a number."""
    return {column: value - theirs[column] for column, value in ours.items() if column in theirs}


def number(value: Estimate, decimals: int, *, signed: bool = False) -> str:
    """ "1.6 ± 0.4", with one decimal more where rounding would hide on which side of 0 the interval ends.

    Without an interval "1.6", and of two numbers "1.6 (2 folds)" or "1.6 (2 seeds)".
    """
    sign = "+" if signed else ""
    if value.half_width is None:
        few = f" ({value.units} {value.over}s)" if value.units > 1 else ""
        return f"{value.mean:{sign}.{decimals}f}{few}"
    if signed and f"{abs(value.mean):.{decimals}f}" == f"{value.half_width:.{decimals}f}":
        decimals += 1
    return f"{value.mean:{sign}.{decimals}f} ± {value.half_width:.{decimals}f}"
