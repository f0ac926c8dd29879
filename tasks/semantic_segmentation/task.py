"""The task: a class for every pixel, by the kinds of networks that RF-Next searched for segmentation.

Lightning, timm and torchvision are imported when they are used: importing them takes seconds, which --help does not
need.
"""

from pathlib import Path

from torch import nn

from tasks.semantic_segmentation import datasets, evaluation, models
from tasks.semantic_segmentation.config import PRESETS, SUITES, Config
from tasks.spec import Metric, Run, Split, Task


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """See `training.fit`."""
    from tasks.semantic_segmentation import training

    training.fit(model, config, run)


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """See `illustrate.illustrate`."""
    from tasks.semantic_segmentation.illustrate import illustrate

    return illustrate(model, config, split, folder)


TASK = Task(
    name="semantic_segmentation",
    version=1,
    metrics=(Metric("mIoU"), Metric("accuracy")),
    presets=PRESETS,
    build=models.build,
    fit=fit,
    evaluate=evaluation.evaluate,
    where=models.searched,
    unavailable=datasets.unavailable,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=lambda config: None,
    data_files=datasets.data_files,
    illustrate=illustrate,
    longest_input=datasets.longest_input,
    search_length=datasets.search_length,
    probe=evaluation.probe,
    suites=SUITES,
    facts=datasets.facts,
    rebuild=models.rebuild,
)
