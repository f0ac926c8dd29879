"""Errors of forecasts, in units of the target's standard deviation in the training part, and the skill."""

import numpy as np
from numpy.typing import NDArray

from tasks.load_forecasting.config import QUANTILES
from tasks.load_forecasting.data import Fold
from tasks.spec import Part

Array = NDArray[np.float64]


def score(forecast: Array, fold: Fold, part: Part, seasons: tuple[int, ...]) -> dict[str, float]:
    """mse, mae and skill of the forecasts of a part's positions, (n).

    The skill is the share of the mean squared error of the best persistence forecast that is saved, in percent: 100 is
    perfect, 0 no better than repeating an old value, and less is worse. The best one is that of the part itself.
    """
    errors = (forecast - fold.targets[fold.positions(part)]) / fold.spread()
    squared = float(np.square(errors).mean())
    return {
        "mse": squared,
        "mae": float(np.abs(errors).mean()),
        "skill": 100 * (1 - squared / best_persistence(fold, part, seasons)),
    }


def best_persistence(fold: Fold, part: Part, seasons: tuple[int, ...]) -> float:
    """The lowest mean squared error of a persistence forecast on a part."""
    where, spread = fold.positions(part), fold.spread()
    return min(
        float(np.square((persistence(fold, lag)[where] - fold.targets[where]) / spread).mean())
        for lag in lags(fold.horizon, seasons)
    )


def pinball(forecasts: Array, targets: Array, spread: float) -> float:
    """Mean pinball loss of quantile forecasts, (quantiles, n), over quantiles and positions.

    Koenker and Bassett, "Regression Quantiles", 1978: max(q e, (q - 1) e) for the error e = target - forecast.
    """
    errors = (targets - forecasts) / spread
    q = np.array(QUANTILES)[:, None]
    return float(np.maximum(q * errors, (q - 1) * errors).mean())


def lags(horizon: int, seasons: tuple[int, ...]) -> list[int]:
    """Steps from a target back to the values that persistence forecasts repeat: the latest known one, and the latest
    known at the same time of each season."""
    return sorted({horizon, *(season * -(-horizon // season) for season in seasons)})


def persistence(fold: Fold, lag: int) -> Array:
    """The target's value `lag` steps before each target, (N); nan where the series begins later."""
    found = np.full_like(fold.targets, np.nan)
    known = fold.inputs[0]
    offset = lag - fold.horizon
    found[offset:] = known[: max(0, len(known) - offset)]
    return found
