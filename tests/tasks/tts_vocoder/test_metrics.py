"""Each measure on cases whose value is known: equal waves, gains, tones, shifts, noise at a given level."""

import math

import numpy as np
import pytest
import soundfile
import torch

from tasks.tts_vocoder import metrics
from tasks.tts_vocoder.measures import METRICS
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.metrics import CEPSTRA, WORST_CENTS, Pitch

RATE = 16000
MEL = MelConfig(sample_rate=RATE)
DB = 20 / math.log(10)
"""dB in a nat of magnitude"""


@pytest.fixture(scope="module")
def wave(espeak):
    from scipy.signal import resample_poly

    samples, _ = soundfile.read(espeak / "wavs" / "espeak-004.wav", dtype="float32")
    return resample_poly(samples, 320, 441)[: 2 * RATE // 256 * 256].astype(np.float32)


def noisy(wave, snr, seed=0):
    """With white noise at a signal-to-noise ratio in dB."""
    noise = np.random.default_rng(seed).standard_normal(len(wave)).astype(np.float32)
    return wave + noise * np.sqrt(np.square(wave).mean() / np.square(noise).mean() / 10 ** (snr / 10))


def tone(hertz, seconds=1.0):
    """Ten harmonics."""
    time = np.arange(round(seconds * RATE)) / RATE
    return sum(0.05 * np.sin(2 * np.pi * k * hertz * time) for k in range(1, 11)).astype(np.float32)


def test_equal_waves_are_perfect(wave):
    scores = metrics.score([(wave, wave)] * 2, MEL)
    assert list(scores) == [metric.name for metric in METRICS]
    for metric in METRICS:
        assert scores[metric.name] == pytest.approx(100 if metric.higher_is_better else 0, abs=1e-4), metric.name
    assert all(type(value) is float for value in scores.values())


def test_more_noise_is_worse(wave):
    little, much = (metrics.score([(wave, noisy(wave, snr))], MEL) for snr in (20, 0))
    for metric in METRICS:
        better, worse = sorted((little[metric.name], much[metric.name]), reverse=metric.higher_is_better)
        assert better != worse, metric.name
        assert better == little[metric.name], metric.name


class TestSpectra:
    def test_half_the_level(self):
        wave = noisy(tone(200), 10)  # nowhere at the floor
        assert metrics.log_mel_l1(wave, wave / 2, MEL) == pytest.approx(math.log(2), rel=1e-3)  # 6.02 dB
        one, other = (metrics.mel_cepstrum(x, MEL) for x in (wave, wave / 2))
        assert metrics.mcd(one, other) == pytest.approx(0, abs=0.01)  # the level is not in it

    def test_multi_resolution_stft_of_half_the_level(self):
        # ||x| - |x/2|| / ||x|| is 1/2 at every resolution, and the logarithms differ by ln 2.
        wave = noisy(tone(200), 0)
        assert metrics.multi_resolution_stft(wave, wave / 2) == pytest.approx(0.5 + math.log(2), rel=1e-3)

    def test_log_mel_l1_is_a_mean_over_bins(self, wave):
        other = noisy(wave, 10)
        mels = [LogMel(MEL)(torch.from_numpy(x)[None])[0] for x in (wave, other)]
        slow = [abs(a - b) for a, b in zip(mels[0].flatten().tolist(), mels[1].flatten().tolist(), strict=True)]
        assert metrics.log_mel_l1(wave, other, MEL) == pytest.approx(sum(slow) / len(slow), rel=1e-5)


class TestMcd:
    def cosine(self, k, decibels, frames=7):
        """Cepstra of two log spectra that differ by `decibels` x cos(pi k (n + 1/2) / N)."""
        n = np.arange(MEL.mels)
        return np.tile(decibels / DB * np.cos(np.pi * k * (n + 0.5) / MEL.mels), (frames, 1)).T

    def of_spectra(self, one, other, monkeypatch):
        spectra = iter([one, other])
        monkeypatch.setattr(metrics, "_log_mel", lambda wave, mel: next(spectra))
        return metrics.mcd(*(metrics.mel_cepstrum(np.zeros(1, np.float32), MEL) for _ in range(2)))

    @pytest.mark.parametrize("k", [1, 5, CEPSTRA])
    def test_of_a_ripple(self, monkeypatch, k):
        # A ripple of amplitude A over the bands has the root mean square A / sqrt(2): that is what MCD is in dB, since
        # 10 / ln 10 sqrt(2 c^2) = (20 / ln 10) c / sqrt(2).
        value = self.of_spectra(self.cosine(k, 6.0), self.cosine(k, 0.0), monkeypatch)
        assert value == pytest.approx(6.0 / math.sqrt(2))

    @pytest.mark.parametrize("k", [0, CEPSTRA + 1])
    def test_of_what_is_left_out(self, monkeypatch, k):
        assert self.of_spectra(self.cosine(k, 6.0), self.cosine(k, 0.0), monkeypatch) == pytest.approx(0, abs=1e-12)

    def test_against_loops(self):
        one, other = np.random.default_rng(0).standard_normal((2, CEPSTRA, 5))
        frames = [
            10 / math.log(10) * math.sqrt(2 * sum((one[k, t] - other[k, t]) ** 2 for k in range(CEPSTRA)))
            for t in range(5)
        ]
        assert metrics.mcd(one, other) == pytest.approx(sum(frames) / 5)

    def test_warping_forgives_a_shift(self, wave):
        whole = metrics.mel_cepstrum(wave, MEL)
        late, early = whole[:, :-3], whole[:, 3:]
        assert metrics.mcd(late, early) > 4
        assert metrics.mcd_dtw(late, early) < metrics.mcd(late, early) / 3
        assert metrics.mcd_dtw(whole, whole) == 0

    def test_warping_against_a_slow_one(self):
        one, other = np.random.default_rng(1).standard_normal((2, CEPSTRA, 6))
        other = other[:, :4]
        distance = 10 / math.log(10) * np.sqrt(2 * np.square(one[:, :, None] - other[:, None]).sum(0))

        def best(i, j):
            """(total, pairs) of the best path from the start to (i, j)"""
            if i == j == 0:
                return distance[0, 0], 1
            before = [best(*p) for p in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if min(p) >= 0]
            total, pairs = min(before)
            return total + distance[i, j], pairs + 1

        total, pairs = best(5, 3)
        assert metrics.mcd_dtw(one, other) == pytest.approx(total / pairs)


class TestPitch:
    def test_of_a_tone(self):
        contour = metrics.f0(tone(220.0), RATE)
        assert np.isfinite(contour).mean() > 0.95
        cents = 1200 * np.log2(contour[np.isfinite(contour)] / 220.0)
        assert np.abs(cents).max() < 15  # its grid is a quarter of a semitone

    def test_a_semitone_is_100_cents(self):
        pitch = Pitch.compare(metrics.f0(tone(220.0), RATE), metrics.f0(tone(220.0 * 2 ** (1 / 12)), RATE))
        assert pitch.f0_rmse == pytest.approx(100, abs=5)
        assert pitch.vuv_f1 > 98

    def test_noise_is_unvoiced(self):
        noise = noisy(np.zeros(RATE, np.float32) + 1e-3, -30)
        assert np.isnan(metrics.f0(noise, RATE)).mean() > 0.9

    def test_by_hand(self):
        nan = np.nan
        truth = np.array([100, 100, 100, nan, nan, 100.0])
        output = np.array([200, 100, nan, 100, nan, 1e6, 7])  # two octaves of which one counts, and one frame more
        pitch = Pitch.compare(truth, output)
        assert (pitch.both, pitch.truth, pitch.output) == (3, 4, 4)
        assert pitch.f0_rmse == pytest.approx(math.sqrt((1200**2 + 0 + 1200**2) / 3))
        assert pitch.vuv_f1 == pytest.approx(100 * 2 * 3 / (4 + 4))
        both = Pitch.total([pitch, Pitch.compare(truth[1:2], output[1:2])])
        assert (both.both, both.truth, both.output) == (4, 5, 5)

    def test_nothing_voiced(self):
        voiced, not_voiced = np.array([100.0]), np.array([np.nan])
        assert Pitch.compare(voiced, not_voiced).f0_rmse == WORST_CENTS
        assert Pitch.compare(voiced, not_voiced).vuv_f1 == 0
        assert Pitch.compare(not_voiced, not_voiced).vuv_f1 == 100


class TestScore:
    def test_means_over_clips(self, wave):
        pairs = [(wave, noisy(wave, 10)), (wave[: len(wave) // 2], noisy(wave, 30)[: len(wave) // 2])]
        single = [metrics.score([pair], MEL) for pair in pairs]
        scores = metrics.score(pairs, MEL)
        for name in ("mel_l1", "mr_stft", "mcd", "mcd_dtw", "stoi"):
            assert scores[name] == pytest.approx((single[0][name] + single[1][name]) / 2), name

    def test_cuts_to_the_shorter(self, wave):
        assert metrics.score([(wave, wave[: RATE + 100])], MEL)["mel_l1"] == 0

    def test_too_short_for_stoi(self, wave, caplog):
        short = wave[4000:9000]
        assert metrics.stoi(short, short, RATE) is None
        scores = metrics.score([(short, short), (wave, wave)], MEL)
        assert scores["stoi"] == pytest.approx(100)
        assert "1 clips are too short for STOI" in caplog.text

    def test_refuses(self, wave):
        with pytest.raises(ValueError, match="no clip to score"):
            metrics.score([], MEL)
        with pytest.raises(ValueError, match="not finite; did the training diverge"):
            metrics.score([(wave, wave * np.nan)], MEL)
