"""Data sets: folders, labels, and what is said when one is missing."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch

from tasks.spec import DataError, Split
from tasks.tts_vocoder.config import PRESETS, Config
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.task import TASK

SMALL = Config(
    mel=MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0),
    recipe="stft",
    clips=6,
    test=2,
    validation=1,
    segment=2048,
    epochs=1,
    generator="vocos",
    dim=16,
    layers=2,
)


def test_labels_say_what_is_synthetic(tmp_path):
    assert "SYNTHETIC" in TASK.data_label(Config(dataset="espeak"))
    assert "real speech" in TASK.data_label(Config(dataset="asterisk"))
    assert TASK.data_label(PRESETS["ljspeech"]) == "LJSpeech-1.1"
    assert TASK.data_label(Config(dataset="folder", root=tmp_path / "mine")) == "own recordings in mine"
    assert TASK.data_label(Config(dataset="espeak", root=tmp_path / "mine")) == "own recordings in mine"


def test_missing_release(monkeypatch, tmp_path):
    monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
    reason = TASK.unavailable(PRESETS["ljspeech"])
    for part in (str(tmp_path / "ljspeech"), "LJ-Speech-Dataset", "LJSpeech-1.1.tar.bz2", "--root"):
        assert part in reason


def test_what_is_not_the_release(espeak):
    reason = TASK.unavailable(dataclasses.replace(PRESETS["ljspeech"], root=espeak))
    assert "holds 84 clips, LJSpeech-1.1 has 13,100" in reason


def test_only_the_release_is_to_be_downloaded(tmp_path):
    reason = TASK.unavailable(dataclasses.replace(PRESETS["ljspeech"], dataset="espeak", root=tmp_path / "none"))
    assert str(tmp_path / "none") in reason
    assert "--root" in reason
    assert "LJSpeech" not in reason


def test_folder_without_root(monkeypatch, tmp_path, espeak):
    monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
    assert TASK.unavailable(PRESETS["folder"]).startswith(f"no folder {tmp_path / 'folder'}; name your recordings")
    config = dataclasses.replace(PRESETS["folder"], generator="vocos", dim=8)
    with pytest.raises(DataError, match="no such folder"):
        TASK.evaluate(TASK.build(config), config, Split("test", 1))
    (tmp_path / "folder").symlink_to(espeak)
    assert TASK.unavailable(PRESETS["folder"]) is None


def test_too_few_clips(espeak):
    reason = TASK.unavailable(dataclasses.replace(PRESETS["folder"], root=espeak, test=80, validation=10))
    assert "84 clips are not enough for fold 1 with 80 test and 10 validation" in reason


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert TASK.unavailable(PRESETS["tiny"]).startswith("packages are missing; pip install auraloss librosa")


def test_fold_that_the_config_lacks(espeak):
    config = dataclasses.replace(SMALL, root=espeak)
    with pytest.raises(ValueError, match=r"fold 9 is not one of \(1,\)"):
        TASK.evaluate(TASK.build(config), config, Split("test", 9))


def test_another_folder_is_not_the_one_before(espeak, tmp_path):
    """What is kept in memory is kept by folder."""
    config = dataclasses.replace(SMALL, root=espeak)
    torch.manual_seed(0)
    model = TASK.build(config)
    scores = TASK.evaluate(model, config, Split("test", 1))
    for number in range(6):
        noise = np.random.default_rng(number).normal(0, 0.1, 16000)
        soundfile.write(tmp_path / f"{number}.wav", noise, 16000)
    assert TASK.evaluate(model, dataclasses.replace(config, root=tmp_path), Split("test", 1)) != scores


def test_the_files_of_the_data_are_the_clips_that_are_used(tmp_path):
    (tmp_path / "wavs").mkdir()
    for number in range(10):
        (tmp_path / f"wavs/{number}.wav").touch()
    (tmp_path / "README.md").touch()
    config = dataclasses.replace(PRESETS["folder"], root=tmp_path)
    found = TASK.data_files(config)
    assert (found.root, found.labels, found.own) == (tmp_path, (), True)
    assert set(found.inputs) == {tmp_path / f"wavs/{number}.wav" for number in range(10)}
    (tmp_path / "metadata.csv").write_text("".join(f"{number}|a text\n" for number in range(8)))
    assert len(TASK.data_files(config).inputs) == 8
    some = TASK.data_files(dataclasses.replace(config, clips=3))
    assert [path.stem for path in some.inputs] == ["0", "4", "7"]  # 0, 3.5 and 7, rounded to even


def test_only_recordings_without_a_name_are_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
    for name in ("espeak", "asterisk"):
        assert TASK.data_files(Config(dataset=name)) is None
        assert TASK.data_files(Config(dataset=name, root=tmp_path)).own
    assert not TASK.data_files(PRESETS["ljspeech"]).own
    assert TASK.data_files(PRESETS["folder"]).own


def test_changed_recordings_are_read_anew(tmp_path):
    for number in range(6):
        noise = np.random.default_rng(number).normal(0, 0.1, 16000)
        soundfile.write(tmp_path / f"{number}.wav", noise, 16000)
    config = dataclasses.replace(SMALL, root=tmp_path)
    torch.manual_seed(0)
    model = TASK.build(config)
    before = TASK.evaluate(model, config, Split("test", 1))
    soundfile.write(tmp_path / "5.wav", np.sin(np.arange(16000) / 9) / 2, 16000)
    assert TASK.evaluate(model, config, Split("test", 1)) != before
