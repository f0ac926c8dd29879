"""Trainings: what they learn, that they see no later part, and that killed ones continue exactly."""

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_pinball_loss

from tasks import checkpoint
from tasks.lightning_fit import CHECKPOINT
from tasks.load_forecasting.config import QUANTILES, Config
from tasks.load_forecasting.datasets import open_fold
from tasks.load_forecasting.evaluation import evaluate, forecast
from tasks.load_forecasting.models import build
from tasks.load_forecasting.training import fit, loss
from tasks.spec import SELECTED, Run, Split

CONFIG = Config(dataset="folder", horizon=4, seasons=(12,), burn_in=24, width=8, epochs=3, steps=3, folds=(1,))


def write(folder: Path, change: int = 10**9) -> Config:
    """A noisy season of 12; from step `change` on, it lies elsewhere."""
    rng = np.random.default_rng(0)
    steps = np.arange(600)
    values = np.sin(2 * np.pi * steps / 12) + 0.1 * rng.normal(size=600) + 50.0 * (steps >= change)
    rows = [
        f"{datetime(2024, 1, 1) + timedelta(hours=int(k))},{v!r}" for k, v in zip(steps, values.tolist(), strict=True)
    ]
    folder.mkdir(exist_ok=True)
    (folder / "series.csv").write_text("\n".join(["time,target", *rows]) + "\n")
    return replace(CONFIG, root=folder)


def trained(config: Config, folder: Path, **run: object):
    torch.manual_seed(0)
    model = build(config)
    folder.mkdir(exist_ok=True)
    fit(model, config, Run(seed=0, fold=1, folder=folder, device="cpu", **run))  # type: ignore[arg-type]
    return model


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs if isinstance(x, torch.Tensor))


@pytest.mark.parametrize("head", ["mse", "quantile"])
def test_a_season_is_learnt(head: str, tmp_path: Path):
    config = replace(write(tmp_path / "data"), epochs=20, steps=15, head=head)
    scores = evaluate(trained(config, tmp_path / "run"), config, Split("test", 1))
    assert scores["skill"] > 25  # noise of both values against that of one: at most 50
    assert ("pinball" in scores) is (head == "quantile")


def test_a_training_sees_neither_the_test_part_nor_its_normalisation(tmp_path: Path):
    """Steps of the test part, and of the last horizon before it, are others; nothing that is trained differs."""
    first = write(tmp_path / "one")
    end = open_fold(first, 1).ends[1]
    one = trained(first, tmp_path / "run1")
    two = trained(write(tmp_path / "two", change=end), tmp_path / "run2")
    assert equal(one, two)
    three = trained(write(tmp_path / "three", change=end - 1), tmp_path / "run3")
    assert equal(one, three), "the validation part selects, and does not train"
    four = trained(write(tmp_path / "four", change=open_fold(first, 1).ends[0] - 1), tmp_path / "run4")
    assert not equal(one, four)


def test_a_killed_training_ends_as_an_uninterrupted_one(tmp_path: Path):
    config = write(tmp_path / "data")
    whole = trained(config, tmp_path / "whole")
    trained(replace(config, epochs=2), tmp_path / "cut", schedule_epochs=3)
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    assert equal(whole, trained(config, tmp_path / "cut", resume=True))


def test_the_file_of_the_best_epoch_forecasts_without_the_data(tmp_path: Path):
    config = write(tmp_path / "data")
    trained(config, tmp_path / "run")
    fold = open_fold(config, 1)
    (tmp_path / "data" / "series.csv").unlink()
    opened = checkpoint.load(tmp_path / "run" / SELECTED, "load_forecasting")
    assert list(opened.facts["columns"]) == ["target"]
    found = forecast(opened.model, fold, "test")[0]
    truth = fold.targets[fold.positions("test")]
    assert np.square(found - truth).mean() < truth.var(), "it holds the statistics of the training part"


def test_an_overflow_that_a_relu_hides_has_no_scores(tmp_path: Path):
    """What is minus infinity within the network is zero after it, so that all forecasts are finite."""
    config = replace(write(tmp_path / "data"), head="quantile")
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.get_parameter("first.bias").fill_(3e38)
        model.get_parameter("blocks.0.dilated.weight").fill_(-1)
    assert model.eval()(torch.zeros(1, 1, 50)).isfinite().all()
    scores = evaluate(model, config, Split("validation", 1))
    assert scores.keys() == {"mse", "mae", "skill", "pinball"}
    assert np.isnan(list(scores.values())).all()


def test_the_losses_are_those_of_scikit_learn():
    torch.manual_seed(0)
    forecasts, targets = torch.randn(1, 3, 100), torch.randn(1, 100)
    expected = np.mean(
        [mean_pinball_loss(targets[0], one, alpha=q) for one, q in zip(forecasts[0], QUANTILES, strict=True)]
    )
    assert loss(forecasts, targets, "quantile").item() == pytest.approx(expected, rel=1e-5)
    assert loss(forecasts[:, :1], targets, "mse").item() == pytest.approx(
        (forecasts[0, 0] - targets[0]).square().mean()
    )
