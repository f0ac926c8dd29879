"""The task's config, data and presets; the contract that all tasks share is in test_contract.py."""

import dataclasses

import numpy as np
import pytest
import soundfile
import torch
import tyro

import tasks
from rfnext import Structure
from tasks.spec import DataError, Run, Split
from tasks.tts_vocoder import embedded
from tasks.tts_vocoder.mel import MelConfig
from tasks.tts_vocoder.task import PRESETS, TASK, Config

SMALL = {
    "mel": MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0),
    "recipe": "stft",
    "clips": 6,
    "test": 2,
    "validation": 1,
    "segment": 2048,
    "epochs": 1,
}
GENERATORS = {
    "hifi_gan_v1": {"channels": 16, "upsampling": (8, 8)},
    "parallel_wavegan": {"layers": 3, "upsampling": (8, 8)},
    "vocos": {"dim": 16, "layers": 2},
}


def test_is_what_the_folder_name_loads():
    assert tasks.load("tts_vocoder") is TASK
    assert TASK.metrics[0].name == "mel_l1"
    assert not TASK.metrics[0].higher_is_better


def test_published_schedule():
    c = PRESETS["ljspeech"]
    assert (c.generator, c.channels, c.recipe, c.discriminators) == ("hifi_gan_v1", None, "gan", ("period", "scale"))
    assert (c.batch, c.segment, c.segments_per_clip, c.lr, c.lr_decay) == (16, 8192, 1, 2e-4, 0.999)
    assert c.mel == MelConfig(sample_rate=22050, n_fft=1024, hop=256, window=1024, mels=80, fmin=0, fmax=8000)
    assert (c.test, c.trim, c.loudness, c.discriminator_divisor) == (150, False, "peak", 1)
    steps_per_epoch = (13100 - 150) // 16
    assert round(c.epochs * steps_per_epoch / 1e6, 1) == 2.5  # million steps


def test_labels_say_what_is_synthetic(tmp_path):
    assert "SYNTHETIC" in TASK.data_label(Config(dataset="espeak"))
    assert "real speech" in TASK.data_label(Config(dataset="asterisk"))
    assert TASK.data_label(PRESETS["ljspeech"]) == "LJSpeech-1.1"
    assert TASK.data_label(Config(dataset="folder", root=tmp_path / "mine")) == "own recordings in mine"
    assert TASK.data_label(Config(dataset="espeak", root=tmp_path / "mine")) == "own recordings in mine"
    assert {PRESETS[name].dataset for name in ("tiny", "small")} == {embedded.best_source()}


def test_every_field_has_a_help_text(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
    arguments = ["--root", "x", "--mel.sample-rate", "16000", "--generator", "vocos", "--dim", "64", "--test", "0.2"]
    config = tyro.cli(Config, args=arguments)
    assert (str(config.root), config.mel.sample_rate, config.sizes, config.test) == ("x", 16000, {"dim": 64}, 0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"generator": "wavenet"}, "unknown generator 'wavenet'; known: hifi_gan_v1"),
        ({"recipe": "gann"}, "unknown recipe 'gann'; known: stft, gan"),
        ({"dataset": "vctk"}, "unknown dataset 'vctk'"),
        ({"discriminators": ("time",)}, "discriminators are"),
        ({"segment": 8000}, "segment is 8000; it must be a multiple of the mel's hop, 256"),
        ({"segment": 1024}, "at least 2048"),
        ({"test": 0}, "both must be above 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"discriminator_divisor": 3}, "discriminator_divisor is 3"),
    ],
)
def test_config_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


def test_sizes_that_the_generator_lacks():
    with pytest.raises(ValueError, match="vocos has no size 'channels'; it has: dim, layers"):
        TASK.build(Config(generator="vocos", channels=8))


def test_mel_that_does_not_fit_the_generator():
    with pytest.raises(ValueError, match=r"makes 256 samples of a frame, but the mel configuration has hop 128"):
        TASK.build(Config(mel=MelConfig(hop=128)))


class TestData:
    def test_missing_release(self, monkeypatch, tmp_path):
        monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
        reason = TASK.unavailable(PRESETS["ljspeech"])
        for part in (str(tmp_path / "ljspeech"), "LJ-Speech-Dataset", "LJSpeech-1.1.tar.bz2", "--root"):
            assert part in reason

    def test_what_is_not_the_release(self, espeak):
        reason = TASK.unavailable(dataclasses.replace(PRESETS["ljspeech"], root=espeak))
        assert "holds 84 clips, LJSpeech-1.1 has 13,100" in reason

    def test_folder_without_root(self, monkeypatch, tmp_path, espeak):
        monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
        assert TASK.unavailable(PRESETS["folder"]).startswith(f"no folder {tmp_path / 'folder'}; name your recordings")
        config = dataclasses.replace(PRESETS["folder"], generator="vocos", dim=8)
        with pytest.raises(DataError, match="no such folder"):
            TASK.evaluate(TASK.build(config), config, Split("test", 1))
        (tmp_path / "folder").symlink_to(espeak)
        assert TASK.unavailable(PRESETS["folder"]) is None

    def test_too_few_clips(self, espeak):
        reason = TASK.unavailable(dataclasses.replace(PRESETS["folder"], root=espeak, test=80, validation=10))
        assert "84 clips are not enough for fold 1 with 80 test and 10 validation" in reason

    def test_missing_package(self, monkeypatch, tmp_path):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert TASK.unavailable(PRESETS["tiny"]).startswith("packages are missing; pip install auraloss librosa")

    def test_fold_that_the_config_lacks(self, espeak):
        config = Config(root=espeak, generator="vocos", **GENERATORS["vocos"], **SMALL)
        with pytest.raises(ValueError, match=r"fold 9 is not one of \(1,\)"):
            TASK.evaluate(TASK.build(config), config, Split("test", 9))

    def test_training_never_reads_the_test_part(self, espeak, tmp_path):
        """Test clips are silent, which is an error for whoever reads them."""
        root = tmp_path / "data"
        (root / "wavs").mkdir(parents=True)
        for number in range(1, 7):
            source, rate = soundfile.read(espeak / "wavs" / f"espeak-{number:03d}.wav")
            soundfile.write(root / "wavs" / f"{number}.wav", source if number < 5 else 0 * source, rate)
        config = Config(dataset="folder", root=root, generator="vocos", **GENERATORS["vocos"], **SMALL)
        model = TASK.build(config)
        (tmp_path / "run").mkdir()
        TASK.fit(model, config, Run(seed=0, fold=1, folder=tmp_path / "run", device="cpu"))
        TASK.evaluate(model, config, Split("validation", 1))
        with pytest.raises(DataError, match=r"5\.wav: silent"):
            TASK.evaluate(model, config, Split("test", 1))


@pytest.mark.parametrize("name", GENERATORS)
def test_builds_trains_and_scores_every_generator(espeak, tmp_path, name):
    config = Config(root=espeak, generator=name, **GENERATORS[name], **SMALL)
    model = TASK.build(config)
    assert Structure.read(model, TASK.where)
    TASK.fit(model, config, Run(seed=0, fold=1, folder=tmp_path, device="cpu"))
    scores = TASK.evaluate(model, config, Split("test", 1))
    assert 0 < scores["mel_l1"] < 5
    assert TASK.evaluate(model, config, Split("test", 1)) == scores


def test_pictures(espeak, tmp_path):
    config = Config(root=espeak, generator="vocos", **GENERATORS["vocos"], **SMALL)
    model = TASK.build(config)
    (path,) = TASK.illustrate(model, config, Split("test", 1), tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    (other,) = TASK.illustrate(model, config, Split("validation", 1), tmp_path)
    assert other != path
    with pytest.raises(TypeError, match="Conv1d is no generator"):
        TASK.illustrate(torch.nn.Conv1d(1, 1, 1), config, Split("test", 1), tmp_path)


def test_another_folder_is_not_the_one_before(espeak, tmp_path):
    """What is kept in memory is kept by folder."""
    config = Config(root=espeak, generator="vocos", **GENERATORS["vocos"], **SMALL)
    torch.manual_seed(0)
    model = TASK.build(config)
    scores = TASK.evaluate(model, config, Split("test", 1))
    for number in range(6):
        noise = np.random.default_rng(number).normal(0, 0.1, 16000)
        soundfile.write(tmp_path / f"{number}.wav", noise, 16000)
    assert TASK.evaluate(model, dataclasses.replace(config, root=tmp_path), Split("test", 1)) != scores


def test_trains_on_real_recordings(shared, tmp_path):
    root = shared / "data" / "speech" / "ljspeech_mini"
    if not root.is_dir():
        pytest.skip(f"no {root.name} in shared/")
    settings = SMALL | {"clips": None, "epochs": 2, "segments_per_clip": 4, "batch": 8}
    config = Config(dataset="folder", root=root, generator="vocos", dim=64, layers=3, lr=5e-3, **settings)
    assert TASK.unavailable(config) is None
    torch.manual_seed(0)
    model = TASK.build(config)
    before = TASK.evaluate(model, config, Split("validation", 1))["mel_l1"]
    TASK.fit(model, config, Run(seed=0, fold=1, folder=tmp_path, device="cpu"))
    assert TASK.evaluate(model, config, Split("validation", 1))["mel_l1"] < 0.8 * before
