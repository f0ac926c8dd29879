"""Reading recordings: every kind of bad input, every treatment, splits, segments."""

import logging

import numpy as np
import pytest
import soundfile
import torch

from tasks.spec import DataError
from tasks.tts_vocoder.data import (
    PEAK,
    Clips,
    Cut,
    Cuts,
    Segments,
    Shape,
    clipped_samples,
    fail,
    list_clips,
    open_recordings,
    read_clip,
    speech,
    split,
)

RATE = 16000
SHAPE = Shape(RATE, 8000.0, loudness="as_is")


def tone(seconds=1.0, rate=RATE, hertz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(path, wave, rate=RATE, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, **settings)
    return path


def read(path, shape=SHAPE):
    return read_clip(path.stem, path, shape, fail)


class TestBadClips:
    def refused(self, path, match, shape=SHAPE):
        with pytest.raises(DataError, match=match) as caught:
            read(path, shape)
        assert str(path) in str(caught.value)
        assert "; " in str(caught.value), "no mend"

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "no.wav", "not readable as audio")

    def test_empty_file(self, tmp_path):
        (tmp_path / "a.wav").write_bytes(b"")
        self.refused(tmp_path / "a.wav", r"not readable as audio \(it is empty\)")

    def test_not_audio(self, tmp_path):
        (tmp_path / "a.wav").write_text("A report on speech.")
        self.refused(tmp_path / "a.wav", "not readable as audio.*save it as WAV or FLAC")

    def test_zero_length(self, tmp_path):
        self.refused(write(tmp_path / "a.wav", np.zeros(0)), "a length of 0")

    @pytest.mark.parametrize("suffix", [".wav", ".flac"])
    def test_truncated(self, tmp_path, suffix):
        noise = np.random.default_rng(0).normal(0, 0.1, RATE)
        path = write(tmp_path / f"a{suffix}", noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        self.refused(path, "truncated")

    @pytest.mark.parametrize("level", [0.0, 9e-4])
    def test_silent(self, tmp_path, level):
        self.refused(write(tmp_path / "a.wav", tone(level=level)), "silent")

    def test_channels_that_cancel(self, tmp_path):
        wave = tone()
        self.refused(write(tmp_path / "a.wav", np.stack([wave, -wave], axis=1)), "cancel each other")

    def test_not_finite(self, tmp_path):
        wave = tone()
        wave[3:5] = np.nan
        self.refused(write(tmp_path / "a.wav", wave, subtype="FLOAT"), "2 samples are not finite")

    def test_too_low_a_rate(self, tmp_path):
        path = write(tmp_path / "a.wav", tone(rate=8000), 8000)
        self.refused(path, r"8000 Hz holds nothing above 4000 Hz.*up to 8000 Hz; record at 16000 Hz or more")
        assert len(read(path, Shape(8000, 4000.0)).wave) == 8000


class TestTreatments:
    def test_none_for_what_is_right(self, tmp_path):
        wave = tone()
        clip = read(write(tmp_path / "a.wav", wave))
        assert clip.treatments == {}
        np.testing.assert_allclose(clip.wave, wave, atol=1e-4)
        assert clip.wave.dtype == np.float32

    def test_channels_are_averaged(self, tmp_path):
        one, other = tone(hertz=300), tone(hertz=500)
        clip = read(write(tmp_path / "a.wav", np.stack([one, other], axis=1)))
        assert clip.treatments == {"channels": "2 channels averaged"}
        np.testing.assert_allclose(clip.wave, (one + other) / 2, atol=1e-4)

    @pytest.mark.parametrize("rate", [22050, 44100, 48000])
    def test_resampled(self, tmp_path, rate):
        clip = read(write(tmp_path / "a.wav", tone(rate=rate), rate))
        assert clip.treatments == {"rate": f"resampled from {rate} to {RATE} Hz"}
        assert len(clip.wave) == RATE
        middle = slice(1000, -1000)  # the filter rings at both ends
        np.testing.assert_allclose(clip.wave[middle], tone()[middle], atol=2e-3)

    def test_peak(self, tmp_path):
        clip = read(write(tmp_path / "a.wav", tone(level=0.1)), Shape(RATE, 8000.0, loudness="peak"))
        assert np.abs(clip.wave).max() == pytest.approx(PEAK)
        assert clip.treatments == {"loudness": "scaled by +19.6 dB to a peak of 0.95"}

    def test_trimmed(self, tmp_path):
        silence = np.full(RATE // 2, 1e-4, np.float32)
        wave = np.concatenate([silence, tone(), silence, silence])
        clip = read(write(tmp_path / "a.wav", wave), Shape(RATE, 8000.0, trim=True, loudness="as_is"))
        assert clip.treatments == {"trimmed": "1.30 s of silence trimmed"}  # a margin of 0.1 s stays at either end
        np.testing.assert_allclose(clip.wave, wave[int(0.4 * RATE) : int(1.6 * RATE)], atol=1e-4)
        assert speech(tone(), RATE) == (0, RATE)

    def test_clipping_is_said_and_kept(self, tmp_path):
        wave = np.clip(tone(level=1.4), -1, 1)
        path = write(tmp_path / "a.wav", wave)
        assert read(path).treatments["clipped"].startswith("clipped: ")
        assert clipped_samples(wave[:, None]) == np.count_nonzero(np.abs(wave) == 1)
        assert clipped_samples(tone(level=1.0)[:, None]) == 0
        assert clipped_samples(np.clip(tone(), -0.3, 0.3)[:, None]) == 0  # flat, but that is the sound


class TestFolder:
    def test_ljspeech_layout(self, tmp_path):
        for name in "bac":
            write(tmp_path / "wavs" / f"{name}.wav", tone())
        assert list(list_clips(tmp_path, fail)) == ["a", "b", "c"]
        (tmp_path / "metadata.csv").write_text("c|Hello.|Hello.\na|Bye|Bye\n")
        assert list(list_clips(tmp_path, fail)) == ["a", "c"]

    def test_any_folder_of_audio(self, tmp_path):
        write(tmp_path / "one" / "x.flac", tone())
        write(tmp_path / "y.wav", tone())
        (tmp_path / "._y.wav").write_bytes(b"left by a file manager")
        (tmp_path / "notes.txt").write_text("no clip")
        assert list(list_clips(tmp_path, fail)) == ["one/x", "y"]

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ("a|x\nd|Hello\n", r"metadata.csv:2: there is no clip d in .*wavs; add the file"),
            ("a|x\na|y\n", r"metadata.csv:2: a is already named in line 1"),
            ("a|x\n|y\n", r"metadata.csv:2: '\|y' names no clip"),
            ("../a|x\n", r"metadata.csv:1: '\.\./a\|x' names no clip"),
            ("", r"metadata.csv:1: no clip is named"),
        ],
    )
    def test_bad_metadata(self, tmp_path, metadata, message):
        write(tmp_path / "wavs" / "a.wav", tone())
        (tmp_path / "metadata.csv").write_text(metadata)
        with pytest.raises(DataError, match=message):
            list_clips(tmp_path, fail)

    def test_metadata_that_is_no_text(self, tmp_path):
        write(tmp_path / "wavs" / "a.wav", tone())
        (tmp_path / "metadata.csv").write_bytes(b"a|\xff\xfe\x00")
        with pytest.raises(DataError, match=r"metadata.csv: cannot be read as text"):
            list_clips(tmp_path, fail)

    def test_no_folder_and_no_clip(self, tmp_path):
        with pytest.raises(DataError, match="no such folder"):
            list_clips(tmp_path / "no", fail)
        with pytest.raises(DataError, match="there is no audio file in it"):
            list_clips(tmp_path, fail)

    def test_two_files_of_one_name(self, tmp_path):
        write(tmp_path / "a.flac", tone())
        write(tmp_path / "a.wav", tone())
        with pytest.raises(DataError, match=r"a\.wav: there is also a\.flac"):
            list_clips(tmp_path, fail)

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
        with caplog.at_level(logging.INFO, logger="tasks.tts_vocoder.data"):
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
        with caplog.at_level(logging.INFO, logger="tasks.tts_vocoder.data"):
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
