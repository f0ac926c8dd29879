"""The task: which of a few classes every frame of a video belongs to.

Lightning and matplotlib are imported when they are used: importing them takes seconds, which --help does not need.
"""

from pathlib import Path

from torch import nn

from tasks.action_segmentation import datasets, evaluation, models
from tasks.action_segmentation.config import PAPER, PRESETS, Config
from tasks.action_segmentation.donor import donor, roles
from tasks.spec import Metric, Run, Split, Task


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """See `training.fit`."""
    from tasks.action_segmentation import training

    training.fit(model, config, run)


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """See `illustrate.illustrate`."""
    from tasks.action_segmentation.illustrate import illustrate

    return illustrate(model, config, split, folder)


TASK = Task(
    name="action_segmentation",
    version=1,
    # In the papers' order; so the first, which drives searches, is the one that Global2Local ranks by.
    metrics=(Metric("f1@10"), Metric("f1@25"), Metric("f1@50"), Metric("edit"), Metric("accuracy")),
    presets=PRESETS,
    build=models.build,
    fit=fit,
    evaluate=evaluation.evaluate,
    where=models.searched,
    unavailable=datasets.unavailable,
    download=datasets.download,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=datasets.published,
    data_files=datasets.data_files,
    illustrate=illustrate,
    longest_input=datasets.longest_input,
    donor=donor,
    roles=roles,
    probe=evaluation.probe,
    suites={"paper": PAPER},
    facts=datasets.facts,
    rebuild=models.rebuild,
)
