"""The task: boxes and masks, or panoptic segments, by the five detectors that RF-Next searched.

mmdet and matplotlib are imported when they are used: importing them takes seconds, which --help does not need.
"""

from pathlib import Path

from torch import nn

from tasks import fingerprints
from tasks.coco_detection import datasets, detectors, metrics
from tasks.coco_detection.config import PRESETS, SUITES, Config
from tasks.spec import Facts, Probe, Run, Split, Task, names_in


def build(config: Config) -> nn.Module:
    """The initialised detector for the config's data.

    Raises:
        DataError: if there is no usable data.
        ValueError: if `config.init` is no file of this detector; see `initial.start_from`.
    """
    facts = datasets.facts(config)
    model = rebuild(config, facts)
    if config.init is None:
        detectors.initialise(model)
    else:
        from tasks.coco_detection import initial

        with fingerprints.starting():
            initial.start_from(model, config, facts)
    return model


def rebuild(config: Config, facts: Facts) -> nn.Module:
    """The detector for data of these facts (`datasets.facts`), without its initial weights; ValueError for impossible
    ones."""
    classes, things = len(names_in(facts, "classes")), facts["things"]
    if config.detector != "panoptic" and classes != things:  # its size depends on the things alone
        raise ValueError(f"it names {classes} classes, and a network of {things}")
    return detectors.build(config.detector, config.size, classes, things)


def unavailable(config: Config) -> str | None:
    """See `datasets.unavailable`; also whether `init` is there, which records know by its fingerprint."""
    return fingerprints.missing(config, "init") or datasets.unavailable(config)


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
    unavailable=unavailable,
    download=datasets.download,
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
