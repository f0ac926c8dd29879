"""Errors and skill against hand-worked numbers, and the pinball loss against scikit-learn's."""

from datetime import datetime

import numpy as np
import pytest
from sklearn.metrics import mean_pinball_loss

from tasks.load_forecasting import metrics
from tasks.load_forecasting.config import QUANTILES
from tasks.load_forecasting.data import Sizes, split
from tasks.load_forecasting.series import Series


def fold(values: np.ndarray, horizon: int = 2):
    return split(Series(("load",), values[None], datetime(2024, 1, 1), 60.0), (), Sizes(horizon, 0), 1)


def test_persistence_repeats_the_value_of_so_long_before():
    found = fold(np.arange(100.0))
    assert found.targets.tolist() == list(range(2, 60))
    assert metrics.persistence(found, 2).tolist() == list(range(58))
    later = metrics.persistence(found, 7)
    assert np.isnan(later[:5]).all()
    assert later[5:].tolist() == list(range(53))


def test_lags_are_the_latest_that_are_known():
    assert metrics.lags(48, (48, 336)) == [48, 336]
    assert metrics.lags(10, (24, 168)) == [10, 24, 168]
    assert metrics.lags(50, (24,)) == [50, 72]


def test_errors_are_in_spreads_and_skill_is_against_the_best_persistence():
    values = np.tile([0.0, 1.0, 4.0, 1.0], 25)
    values[3::8] = 2.0  # so that the season of 4 errs
    found = fold(values)
    where = found.positions("test")
    truth, spread = found.targets[where], values[:40].std()
    scores = metrics.score(truth + 0.5, found, "test", (4,))
    assert scores["mse"] == pytest.approx(0.25 / spread**2)
    assert scores["mae"] == pytest.approx(0.5 / spread)
    seasonal = np.mean([(values[t] - values[t - 4]) ** 2 for t in range(50, 60)])
    latest = np.mean([(values[t] - values[t - 2]) ** 2 for t in range(50, 60)])
    assert scores["skill"] == pytest.approx(100 * (1 - 0.25 / min(seasonal, latest)))
    assert metrics.score(truth, found, "test", (4,)) == {"mse": 0.0, "mae": 0.0, "skill": 100.0}


def test_pinball_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    forecasts, targets = np.sort(rng.normal(size=(3, 200)), 0), rng.normal(size=200)
    expected = np.mean([mean_pinball_loss(targets, one, alpha=q) for one, q in zip(forecasts, QUANTILES, strict=True)])
    assert metrics.pinball(forecasts, targets, 1.0) == pytest.approx(expected)
    assert metrics.pinball(forecasts, targets, 2.0) == pytest.approx(expected / 2)
