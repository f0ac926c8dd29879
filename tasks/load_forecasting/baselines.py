"""Forecasts without a network, to compare with: `python -m tasks.load_forecasting.baselines [--preset NAME]`.

It takes every setting of the training that decides the data, such as --root, --known, --horizon and --seasons.
Prints one table: every persistence forecast of `metrics.lags`, and a ridge regression on lags, for each fold and on
average. Do not call a data set decided whose networks lose to these.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tabulate import tabulate

from tasks.command_line import parse
from tasks.load_forecasting import metrics
from tasks.load_forecasting.config import PRESETS, Config
from tasks.load_forecasting.data import Fold
from tasks.load_forecasting.datasets import folds, open_fold, unavailable
from tasks.spec import DataError

Array = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in range(-2, 5))
"""Penalties of the ridge regression, of which the validation part chooses one."""

DAYS = 7
"""Days whose value at the time of the target the regression reads."""


def ridge(fold: Fold, config: Config) -> Array:
    """Forecasts of a ridge regression at all positions, (N); nan where the series begins later than its lags.

    It reads every value of the last season, the values at the target's time of the last `DAYS` seasons, and the
    covariates, all normalised on the training part; a covariate that does not change there is left out. The penalty is
    the one with the lowest validation error.
    """
    season = min(config.seasons, default=config.horizon)
    past = [*range(season), *(day * season - fold.horizon for day in range(1, DAYS + 1))]
    rows = [_shifted(fold.inputs[0], steps) for step in sorted(set(past)) if (steps := step) >= 0]
    x = np.stack([*rows, *fold.inputs[1:]])
    train, validation = fold.positions("train"), fold.positions("validation")
    start = max(train.start, max(past))
    if start >= train.stop:
        raise DataError(
            f"the training part has {fold.ends[0]} steps, too few for lags of {DAYS} times {season}; lower --seasons"
        )
    known = slice(start, train.stop)
    centre, scale = x[:, known].mean(1, keepdims=True), x[:, known].std(1, keepdims=True)
    # Of equal values, rounding makes a spread that is not zero; a later change of them must not count, as in networks.
    varies = x[:, known].max(1, keepdims=True) > x[:, known].min(1, keepdims=True)
    x, mean = (x - centre) / np.where(varies, scale, np.inf), fold.targets[known].mean()
    gram, product = x[:, known] @ x[:, known].T, x[:, known] @ (fold.targets[known] - mean)
    found = [np.linalg.solve(gram + penalty * np.eye(len(x)), product) @ x + mean for penalty in PENALTIES]
    errors = [np.square(one[validation] - fold.targets[validation]).mean() for one in found]
    return found[int(np.argmin(errors))]


def _shifted(values: Array, steps: int) -> Array:
    found = np.full_like(values, np.nan)
    found[steps:] = values[: max(0, len(values) - steps)]
    return found


def table(config: Config) -> str:
    """Test errors of every baseline, per fold and on average, as a Markdown table."""
    names = {f"value of {lag} steps before": lag for lag in metrics.lags(config.horizon, config.seasons)}
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in (*names, "ridge regression on lags")}
    for number in folds(config):
        fold = open_fold(config, number)
        found = {name: metrics.persistence(fold, lag) for name, lag in names.items()}
        found["ridge regression on lags"] = ridge(fold, config)
        for name, forecast in found.items():
            where = fold.positions("test")
            scores[name].append(metrics.score(forecast[where], fold, "test", config.seasons))
    rows = [
        [
            name,
            *(f"{np.mean([one[m] for one in ones]):.3f}" for m in ("mse", "mae")),
            f"{np.mean([one['skill'] for one in ones]):.1f}",
            *(f"{one['mse']:.3f}" for one in ones),
        ]
        for name, ones in scores.items()
    ]
    headers = ["baseline", "mse", "mae", "skill (%)", *(f"mse, fold {number}" for number in folds(config))]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    prog = "python -m tasks.load_forecasting.baselines"
    # The preset comes first: its fields are the defaults of the others.
    parser = argparse.ArgumentParser(prog=prog, add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default="small", choices=sorted(PRESETS))
    given, rest = parser.parse_known_args(arguments)
    try:
        config = parse(
            Config,
            rest,
            default=PRESETS[given.preset],
            prog=f"{prog} --preset {given.preset}",
            description=__doc__,
        )
        if reason := unavailable(config):
            raise DataError(reason)
        print(table(config))
    except ValueError as error:  # of the config, or of the data
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, DataError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
