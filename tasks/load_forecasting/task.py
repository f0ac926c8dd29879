"""The task: forecast a load a day ahead, at every position of the series.

Lightning and matplotlib are imported when they are used: importing them takes seconds, which --help does not need.
"""

from pathlib import Path

from torch import nn

from tasks.load_forecasting import datasets, evaluation, models
from tasks.load_forecasting.config import PRESETS, Config
from tasks.spec import Metric, Run, Split, Task

MSE = Metric("mse", higher_is_better=False, decimals=3, unit="")
MAE = Metric("mae", higher_is_better=False, decimals=3, unit="")
SKILL = Metric("skill")
PINBALL = Metric("pinball", higher_is_better=False, decimals=3, unit="")


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """See `training.fit`."""
    from tasks.load_forecasting import training

    training.fit(model, config, run)


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """See `illustrate.illustrate`."""
    from tasks.load_forecasting.illustrate import illustrate

    return illustrate(model, config, split, folder)


def metrics(config: Config) -> tuple[Metric, ...]:
    """What drives searches is what is trained on."""
    return (PINBALL, MSE, MAE, SKILL) if config.head == "quantile" else (MSE, MAE, SKILL)


TASK = Task(
    name="load_forecasting",
    version=1,
    metrics=(MSE, MAE, SKILL),
    metrics_by_config=metrics,
    presets=PRESETS,
    build=models.build,
    fit=fit,
    evaluate=evaluation.evaluate,
    where=models.searched,
    unavailable=datasets.unavailable,
    download=datasets.download,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=lambda config: None,
    data_files=datasets.data_files,
    illustrate=illustrate,
    leaves_out={"learnable_spacings": "its taps would learn to read the future"},
    longest_input=datasets.longest_input,
    probe=evaluation.probe,
    facts=datasets.facts,
    rebuild=models.rebuild,
)
