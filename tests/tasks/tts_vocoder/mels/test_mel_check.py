"""Mels of other conventions, made by librosa or by hand, are refused; whatever a recording may sound like is not."""

import math
import re

import numpy as np
import pytest
import soundfile
import torch

from tasks.tts_vocoder.mels.compiled_librosa import compiled
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.mels.mel_check import shape_fault, value_fault

librosa = compiled()
MEL = MelConfig()
TEN = math.log(10)
FILTERS = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmax=8000)
OTHER_FILTERS = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmax=8000, htk=True, norm=None)


def natural(wave):
    return LogMel(MEL)(torch.from_numpy(np.asarray(wave, dtype=np.float32))[None])[0].numpy()


def spectrum(wave):
    padded = np.pad(wave.astype(np.float64), 384, mode="reflect")
    return np.abs(librosa.stft(padded, n_fft=1024, hop_length=256, center=False))


def scaled(values):
    """Values from 0 to 1."""
    return (values - values.min()) / np.ptp(values)


# Convention -> what the message names, and the mel of it from a spectrum.
FOREIGN = {
    "log10": ("base 10.*multiply by ln 10", lambda s: np.log10(np.maximum(FILTERS @ s, 1e-5))),
    "log10 of a lower floor": ("base 10", lambda s: np.log10(np.maximum(FILTERS @ s, 1e-10))),
    "decibel": (r"decibels \(20 log10\).*ln\(10\) / 20", lambda s: 20 * np.log10(np.maximum(FILTERS @ s, 1e-5))),
    "below the loudest": ("below the loudest", lambda s: librosa.power_to_db(FILTERS @ s**2, ref=np.max)),
    "floor 1e-9": (r"floor of 1e-09.*numpy\.maximum", lambda s: np.log(np.maximum(FILTERS @ (s * (s > 1)), 1e-9))),
    "floor 1e-3": ("floor of 1e-03", lambda s: np.log(np.maximum(FILTERS @ s, 1e-3))),
    "standardised": ("standardised", lambda s: (m := np.log(FILTERS @ s) - np.log(FILTERS @ s).mean()) / m.std()),
    "0 to 1": ("scale from 0 to 1", lambda s: scaled(np.log(FILTERS @ s))),
    "-1 to 1": ("scale from -1 to 1", lambda s: 2 * scaled(np.log(FILTERS @ s)) - 1),
    "-4 to 4": ("scale from -4 to 4", lambda s: 8 * scaled(np.log(FILTERS @ s)) - 4),
    "magnitudes": ("no logarithms.*numpy.log", lambda s: FILTERS @ s),
    "powers": ("no logarithms", lambda s: FILTERS @ s**2),
    "logarithms of powers": ("of powers", lambda s: np.log(np.maximum(FILTERS @ s**2, 1e-10))),
    "integer samples": ("above full scale", lambda s: np.log(np.maximum(FILTERS @ (32768 * s), 1e-5))),
    "other filters": ("above full scale", lambda s: np.log(np.maximum(OTHER_FILTERS @ s, 1e-5))),
    "padded by zeros": ("in all bands: padding", lambda s: np.pad(np.log(FILTERS @ s), ((0, 0), (0, 5)))),
}


@pytest.fixture
def speech(shared):
    """Five of the recordings, of 1.5 to 10 s."""
    paths = sorted((shared / "data/speech/ljspeech_mini/wavs").glob("*.wav"))[::5]
    return [soundfile.read(path)[0] for path in paths]


@pytest.mark.parametrize("name", FOREIGN)
def test_other_conventions_of_speech(name, speech):
    named, make = FOREIGN[name]
    for wave in speech:
        fault = value_fault(make(spectrum(wave)).astype(np.float32), MEL)
        assert fault is not None
        assert re.search(named, "; ".join(fault))


def test_speech_of_any_level(speech):
    for wave in speech:
        for gain in (1e-3, 0.01, 0.1, 1, 3, 10, 100):
            assert value_fault(natural(np.clip(gain * wave, -1, 1)), MEL) is None
        mel = natural(wave)
        for frames in (1, 2, 3, 8, 40):
            for start in range(0, mel.shape[1] - frames, 40):
                assert value_fault(mel[:, start : start + frames], MEL) is None


def test_generators_of_other_conventions(speech):
    config = MelConfig(fmin=80.0, fmax=7600.0, floor=1e-10, convention="parallel_wavegan")
    for wave in speech:
        mel = LogMel(config)(torch.from_numpy(wave.astype(np.float32))[None])[0].numpy()
        assert value_fault(mel, config) is None
        assert "natural logarithms" in (value_fault(mel * TEN, config) or [""])[0]
        for other in (20 * mel, (mel - mel.mean()) / mel.std(), np.exp(mel)):
            assert "another convention" in (value_fault(other, config) or [""])[0]


SECONDS = np.arange(2 * 22050) / 22050
NOISE = np.random.default_rng(0).standard_normal(len(SECONDS))
CHORD = sum(np.sin(2 * np.pi * f * k * SECONDS + f * k) / k for f in (110, 165, 220, 277) for k in range(1, 12)) / 5


@pytest.mark.parametrize(
    "wave",
    [
        0 * NOISE,
        np.sign(NOISE),
        1e-3 * NOISE,
        np.clip(NOISE, -1, 1),
        np.clip(10 * CHORD, -1, 1),
        np.clip(0.3 * CHORD + 0.01 * NOISE, -1, 1),
        np.sign(np.sin(2 * np.pi * 100 * SECONDS)),
        np.sin(2 * np.pi * 1000 * SECONDS),
        0.5 * (np.diff(np.floor(100 * SECONDS), prepend=0) > 0),
        np.ones_like(NOISE),
        0.1 * NOISE * (np.sin(2 * np.pi * 3 * SECONDS) > 0),
        0.3 * NOISE * np.exp(-4 * SECONDS),
    ],
    ids=[
        "silence",
        "binary",
        "quiet",
        "noise",
        "music",
        "hum",
        "square",
        "sine",
        "pulses",
        "constant",
        "bursts",
        "fade",
    ],
)
def test_sounds_that_are_no_speech(wave):
    assert value_fault(natural(wave), MEL) is None


def test_what_has_no_structure():
    values = np.maximum(np.random.default_rng(0).normal(-5, 2, (80, 120)), math.log(1e-5))
    assert value_fault(values, MEL) is None
    for other, named in (
        (values / TEN, "base 10 with a floor of 1e-05"),
        (values * 20 / TEN, "decibels"),
        (np.where(values == values.min(), -20.7, values), "natural logarithms with a floor of 1e-09"),
        ((values - values.mean()) / values.std(), "standardised"),
    ):
        assert named in (value_fault(other.astype(np.float32), MEL) or [""])[0]


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((120, 80), r"(frames, mels): save its transpose, mel.T"),
        ((1, 80, 120), "save its first entry, mel[0]"),
        ((513, 120), "513 are the frequencies of a linear spectrogram"),
        ((120, 513), "513 are the frequencies of a linear spectrogram"),
        ((100, 120), "holds 100 bands of 120 frames; the generator takes 80 bands"),
        ((80, 0), "of shape (80, 0)"),
        ((80,), "of shape (80,)"),
    ],
)
def test_shapes(shape, message):
    assert message in "; ".join(shape_fault(np.zeros(shape, np.float32), MEL) or ())


def test_types():
    assert shape_fault(np.zeros((80, 3), np.float16), MEL) is None
    for kind in (np.int16, np.complex64, np.bool_):
        assert np.dtype(kind).name in (shape_fault(np.zeros((80, 3), kind), MEL) or "")[0]
