"""The readers of users' files, each with the samples that it is tried on and the errors that it may raise."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rfnext import Structure, open_published
from rfnext.files import read_json
from rfnext.integrations.lightning import AtomicCheckpointIO
from rfnext.integrations.wandb import RUN_FILE, init_arguments
from rfnext.published.structure_file import read_structure
from tasks import checkpoint
from tasks.action_segmentation import data as videos
from tasks.action_segmentation import predict as segmenting
from tasks.action_segmentation import score as scoring
from tasks.action_segmentation.check import check as check_videos
from tasks.action_segmentation.ms_tcn_format.lengths import Sampling
from tasks.findings import Findings
from tasks.plain import plain, rebuild
from tasks.tts_vocoder import released
from tasks.tts_vocoder.check import check as check_clips
from tasks.tts_vocoder.config import PRESETS
from tasks.tts_vocoder.mels import saved_mel
from tasks.tts_vocoder.recordings.clips import Shape
from tests.faults.fuzz import own_data as own
from tests.faults.fuzz import predictions, records, samples, scenes, sounds
from tests.faults.fuzz.mutations import Sample


@dataclass(frozen=True)
class Reader:
    """good: valid samples. past: what was once a finding. read: a function of the folder of a sample.

    errors: what it may raise, with a message that names one of the sample's files.
    """

    name: str
    good: Callable[[], list[Sample]]
    past: Callable[[], list[Sample]]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...] = (ValueError, OSError)


def _structure(folder: Path) -> None:
    structure = Structure.load(folder / "structure.json")
    str(structure), hash(structure)
    file = read_structure(folder / "structure.json")
    if file.settings:
        for dilation in file.structure.values():
            file.branches(dilation, [3] * len(dilation))
    Structure.apply(Structure({"first": 2}), samples.Small())


def _published(folder: Path) -> None:
    model = samples.Small()
    structure = folder / "structure.json"
    open_published(model, folder / "a.pth", structure if structure.is_symlink() or structure.exists() else None)


def _generator(folder: Path) -> None:
    network = released.open_generator(folder / "g.pt")
    released.load_weights(network, folder / "g.pt")


def _weights(folder: Path) -> None:
    opened = checkpoint.load(folder / "model.pt")
    checkpoint.load_weights(opened.model, folder / "model.pt")


def _told(problems: Any) -> None:
    """Problems can be printed, and each is one line of a readable length."""
    for problem in problems:
        text = str(problem)
        text.encode("utf-8")
        if "\n" in text or len(text) > 3000:
            raise AssertionError(f"a message of {len(text)} characters: {text[:200]!r}")


def _videos(folder: Path) -> None:
    _told(check_videos(folder).findings.problems)
    dataset = videos.open_dataset(folder, fold=1, validation=0.3)
    for part in (dataset.train, dataset.validation, dataset.test):
        list(part)


def _predictions(folder: Path) -> None:
    for video in segmenting.find_videos([folder], folder / "splits/test.split1.bundle").values():
        segmenting.check_video(video, 3, Sampling())
    scoring.read_folders(folder / "predicted", folder / "groundTruth")


def _clips(folder: Path) -> None:
    report = Findings()
    check_clips(folder, Shape(16000, 4000.0, trim=True), report)
    _told(report.problems)


def _mel(folder: Path) -> None:
    saved_mel.read_mel(folder / "a.npy", samples.MEL)


def _config(folder: Path) -> None:
    path = folder / "config.json"
    try:
        rebuild(type(PRESETS["tiny"]), read_json(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _configs() -> list[Sample]:
    return [{"config.json": json.dumps(plain(config, "config")).encode()} for config in PRESETS.values()]


def _past_configs() -> list[Sample]:
    good = json.loads(_configs()[0]["config.json"])
    changes: list[dict[str, Any]] = [
        {"epochs": 10**400},
        {"lr": 10**400},
        {"search": []},
        {"mel": {"n_fft": 10**400}},
        {"upsampling": [[]]},
    ]
    return [{"config.json": json.dumps(good | change).encode()} for change in changes] + samples.each(
        _configs()[0], "config.json"
    )


def _wandb(folder: Path) -> None:
    with patch.dict(os.environ, WANDB_MODE="offline"):  # else wandb is asked for a login, and looks the host's name up
        init_arguments(folder)


def _runs() -> list[Sample]:
    return [{RUN_FILE: b'{"id": "1a2b3c4d", "name": "a", "group": ""}'}]


def _past_runs() -> list[Sample]:
    odd = [sample for sample in samples.each(_runs()[0], RUN_FILE) if sample[RUN_FILE] != samples.MISSING]
    return [{RUN_FILE: samples.DEEP.encode()}, *odd]


READERS = {
    reader.name: reader
    for reader in (
        Reader("structure", samples.structures, samples.past_structures, _structure),
        Reader("published", samples.published, samples.past_published, _published),
        Reader("checkpoint", samples.checkpoints, samples.past_checkpoints, _weights),
        Reader("detector", samples.detectors, samples.past_detectors, _weights),
        Reader(
            "lightning",
            samples.lightning,
            samples.past_lightning,
            lambda folder: AtomicCheckpointIO().load_checkpoint(folder / "last.ckpt"),
        ),
        Reader("vocoder", sounds.vocoders, sounds.past_vocoders, _generator),
        Reader("videos", samples.videos, samples.past_videos, _videos),
        Reader("predictions", samples.videos, samples.past_videos, _predictions),
        Reader("clips", sounds.clips, sounds.past_clips, _clips),
        Reader("mel", sounds.mels, sounds.past_mels, _mel),
        Reader("config", _configs, _past_configs, _config),
        Reader("wandb", _runs, _past_runs, _wandb),
        Reader("scenes", scenes.scenes, scenes.past_scenes, lambda folder: scenes.read_scenes(folder, _told)),
        Reader("series", own.series, own.past_series, lambda folder: own.read_series(folder, _told)),
        Reader("labels", own.labelled, own.past_labelled, lambda folder: own.read_labelled(folder, _told)),
        Reader("segmenting", predictions.images, predictions.past_images, predictions.segment),
        Reader("synthesis", predictions.sources, predictions.past_sources, predictions.synthesise),
        Reader("speech", predictions.speech, predictions.past_speech, predictions.score_speech),
        Reader("records", records.records, records.past_records, lambda folder: records.read_records(folder, _told)),
        Reader("found", records.found, records.past_found, records.read_found_search),
        Reader("marker", records.markers, records.past_markers, records.read_marker),
    )
}
