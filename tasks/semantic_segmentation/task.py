"""The task: a class for every pixel, by the kinds of networks that RF-Next searched for segmentation.

What trains is imported when it is used: importing torch takes seconds, which --help and --list do not need.
"""

from typing import TYPE_CHECKING

from rfnext.lazy import LazyModule
from tasks.semantic_segmentation import datasets
from tasks.semantic_segmentation.config import PRESETS, SUITES
from tasks.spec import Metric, Task

if TYPE_CHECKING:
    from tasks.semantic_segmentation import evaluation, illustrate, models, training
else:
    evaluation = LazyModule("tasks.semantic_segmentation.evaluation")
    illustrate = LazyModule("tasks.semantic_segmentation.illustrate")
    models = LazyModule("tasks.semantic_segmentation.models")
    training = LazyModule("tasks.semantic_segmentation.training")

TASK = Task(
    name="semantic_segmentation",
    version=1,
    metrics=(Metric("mIoU"), Metric("accuracy")),
    presets=PRESETS,
    build=models.build,
    fit=training.fit,
    evaluate=evaluation.evaluate,
    where=models.searched,
    unavailable=datasets.unavailable,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=lambda config: None,
    data_files=datasets.data_files,
    illustrate=illustrate.illustrate,
    longest_input=datasets.longest_input,
    search_length=datasets.search_length,
    probe=evaluation.probe,
    suites=SUITES,
    facts=datasets.facts,
    rebuild=models.rebuild,
)
