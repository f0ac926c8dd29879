"""The task: boxes and masks, or panoptic segments, by the five detectors that RF-Next searched.

What trains is imported when it is used: importing torch takes seconds, which --help and --list do not need.
"""

from typing import TYPE_CHECKING

from rfnext.lazy import LazyModule
from tasks import fingerprints
from tasks.coco_detection import datasets, metrics
from tasks.coco_detection.config import PRESETS, SUITES, Config
from tasks.spec import Facts, Task, names_in

if TYPE_CHECKING:
    from torch import nn

    from tasks.coco_detection import detectors, evaluation, illustrate, initial, training
else:
    detectors = LazyModule("tasks.coco_detection.detectors")
    evaluation = LazyModule("tasks.coco_detection.evaluation")
    illustrate = LazyModule("tasks.coco_detection.illustrate")
    initial = LazyModule("tasks.coco_detection.initial")
    training = LazyModule("tasks.coco_detection.training")


def build(config: Config) -> "nn.Module":
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
        with fingerprints.starting():
            initial.start_from(model, config, facts)
    return model


def rebuild(config: Config, facts: Facts) -> "nn.Module":
    """The detector for data of these facts (`datasets.facts`), without its initial weights; ValueError for impossible
    ones."""
    classes, things = len(names_in(facts, "classes")), facts["things"]
    if config.detector != "panoptic" and classes != things:  # its size depends on the things alone
        raise ValueError(f"it names {classes} classes, and a network of {things}")
    return detectors.build(config.detector, config.size, classes, things)


def unavailable(config: Config) -> str | None:
    """See `datasets.unavailable`; also whether `init` is there, which records know by its fingerprint."""
    return fingerprints.missing(config, "init") or datasets.unavailable(config)


TASK = Task(
    name="coco_detection",
    version=1,
    metrics=metrics.METRICS,
    presets=PRESETS,
    build=build,
    fit=training.fit,
    evaluate=evaluation.evaluate,
    where=detectors.searched,
    unavailable=unavailable,
    download=datasets.download,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=datasets.published,
    data_files=datasets.data_files,
    illustrate=illustrate.illustrate,
    metrics_by_config=metrics.metrics_by_config,
    longest_input=datasets.longest_input,
    probe=evaluation.probe,
    suites=SUITES,
    facts=datasets.facts,
    rebuild=rebuild,
)
