"""The task: speech from log-mel spectrograms, the last step of text-to-speech, measured by copy synthesis.

What trains is imported when it is used: importing torch takes seconds, which --help and --list do not need.
"""

from typing import TYPE_CHECKING

from rfnext.lazy import LazyModule
from tasks import fingerprints
from tasks.spec import Task
from tasks.tts_vocoder import datasets
from tasks.tts_vocoder.config import PAPER, PRESETS, Config
from tasks.tts_vocoder.measures import METRICS

if TYPE_CHECKING:
    from tasks.tts_vocoder import evaluation, generators, illustrate, models, training
else:
    evaluation = LazyModule("tasks.tts_vocoder.evaluation")
    generators = LazyModule("tasks.tts_vocoder.generators")
    illustrate = LazyModule("tasks.tts_vocoder.illustrate")
    models = LazyModule("tasks.tts_vocoder.models")
    training = LazyModule("tasks.tts_vocoder.training")


def unavailable(config: Config) -> str | None:
    """See `datasets.unavailable`; also whether `init` and `mels` are there, which records know by fingerprint."""
    return fingerprints.missing(config, "init") or fingerprints.missing(config, "mels") or datasets.unavailable(config)


TASK = Task(
    name="tts_vocoder",
    version=1,
    metrics=METRICS,
    presets=PRESETS,
    build=models.build,
    fit=training.fit,
    evaluate=evaluation.evaluate,
    where=generators.searched,
    unavailable=unavailable,
    download=datasets.download,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=datasets.published,
    data_files=datasets.data_files,
    illustrate=illustrate.illustrate,
    probe=evaluation.probe,
    suites={"paper": PAPER},
)
