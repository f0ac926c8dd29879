"""The source-filter network: pulses against a sum of cosines, its fundamental against known ones, its wave against the
definition."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from tasks.tts_vocoder import metrics
from tasks.tts_vocoder.generators import SourceFilter
from tasks.tts_vocoder.generators.pitch import Pitch
from tasks.tts_vocoder.generators.source_filter import interpolation, pulse_train
from tasks.tts_vocoder.mels.log_mel import LogMel, filters
from tasks.tts_vocoder.mels.mel import MelConfig
from tests.no_float64 import NoFloat64

MEL = MelConfig(sample_rate=16000)


def vowel(f0: np.ndarray) -> np.ndarray:
    """An "a": harmonics of a contour (Hz, one value per sample), through three resonances."""
    wave = np.zeros(len(f0))
    for k in range(1, 60):
        wave += np.cos(2 * np.pi * k * np.cumsum(f0 / 16000)) * (k * f0 < 7600)
    for frequency, width in ((700, 110), (1220, 120), (2600, 160)):
        radius = math.exp(-math.pi * width / 16000)
        cosine = 2 * radius * math.cos(2 * math.pi * frequency / 16000)
        wave = np.asarray(lfilter([1 - cosine + radius**2], [1, -cosine, radius**2], wave))
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


CONTOURS = {
    "low": np.full(16000, 85.0),
    "middle": np.full(16000, 147.0),
    "high": np.full(16000, 310.0),
    "rising": np.geomspace(100.0, 200.0, 16000),
}


@pytest.mark.parametrize("name", CONTOURS)
def test_pitch_finds_the_fundamental_of_a_vowel(name):
    contour = CONTOURS[name]
    found = Pitch(MEL)(LogMel(MEL)(torch.from_numpy(vowel(contour))[None]))[0].numpy()
    true = contour[128::256][: len(found)]
    cents = 1200 * np.log2(found / true)[3:-3]
    assert np.sqrt(np.square(cents).mean()) < 30


@pytest.mark.parametrize("name", ["middle", "rising"])
def test_the_metric_knows_the_fundamental_of_a_vowel(name):
    """F0 RMSE of a table is that of the output: pYIN is right within its quarter of a semitone."""
    contour = CONTOURS[name]
    found = metrics.f0(vowel(contour), 16000)
    true = contour[np.minimum(np.arange(len(found)) * 256, 15999)]
    cents = 1200 * np.log2(found / true)[2:-2]
    assert np.isfinite(cents).all()
    assert np.abs(cents).max() < 30


def test_too_few_bands_are_refused():
    with pytest.raises(ValueError, match="12 mel bands lie below 1500 Hz, too few"):
        Pitch(MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0))


def test_pulses_are_the_sum_of_all_harmonics():
    f0 = torch.tensor([[100.0, 110.0, 123.0, 90.0], [400.0, 300.0, 200.0, 100.0]])
    found = pulse_train(f0, 64, 16000)
    with NoFloat64():
        assert torch.equal(pulse_train(f0, 64, 16000), found)
    for clip, row in zip(found.double(), f0.double(), strict=True):
        phase, total = 0.0, []
        for n in range(4 * 64):
            place = min(max((n + 0.5) / 64 - 0.5, 0.0), 3.0)
            left = min(int(place), 2)
            frequency = float(row[left] + (place - left) * (row[left + 1] - row[left]))
            phase += frequency / 16000
            count = int(8000 / frequency)
            total.append(sum(math.cos(2 * math.pi * k * phase) for k in range(1, count + 1)) * math.sqrt(2 / count))
        torch.testing.assert_close(clip, torch.tensor(total).double(), rtol=0, atol=2e-3)


def test_interpolation_is_linear_between_the_bands_centres():
    weights = filters(MEL).double().numpy()
    bins = np.arange(513)
    centres = (weights * bins).sum(axis=1) / weights.sum(axis=1)
    mel = np.random.default_rng(0).standard_normal(80)
    expected = np.interp(bins, centres, mel)
    np.testing.assert_allclose(interpolation(MEL).double().numpy() @ mel, expected, atol=1e-4)


def test_a_network_that_changes_nothing_gives_the_source_at_the_mels_envelope():
    network = SourceFilter(MEL, dim=8, layers=1).eval()
    with torch.no_grad():
        network.out.weight.zero_()
        network.out.bias.zero_()
        network.out.bias[513:] = -50  # no noise
    mel = torch.full((1, 80, 12), math.log(0.3))
    source = torch.zeros(1, 512, 12)
    source[0, :256] = torch.randn(256, 12)
    expected = 0.3 * source[0, :256].T.flatten()
    wave = network(mel, source)[0, 0]
    torch.testing.assert_close(wave[512:-512], expected[512:-512], rtol=1e-4, atol=1e-4)


def test_copy_synthesis_keeps_the_fundamental():
    """Untrained, since it is found and not learnt."""
    network, wave = SourceFilter(MEL).eval(), vowel(CONTOURS["rising"])
    wave = wave[: len(wave) // 256 * 256]
    with torch.no_grad():
        output = network(LogMel(MEL)(torch.from_numpy(wave)[None]))[0, 0].clamp(-1, 1).numpy()
    pitch = metrics.Pitch.compare(metrics.f0(wave, 16000), metrics.f0(output, 16000))
    assert pitch.vuv_f1 > 80
    assert pitch.f0_rmse < 50
