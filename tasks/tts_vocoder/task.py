"""The task: speech from log-mel spectrograms, the last step of text-to-speech, measured by copy synthesis.

Lightning, librosa and matplotlib are imported when they are used: importing them takes seconds, which --help does not
need.
"""

from pathlib import Path

from torch import nn

from tasks import fingerprints
from tasks.spec import Run, Split, Task
from tasks.tts_vocoder import datasets, evaluation, generators, models
from tasks.tts_vocoder.config import PAPER, PRESETS, Config
from tasks.tts_vocoder.metrics import METRICS


def fit(model: nn.Module, config: Config, run: Run) -> None:
    """See `training.fit`."""
    from tasks.tts_vocoder import training

    training.fit(model, config, run)


def unavailable(config: Config) -> str | None:
    """See `datasets.unavailable`; also whether `init` and `mels` are there, which records know by fingerprint."""
    return fingerprints.missing(config, "init") or fingerprints.missing(config, "mels") or datasets.unavailable(config)


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """See `illustrate.illustrate`."""
    from tasks.tts_vocoder.illustrate import illustrate

    return illustrate(model, config, split, folder)


TASK = Task(
    name="tts_vocoder",
    version=1,
    metrics=METRICS,
    presets=PRESETS,
    build=models.build,
    fit=fit,
    evaluate=evaluation.evaluate,
    where=generators.searched,
    unavailable=unavailable,
    download=datasets.download,
    folds=datasets.folds,
    data_label=datasets.data_label,
    published=datasets.published,
    data_files=datasets.data_files,
    illustrate=illustrate,
    probe=evaluation.probe,
    suites={"paper": PAPER},
)
