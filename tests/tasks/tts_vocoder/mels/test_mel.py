"""Log-mels against librosa, and the configuration that travels with a generator."""

import dataclasses
import json
import math

import numpy as np
import pytest
import soundfile
import torch

from tasks.tts_vocoder.mels.compiled_librosa import compiled
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig, check_same

librosa = compiled()

CONFIGS = [
    MelConfig(),
    MelConfig(fmax=None),
    MelConfig(sample_rate=16000, n_fft=800, hop=200, window=640, mels=40, fmin=55.0, fmax=7600.0),
    MelConfig(sample_rate=22050, n_fft=2048, hop=275, window=1100),  # an odd number of samples to reflect
]


def by_librosa(wave: np.ndarray, c: MelConfig) -> np.ndarray:
    """HiFi-GAN's recipe, step by step, in double precision."""
    before = (c.n_fft - c.hop) // 2
    padded = np.pad(wave.astype(np.float64), (before, c.n_fft - c.hop - before), mode="reflect")
    spectrum = librosa.stft(
        padded, n_fft=c.n_fft, hop_length=c.hop, win_length=c.window, window="hann", center=False, dtype=np.complex128
    )
    bands = librosa.filters.mel(sr=c.sample_rate, n_fft=c.n_fft, n_mels=c.mels, fmin=c.fmin, fmax=c.fmax)
    return np.log(np.maximum(bands @ np.sqrt(np.abs(spectrum) ** 2 + 1e-9), 1e-5))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.sample_rate}-{c.n_fft}-{c.hop}-{c.fmax}")
@pytest.mark.parametrize("extra", [0, 1, 199])
def test_equals_librosa(config, extra):
    rng = np.random.default_rng(0)
    waves = 0.3 * rng.standard_normal((2, 20 * config.hop + extra)).astype(np.float32)
    found = LogMel(config)(torch.from_numpy(waves))
    assert found.shape == (2, config.mels, 20)
    expected = np.stack([by_librosa(wave, config) for wave in waves])
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=1e-4)


def test_equals_librosa_on_speech(shared):
    wave, rate = soundfile.read(sorted((shared / "data/speech/ljspeech_mini/wavs").glob("*.wav"))[0], dtype="float32")
    assert rate == 22050
    found = LogMel(MelConfig())(torch.from_numpy(wave)[None])[0]
    expected = torch.from_numpy(by_librosa(wave, MelConfig()))
    assert found.shape == (80, len(wave) // 256)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)
    assert found.std() > 1


class TestConventions:
    """Mels of other published networks, in the middle of the wave; at its ends the packages reflect more."""

    WAVE = 0.3 * np.random.default_rng(1).standard_normal(40 * 256).astype(np.float32)

    def test_vocos_is_torchaudio(self):
        torchaudio = pytest.importorskip("torchaudio")
        config = MelConfig(sample_rate=24000, mels=100, fmax=None, floor=1e-7, convention="vocos")
        transform = torchaudio.transforms.MelSpectrogram(24000, n_fft=1024, hop_length=256, n_mels=100, power=1)
        expected = transform(torch.from_numpy(self.WAVE[128:])).clamp(min=1e-7).log()  # half a hop later
        found = LogMel(config)(torch.from_numpy(self.WAVE)[None])[0]
        assert found.shape == (100, 40)
        torch.testing.assert_close(found[:, 4:35], expected[:, 4:35], rtol=0, atol=1e-5)

    def test_vocos_filters_are_htks(self):
        config = MelConfig(sample_rate=24000, mels=100, fmax=None, floor=1e-7, convention="vocos")
        bands = librosa.filters.mel(sr=24000, n_fft=1024, n_mels=100, htk=True, norm=None)
        spectrum = librosa.stft(self.WAVE[128:].astype(np.float64), n_fft=1024, hop_length=256, dtype=np.complex128)
        pytest.importorskip("torchaudio")
        found = LogMel(config)(torch.from_numpy(self.WAVE)[None])[0].double().numpy()
        # torchaudio computes its filters in float32.
        np.testing.assert_allclose(found[:, 4:35], np.log(bands @ np.abs(spectrum))[:, 4:35], rtol=0, atol=2e-5)

    def test_parallel_wavegan_is_librosa(self):
        config = MelConfig(fmin=80.0, fmax=7600.0, floor=1e-10, convention="parallel_wavegan")
        settings = {"n_fft": 1024, "hop_length": 256, "n_mels": 80, "fmin": 80, "fmax": 7600, "power": 1}
        mel = librosa.feature.melspectrogram(y=self.WAVE, sr=22050, pad_mode="reflect", **settings)
        found = LogMel(config)(torch.from_numpy(self.WAVE)[None])[0].numpy()
        assert found.shape == (80, 40)
        np.testing.assert_allclose(found[:, :36], np.log10(mel)[:, :36], rtol=0, atol=1e-5)  # frame 0, too

    @pytest.mark.parametrize("convention", ["vocos", "parallel_wavegan"])
    def test_silence_has_a_gradient(self, convention):
        if convention == "vocos":
            pytest.importorskip("torchaudio")
        config = MelConfig(floor=1e-10, convention=convention)
        wave = torch.zeros(1, 4096, requires_grad=True)
        mel = LogMel(config)(wave)
        assert mel.unique().item() == pytest.approx(config.silence)
        mel.sum().backward()
        assert wave.grad is not None
        assert wave.grad.isfinite().all()

    def test_it_travels(self):
        config = MelConfig(convention="vocos")
        assert MelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert "convention" not in MelConfig().to_dict()
        with pytest.raises(ValueError, match="convention hifi_gan against vocos"):
            check_same(MelConfig(), config)
        with pytest.raises(ValueError, match="unknown convention 'librosa'"):
            MelConfig.from_dict(MelConfig().to_dict() | {"convention": "librosa"})
        assert config.compared == MelConfig()


def test_known_signals():
    config = MelConfig()
    log_mel = LogMel(config)
    assert (log_mel(torch.zeros(1, 8192)) == math.log(1e-5)).all()
    seconds = torch.arange(8192) / config.sample_rate
    tone = log_mel(torch.sin(2 * math.pi * 1000 * seconds)[None])[0, :, 4:-4]
    centres = librosa.mel_frequencies(82, fmin=0, fmax=8000)[1:-1]
    assert (tone.argmax(0) == int(np.abs(centres - 1000).argmin())).all()
    # Frame f is centred on hop f + hop / 2.
    click = torch.zeros(1, 8192)
    click[0, 10 * 256 + 128] = 1
    assert log_mel(click)[0].mean(0).argmax() == 10


def test_the_gradient_is_finite_at_silence():
    wave = torch.zeros(1, 4096, requires_grad=True)
    LogMel(dataclasses.replace(MelConfig(), floor=1e-12))(wave).sum().backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_half_precision_around_it_changes_nothing():
    wave = 0.1 * torch.randn(1, 4096)
    log_mel = LogMel(MelConfig())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mel(wave), log_mel(wave.float()))
        assert log_mel(wave).dtype == torch.float32


@pytest.mark.parametrize("shape", [(8192,), (1, 1, 8192), (1, 384), (1, 0)])
def test_waves_that_do_not_fit(shape):
    with pytest.raises(ValueError, match=r"wave must be \(B, T\) with T of at least 385"):
        LogMel(MelConfig())(torch.zeros(shape))


def test_the_shortest_wave():
    assert LogMel(MelConfig())(torch.zeros(1, 385)).shape == (1, 80, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hop": 0}, "hop is 0"),
        ({"mels": 80.0}, "mels is 80.0"),
        ({"n_fft": 512}, "at most n_fft"),
        ({"window": 128}, "at least the hop"),
        ({"fmax": 12000.0}, "11025.0 Hz, half the sample rate"),
        ({"fmin": 9000.0}, "bands from 9000.0 to 8000.0"),
        ({"fmax": math.nan}, "bands from 0.0 to nan"),
        ({"floor": 0.0}, "floor is 0.0"),
    ],
)
def test_settings_that_make_no_mel(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(MelConfig(), **change)


def test_too_many_bands():
    with pytest.raises(ValueError, match="400 mel bands .* take fewer mels or a larger n_fft"):
        LogMel(MelConfig(mels=400))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.sample_rate}-{c.hop}-{c.fmax}")
def test_round_trip(config):
    assert MelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hop": 256}, "a mel configuration has the entries"),
        (MelConfig().to_dict() | {"hop_length": 256}, "hop_length"),
        ([1, 2], "a mel configuration has the entries"),
        (MelConfig().to_dict() | {"hop": None}, "hop of the mel configuration is None"),
        (MelConfig().to_dict() | {"fmin": "0"}, "fmin of the mel configuration is '0'"),
        (MelConfig().to_dict() | {"hop": -1}, "hop is -1"),
    ],
)
def test_dicts_that_are_no_configuration(values, message):
    with pytest.raises(ValueError, match=message):
        MelConfig.from_dict(values)


def test_a_mismatch_names_both_values():
    check_same(MelConfig(), MelConfig())
    check_same(MelConfig(fmax=None), MelConfig(fmax=11025.0))
    with pytest.raises(ValueError, match="that of mel.npy: hop 256 against 300, fmax 8000.0 against 11025.0"):
        check_same(MelConfig(), MelConfig(hop=300, fmax=None), "mel.npy")
