"""Settings: their help, what is refused, and what the presets stand for."""

import dataclasses

import pytest
import tyro

from tasks.tts_vocoder.config import PRESETS, Config
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.recordings import embedded


def test_published_schedule():
    c = PRESETS["ljspeech"]
    assert (c.generator, c.channels, c.recipe, c.discriminators) == ("hifi_gan_v1", None, "gan", ("period", "scale"))
    assert (c.batch, c.segment, c.segments_per_clip, c.lr, c.lr_decay) == (16, 8192, 1, 2e-4, 0.999)
    assert c.mel == MelConfig(sample_rate=22050, n_fft=1024, hop=256, window=1024, mels=80, fmin=0, fmax=8000)
    assert (c.test, c.trim, c.loudness, c.discriminator_divisor) == (150, False, "peak", 1)
    steps_per_epoch = (13100 - 150) // 16
    assert round(c.epochs * steps_per_epoch / 1e6, 1) == 2.5  # million steps


def test_spread_is_the_librarys():
    assert {config.search.spread for config in PRESETS.values()} == {0.5}


def test_quick_presets_use_the_best_embedded_speech():
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
        ({"test": 0}, "test is 0; it must be above 0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"discriminator_divisor": 3}, "discriminator_divisor is 3"),
    ],
)
def test_config_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)
