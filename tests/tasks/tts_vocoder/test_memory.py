"""The clips that are kept in memory: those that fit into this process's part of `CACHE_BYTES`."""

import numpy as np
import pytest
import soundfile

from tasks import sharing
from tasks.tts_vocoder import data
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.data import Recordings, open_recordings
from tasks.tts_vocoder.datasets import open_fold
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.recordings.clips import Shape

SHAPE = Shape(16000, 8000.0, loudness="as_is")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for number in range(10):
        soundfile.write(tmp_path / f"clip{number}.wav", np.linspace(0.1, 0.9, 1000), 16000, subtype="FLOAT")
    monkeypatch.setattr(data, "CACHE_BYTES", 6 * 4 * 1000)  # six clips of 1,000 samples in float32
    return tmp_path


def kept(recordings: Recordings) -> int:
    clips = [recordings.train, recordings.validation, recordings.test]
    return sum(part[index] is part[index] for part in clips for index in range(len(part)))


@pytest.mark.parametrize(("processes", "expected"), [(1, 6), (2, 3), (3, 2), (7, 0)])
def test_processes_of_one_run_share_what_one_alone_keeps(folder, processes, expected):
    with sharing.among(processes):
        recordings = open_recordings(folder, SHAPE, test=1, validation=1)
    assert kept(recordings) == expected


def test_processes_that_cut_segments_count(folder):
    for workers, expected in ((0, 6), (2, 2)):
        config = Config(
            dataset="folder",
            root=folder,
            mel=MelConfig(sample_rate=16000),
            test=1,
            validation=1,
            loudness="as_is",
            workers=workers,
        )
        assert kept(open_fold(config, 1)) == expected
