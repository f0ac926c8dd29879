"""Persistence and ridge regression: against scikit-learn's, and on series that they can forecast exactly."""

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from tasks.load_forecasting import baselines, metrics
from tasks.load_forecasting.config import Config
from tasks.load_forecasting.data import Sizes, split
from tasks.load_forecasting.datasets import open_fold
from tasks.load_forecasting.series import Series

CONFIG = Config(horizon=4, seasons=(6,), burn_in=0)


def fold(values: np.ndarray):
    return split(Series(("load",), values[None], datetime(2024, 1, 1), 60.0), (), Sizes(4, 0), 1)


def test_a_linear_recurrence_is_forecast_exactly():
    found = fold(10 * np.sin(np.arange(2000) * 0.3) + 5)
    where = found.positions("test")
    assert np.abs(baselines.ridge(found, CONFIG)[where] - found.targets[where]).max() < 1e-3


def test_it_is_scikit_learns_ridge_on_the_same_lags():
    found = fold(np.random.default_rng(0).normal(size=2000).cumsum())
    where, train = found.positions("test"), slice(38, found.positions("train").stop)
    lags = sorted({*range(6), *(6 * day - 4 for day in range(1, 8))})
    x = np.stack(
        [np.concatenate([np.full(lag, np.nan), found.inputs[0][: len(found.inputs[0]) - lag]]) for lag in lags], 1
    )
    x = (x - x[train].mean(0)) / x[train].std(0)
    candidates = [
        Ridge(alpha=penalty).fit(x[train], found.targets[train]).predict(x[38:]) for penalty in baselines.PENALTIES
    ]
    validation = found.positions("validation")
    errors = [
        np.square(one[validation.start - 38 : validation.stop - 38] - found.targets[validation]).mean()
        for one in candidates
    ]
    expected = candidates[int(np.argmin(errors))][where.start - 38 :]
    assert baselines.ridge(found, CONFIG)[where] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_covariate_that_never_changed_does_not_reach_the_forecast(value: float):
    """The mean of equal values is not exactly theirs, so they seem to spread."""
    values = np.random.default_rng(0).normal(size=2000).cumsum()
    covariate = np.full_like(values, value)
    covariate[fold(values).positions("train").stop :] += 1e6
    both = Series(("load", "holiday"), np.stack([values, covariate]), datetime(2024, 1, 1), 60.0)
    alone, found = baselines.ridge(fold(values), CONFIG), baselines.ridge(split(both, (), Sizes(4, 0), 1), CONFIG)
    assert found[38:] == pytest.approx(alone[38:], rel=1e-6, abs=1e-6)


def test_no_forecast_depends_on_the_future():
    values = np.random.default_rng(0).normal(size=1000).cumsum()
    cut = 550  # within the test part of fold 1: nothing that is fitted changes
    other = values.copy()
    other[cut:] += 10
    one, two = (baselines.ridge(fold(v), CONFIG) for v in (values, other))
    assert np.array_equal(one[38:cut], two[38:cut])


def test_the_table_has_every_baseline_and_fold(capsys: pytest.CaptureFixture[str]):
    assert baselines.main(["--preset", "taylor"]) == 0
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1].strip() for row in rows] == [
        "value of 48 steps before",
        "value of 336 steps before",
        "ridge regression on lags",
    ]
    assert header.count("mse, fold") == 5


def test_missing_data_is_said(tmp_path, capsys: pytest.CaptureFixture[str]):
    assert baselines.main(["--preset", "etth1", "--root", str(tmp_path)]) == 3
    assert "ETTh1.csv" in capsys.readouterr().err


@pytest.mark.parametrize(("season", "message"), [(300, "too few for lags of 7 times 300"), (4000, "need 4000")])
def test_seasons_that_are_too_long_are_refused(season: int, message: str, capsys: pytest.CaptureFixture[str]):
    assert baselines.main(["--preset", "taylor", "--seasons", str(season)]) == 3
    assert message in capsys.readouterr().err


def test_a_setting_that_cannot_be_is_named(capsys: pytest.CaptureFixture[str]):
    assert baselines.main(["--horizon", "0"]) == 2
    assert "horizon is 0" in capsys.readouterr().err


def test_the_same_time_last_week_is_what_the_embedded_series_repeats():
    config = replace(CONFIG, horizon=48, seasons=(48, 336))
    found = open_fold(config, 1)
    where = found.positions("test")
    day, week = (np.square(metrics.persistence(found, lag)[where] - found.targets[where]).mean() for lag in (48, 336))
    assert week < day
