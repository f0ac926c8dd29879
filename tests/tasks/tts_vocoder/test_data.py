"""A fold of recordings: opened, split, and cut into segments."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from tasks.spec import DataError
from tasks.tts_vocoder.data import Clips, open_recordings, split
from tasks.tts_vocoder.recordings.clips import Shape
from tasks.tts_vocoder.segments import Cut, Cuts, Segments

RATE = 16000
SHAPE = Shape(RATE, 8000.0, loudness="as_is")


def tone(seconds=1.0, rate=RATE, hertz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path, wave, rate=RATE, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **settings)
    return path


class TestOpening:
    def test_a_bad_clip_stops_at_opening(self, tmp_path):
        for name in "abc":
            write(tmp_path / f"{name}.wav", tone())
        (tmp_path / "b.wav").write_bytes(b"RIFF")
        with pytest.raises(DataError, match=r"b\.wav: not readable"):
            open_recordings(tmp_path, SHAPE, test=1, validation=1)

    def test_log_says_what_is_done(self, tmp_path, caplog):
        for name, rate in (("a", RATE), ("b", 44100), ("c", 44100), ("d", RATE)):
            write(tmp_path / f"{name}.wav", np.stack([tone(rate=rate)] * 2, axis=1), rate)
        write(tmp_path / "d.wav", np.clip(tone(level=1.4), -1, 1))
        with caplog.at_level(logging.INFO, logger="tasks.tts_vocoder"):
            recordings = open_recordings(tmp_path, SHAPE, test=1, validation=1)
            first = caplog.text
            assert [clip.name for clip in recordings.train] == ["a", "b"]
            assert len(recordings.test[0].wave) == RATE
        assert "4 clips, 0.1 minutes, 2 at 16000 Hz, 2 at 44100 Hz (resampled to 16000 Hz), 3 with several" in first
        assert "b.wav: resampled from 44100 to 16000 Hz (and so on)" in caplog.text
        assert caplog.text.count("2 channels averaged") == 1
        assert any(r.levelname == "WARNING" and "d.wav: clipped" in r.getMessage() for r in caplog.records)


class TestSplit:
    NAMES = tuple(f"{k:02d}" for k in range(20))

    def test_ljspeech_sizes(self):
        names = [f"LJ{k:05d}" for k in range(13100)]
        train, validation, test = split(names, test=150, validation=150)
        assert len(test) == 150
        assert len(train) + len(validation) == 12950
        assert test == names[-150:]

    @pytest.mark.parametrize("fold", [1, 2, 3, 4])
    def test_parts_are_a_partition(self, fold):
        parts = split(self.NAMES, fold=fold, test=0.25, validation=3)
        assert [len(part) for part in parts] == [12, 3, 5]
        assert sorted(name for part in parts for name in part) == list(self.NAMES)
        assert parts[2] == list(self.NAMES[20 - 5 * fold : 25 - 5 * fold])

    def test_folds_test_on_everything_once(self):
        tested = [name for fold in (1, 2, 3, 4) for name in split(self.NAMES, fold=fold, test=5, validation=1)[2]]
        assert sorted(tested) == list(self.NAMES)

    @pytest.mark.parametrize("settings", [{"fold": 5}, {"fold": 0}, {"test": 15}, {"validation": 15}])
    def test_too_few(self, settings):
        with pytest.raises(ValueError, match="20 clips are not enough for fold"):
            split(self.NAMES, **{"test": 5, "validation": 5} | settings)

    def test_a_share_takes_at_least_one(self):
        assert [len(part) for part in split("abc", test=0.01, validation=0.01)] == [1, 1, 1]

    def test_some_clips(self, espeak):
        recordings = open_recordings(espeak, SHAPE, test=2, validation=2, clips=10)
        names = [name for part in ("train", "validation", "test") for name in recordings.part(part).names]
        assert len(names) == 10
        assert (names[0], names[-1]) == ("espeak-001", "espeak-084")


class TestSegments:
    @pytest.fixture
    def clips(self, tmp_path) -> Clips:
        for name, length in (("a", 100), ("b", 1000), ("c", 1001), ("d", 400), ("e", 400)):
            write(tmp_path / f"{name}.wav", np.linspace(0.1, 0.9, length), subtype="FLOAT")
        return open_recordings(tmp_path, SHAPE, test=1, validation=1).train

    def test_cuts(self, clips):
        segments = Segments(clips, 1000)
        wave = clips[2].wave
        assert segments[Cut(2, 0.0)].tolist() == wave[:1000].tolist()
        assert segments[Cut(2, 0.49)].tolist() == wave[:1000].tolist()
        assert segments[Cut(2, 0.999)].tolist() == wave[1:].tolist()
        assert segments[Cut(1, 0.999)].tolist() == clips[1].wave.tolist()

    def test_a_short_clip_is_padded_and_said_once(self, clips, caplog):
        segments = Segments(clips, 1000)
        with caplog.at_level(logging.INFO, logger="tasks.tts_vocoder.segments"):
            for _ in range(2):
                segment = segments[Cut(0, 0.7)]
        assert segment.shape == (1000,)
        assert torch.equal(segment[:100], torch.from_numpy(clips[0].wave))
        assert not segment[100:].any()
        assert caplog.text.count("a is shorter than a segment of 0.06 s and is padded") == 1

    def test_order_depends_on_seed_and_epoch_only(self):
        cuts = Cuts(5, 3, seed=1)
        first = list(cuts)
        assert len(first) == len(cuts) == 15
        assert sorted(cut.clip for cut in first) == sorted([*range(5)] * 3)
        assert all(0 <= cut.start < 1 for cut in first)
        assert list(cuts) == first
        cuts.set_epoch(1)
        assert list(cuts) != first
        cuts.set_epoch(0)
        assert list(cuts) == first
        assert list(Cuts(5, 3, seed=2)) != first
