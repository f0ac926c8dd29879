"""The task: forecast a load a day ahead, at every position of the series.

What trains is imported when it is used: importing torch takes seconds, which --help and --list do not need.
"""

from typing import TYPE_CHECKING

from rfnext.lazy import LazyModule
from tasks.load_forecasting import datasets
from tasks.load_forecasting.config import PRESETS, Config
from tasks.spec import Metric, Task

if TYPE_CHECKING:
    from tasks.load_forecasting import evaluation, illustrate, models, training
else:
    evaluation = LazyModule("tasks.load_forecasting.evaluation")
    illustrate = LazyModule("tasks.load_forecasting.illustrate")
    models = LazyModule("tasks.load_forecasting.models")
    training = LazyModule("tasks.load_forecasting.training")

MSE = Metric("mse", higher_is_better=False, decimals=3, unit="")
MAE = Metric("mae", higher_is_better=False, decimals=3, unit="")
SKILL = Metric("skill")
PINBALL = Metric("pinball", higher_is_better=False, decimals=3, unit="")


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
    fit=training.fit,
    evaluate=evaluation.evaluate,
    where=models.searched,
    unavailable=datasets.unavailable,
    download=datasets.download,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=lambda config: None,
    data_files=datasets.data_files,
    illustrate=illustrate.illustrate,
    leaves_out={"learnable_spacings": "its taps would learn to read the future"},
    longest_input=datasets.longest_input,
    probe=evaluation.probe,
    facts=datasets.facts,
    rebuild=models.rebuild,
)
