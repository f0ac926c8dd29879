"""Mels beside recordings: what does not belong to them is refused, and a training and its scores are on them."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from rfnext import Bounds, LocalConfig, LocalSearch
from tasks.findings import Findings
from tasks.spec import DataError, Run, Split, fail
from tasks.tts_vocoder import check
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.data import open_recordings
from tasks.tts_vocoder.evaluation import copy_synthesis, evaluate, synthesise
from tasks.tts_vocoder.generators import searched
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.mels.predicted import Predicted
from tasks.tts_vocoder.recordings.clips import Shape
from tasks.tts_vocoder.segments import Cut, Segments
from tasks.tts_vocoder.task import TASK

MEL = MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0)


@pytest.fixture
def folder(espeak, tmp_path):
    """Six recordings at 8 kHz, and mels of them that are smoothed, as predicted ones are, in mels/."""
    (tmp_path / "mels").mkdir()
    for number in range(1, 7):
        wave, rate = soundfile.read(espeak / "wavs" / f"espeak-00{number}.wav", dtype="float32")
        soundfile.write(tmp_path / f"c{number}.wav", wave, rate)
        clip = open_clip(tmp_path / f"c{number}.wav")
        mel = torch.nn.functional.avg_pool1d(LogMel(MEL)(torch.from_numpy(clip)[None]), 3, 1, 1)[0]
        np.save(tmp_path / "mels" / f"c{number}.npy", mel.numpy())
    return tmp_path


def open_clip(path):
    from tasks.tts_vocoder.recordings.clips import read_clip

    clip = read_clip(path.stem, path, Shape(8000, 4000.0, loudness="as_is"), fail)
    assert clip is not None
    return clip.wave


def shape(folder):
    return Shape(8000, 4000.0, loudness="as_is", mels=Predicted(folder / "mels", MEL))


def opened(folder):
    return open_recordings(folder, shape(folder), test=1, validation=1)


class TestReading:
    def test_segments_are_aligned(self, folder):
        clips = opened(folder).train
        mel, wave = np.load(folder / "mels" / "c2.npy"), clips[1].wave
        for start in (0.0, 0.3, 0.999):
            cut, frames = Segments(clips, 2048)[Cut(1, start)]
            first = int(start * (mel.shape[1] - 32 + 1))
            assert np.array_equal(frames, mel[:, first : first + 32])
            assert np.array_equal(cut, wave[first * 64 : first * 64 + 2048])

    @pytest.mark.parametrize("more", [-2, -1, 1, 2])
    def test_a_frame_or_two(self, folder, more):
        path = folder / "mels" / "c1.npy"
        mel = np.load(path)
        np.save(path, mel[:, :more] if more < 0 else np.pad(mel, ((0, 0), (0, more)), mode="edge"))
        clip = opened(folder).train[0]
        assert clip.mel is not None
        assert len(clip.wave) == 64 * clip.mel.shape[1] == 64 * (mel.shape[1] + min(more, 0))

    def test_shorter_than_a_segment(self, folder):
        clips = opened(folder).train
        length = 64 * 2000
        wave, mel = Segments(clips, length)[Cut(0, 0.5)]
        assert (wave.shape, mel.shape) == ((length,), (20, 2000))
        assert mel[:, -1].tolist() == pytest.approx([np.log(1e-5)] * 20)

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (lambda mel: mel[:, :-3], r"frames for a recording of .* frames|frames for a recording of"),
            (lambda mel: mel.T, "transpose"),
            (lambda mel: mel / np.log(10) - 8, "in|look like"),
            (lambda mel: mel * 20 / np.log(10), "decibels"),
            (lambda mel: mel * np.nan, "not finite"),
        ],
    )
    def test_others_are_refused(self, folder, edit, message):
        path = folder / "mels" / "c1.npy"
        np.save(path, edit(np.load(path)))
        with pytest.raises(DataError, match=rf"c1\.npy: .*({message})"):
            opened(folder).train[0]
        report = Findings()
        check.check(folder, shape(folder), report)
        assert [problem.path for problem in report.problems] == [path]

    def test_missing(self, folder):
        (folder / "mels" / "c5.npy").unlink()
        with pytest.raises(DataError, match=r"c5\.npy: no such mel; predict one for every recording"):
            opened(folder)

    def test_recordings_must_stay_as_they_are(self, folder):
        for changes in ({"trim": True, "loudness": "as_is"}, {"trim": False, "loudness": "peak"}):
            with pytest.raises(ValueError, match="give --no-trim --loudness as_is"):
                Config(mels=folder / "mels", **changes)


def test_the_input_is_the_mel_beside_the_recording(folder):
    clips = opened(folder).test
    torch.manual_seed(0)
    model = TASK.build(Config(mel=MEL, channels=16, upsampling=(8, 8), generator="hifi_gan_v3"))
    truth, output = next(copy_synthesis(model, clips))
    assert np.array_equal(truth, clips[0].wave)
    mel = torch.from_numpy(np.load(folder / "mels" / "c6.npy"))[None]
    assert np.array_equal(output, synthesise(model, mel)[0].numpy())


def test_training(folder, tmp_path_factory):
    config = Config(
        dataset="folder", root=folder, mels=folder / "mels", loudness="as_is", test=1, validation=1, mel=MEL,
        generator="hifi_gan_v3", channels=16, upsampling=(8, 8), recipe="stft", epochs=3, batch=2, segment=2048,
        lr=3e-3, segments_per_clip=2, search=LocalConfig(interval=1, rounds=2, bounds=Bounds(1, 16)),
    )  # fmt: skip
    torch.manual_seed(0)
    model = TASK.build(config)
    before = evaluate(model, config, Split("test", 1))
    search = LocalSearch(model, config.search, searched)
    run = Run(seed=0, fold=1, folder=tmp_path_factory.mktemp("run"), search=search, device="cpu")
    TASK.fit(model, config, run)
    assert evaluate(model, config, Split("test", 1))["mel_l1"] < before["mel_l1"]
    assert len(search.history) == 2


def test_records_know_the_mels(folder):
    config = Config(mels=folder / "mels", loudness="as_is")
    np.save(folder / "mels" / "c1.npy", np.load(folder / "mels" / "c2.npy"))
    changed = Config(mels=folder / "mels", loudness="as_is")
    assert config.mels_fingerprint != changed.mels_fingerprint
    gone = dataclasses.replace(changed, mels=None)
    assert f"needs the mels of fingerprint {changed.mels_fingerprint}" in (TASK.unavailable(gone) or "")
