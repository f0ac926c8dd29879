"""The task: boxes and masks, or panoptic segments, by the five detectors that RF-Next searched.

mmdet and matplotlib are imported when they are used: importing them takes seconds, which --help does not need.
"""

from pathlib import Path

from torch import nn

from tasks.coco_detection import datasets, detectors, metrics
from tasks.coco_detection.config import PRESETS, SUITES, Config
from tasks.spec import Facts, Probe, Run, Split, Task


def build(config: Config) -> nn.Module:
    """The initialised detector for the config's data. Raises DataError if there is no usable data."""
    model = rebuild(config, datasets.facts(config))
    detectors.initialise(model)
    return model


def rebuild(config: Config, facts: Facts) -> nn.Module:
    """The detector for data of these facts (`datasets.facts`), without its initial weights."""
    return detectors.build(config.detector, config.size, len(facts["classes"]), facts["things"])


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """See `training.fit`."""
    from tasks.coco_detection import training

    training.fit(model, config, run)


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    """See `evaluation.evaluate`."""
    from tasks.coco_detection import evaluation

    return evaluation.evaluate(model, config, split)


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """See `illustrate.illustrate`."""
    from tasks.coco_detection.illustrate import illustrate

    return illustrate(model, config, split, folder)


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    """See `evaluation.probe`."""
    from tasks.coco_detection import evaluation

    return evaluation.probe(model, config, split)


TASK = Task(
    name="coco_detection",
    version=1,
    metrics=metrics.METRICS,
    presets=PRESETS,
    build=build,
    fit=fit,
    evaluate=evaluate,
    where=detectors.searched,
    unavailable=datasets.unavailable,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=datasets.published,
    data_files=datasets.data_files,
    illustrate=illustrate,
    metrics_by_config=metrics.metrics_by_config,
    longest_input=datasets.longest_input,
    probe=probe,
    suites=SUITES,
    facts=datasets.facts,
    rebuild=rebuild,
)
