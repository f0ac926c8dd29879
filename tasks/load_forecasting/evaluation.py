"""Forecasts of a trained network, their scores, and what its receptive fields are measured on."""

import math
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rfnext import reproducible
from tasks.diverged import NotFinite, finite
from tasks.load_forecasting import metrics
from tasks.load_forecasting.config import QUANTILES, Config
from tasks.load_forecasting.data import Fold
from tasks.load_forecasting.datasets import open_fold
from tasks.load_forecasting.models import Forecaster, values
from tasks.spec import Part, Probe, Split

PROBED = 8192
"""Most positions that receptive fields are measured on."""


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    """mse, mae and skill of one part, and pinball of a quantile head; see `metrics`."""
    return score(model, config, open_fold(config, split.fold), split.part)


def score(model: nn.Module, config: Config, fold: Fold, part: Part) -> dict[str, float]:
    """All metrics of a network on a part of a fold; they are nan if it diverged or overflows."""
    try:
        found = forecast(model, fold, part)
    except NotFinite:
        names = ("mse", "mae", "skill", *(["pinball"] if config.head == "quantile" else []))
        return dict.fromkeys(names, math.nan)
    scores = metrics.score(found[len(found) // 2], fold, part, config.seasons)
    if config.head == "quantile":
        scores["pinball"] = metrics.pinball(found, fold.targets[fold.positions(part)], fold.spread())
    return scores


@torch.no_grad()
def forecast(model: nn.Module, fold: Fold, part: Part) -> NDArray[np.float64]:
    """The forecasts at a part's positions, (1 or quantiles, n), in the target's unit.

    The network reads the series from its beginning up to each position. It runs in evaluation mode, and the mode is
    left as it was. Raises NotFinite.
    """
    where, training = fold.positions(part), model.training
    x = values(fold.inputs[:, : where.stop])
    model.eval()
    try:
        with reproducible(next(model.parameters()).device), finite(model):
            return model(x)[0, :, where].numpy()
    finally:
        model.train(training)


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    """What receptive fields are measured on: the series up to the end of the part, normalised.

    The output is the forecast itself, the median of quantiles.
    """
    network, fold = cast(Forecaster, model), open_fold(config, split.fold)
    stop = fold.positions(split.part).stop
    x = values(fold.inputs[:, max(0, stop - PROBED) : stop])
    middle = len(QUANTILES) // 2 if config.head == "quantile" else 0
    return Probe(
        forward=lambda x: network.forecast(x)[:, middle : middle + 1],
        inputs=[network.normalised(x)],
        unit="steps",
        step=(1.0,),
        output="the forecast",
    )
