"""The task: which of a few classes every frame of a video belongs to.

What trains is imported when it is used: importing torch takes seconds, which --help and --list do not need.
"""

from typing import TYPE_CHECKING

from rfnext.lazy import LazyModule
from tasks.action_segmentation import datasets
from tasks.action_segmentation.config import PAPER, PRESETS
from tasks.action_segmentation.donor import donor
from tasks.spec import Metric, Task

if TYPE_CHECKING:
    from tasks.action_segmentation import evaluation, illustrate, models, roles, training
else:
    evaluation = LazyModule("tasks.action_segmentation.evaluation")
    illustrate = LazyModule("tasks.action_segmentation.illustrate")
    models = LazyModule("tasks.action_segmentation.models")
    roles = LazyModule("tasks.action_segmentation.roles")
    training = LazyModule("tasks.action_segmentation.training")

TASK = Task(
    name="action_segmentation",
    version=1,
    # In the papers' order; so the first, which drives searches, is the one that Global2Local ranks by.
    metrics=(Metric("f1@10"), Metric("f1@25"), Metric("f1@50"), Metric("edit"), Metric("accuracy")),
    presets=PRESETS,
    build=models.build,
    fit=training.fit,
    evaluate=evaluation.evaluate,
    where=models.searched,
    unavailable=datasets.unavailable,
    download=datasets.download,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=datasets.published,
    data_files=datasets.data_files,
    illustrate=illustrate.illustrate,
    longest_input=datasets.longest_input,
    donor=donor,
    roles=roles.roles,
    probe=evaluation.probe,
    suites={"paper": PAPER},
    facts=datasets.facts,
    rebuild=models.rebuild,
)
