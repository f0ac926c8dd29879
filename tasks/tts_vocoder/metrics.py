"""Distances between a recording and the speech that was synthesised from its mel.

Waves are float arrays (samples) of equal length and sample rate and aligned in time, as from copy synthesis. Functions
of a single measure take (truth, output); `score` computes all measures over a set of clips.
"""

import functools
import hashlib
import logging
import math
import warnings
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.tts_vocoder.losses import MultiResolutionSTFT
from tasks.tts_vocoder.measures import METRICS, SHORTEST
from tasks.tts_vocoder.mels.compiled_librosa import compiled
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig

log = logging.getLogger(__name__)

Wave = NDArray[np.float32]

CEPSTRA = 13
"""Mel-cepstral coefficients of MCD, from the first on; the zeroth, the loudness, is left out."""

F0_RANGE = (60.0, 500.0)
"""Range of the fundamental of a voice, Hz."""

WORST_CENTS = 1200.0
"""An octave: the largest deviation of a frame that F0 RMSE counts, and its value if no frame is voiced in both."""


def log_mel_l1(truth: Wave, output: Wave, mel: MelConfig) -> float:
    """Mean distance of the log-mels in nat (natural logarithm), HiFi-GAN's validation error; 0.115 nat are 1 dB."""
    return float(np.abs(_log_mel(truth, mel) - _log_mel(output, mel)).mean())


@torch.no_grad()
def multi_resolution_stft(truth: Wave, output: Wave) -> float:
    """Spectral convergence + distance of log magnitudes over three resolutions (Parallel WaveGAN, equations 3 to 6)."""
    both = [torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))[None, None] for wave in (output, truth)]
    return float(_stft_distance()(*both))


def mel_cepstrum(wave: Wave, mel: MelConfig) -> NDArray[np.float64]:
    """Coefficients 1 to `CEPSTRA` of every frame: (CEPSTRA, frames).

    The cosine series of the log-mel magnitude over its N bands, log S_n = c_0 + sum_k c_k cos(pi k (n + 1/2) / N):
    MFCCs in the scale of mel-cepstra. They are not those of SPTK's mcep, so values compare within this project only.
    """
    from scipy.fft import dct

    series = np.asarray(dct(_log_mel(wave, mel).astype(np.float64), axis=0))
    return series[1 : CEPSTRA + 1] / mel.mels


def mcd(truth: NDArray[np.float64], output: NDArray[np.float64]) -> float:
    """Mel-cepstral distortion in dB of two cepstra (CEPSTRA, frames), frame by frame (Kubichek, "Mel-cepstral distance
    measure for objective speech quality assessment", 1993): the mean over frames of 10 / ln 10 sqrt(2 sum_k d_k^2)."""
    return float(_frame_mcd(truth - output).mean())


def mcd_dtw(truth: NDArray[np.float64], output: NDArray[np.float64]) -> float:
    """`mcd` along the alignment of least total distance (dynamic time warping): the mean over the pairs on its path.

    It forgives a shift in time; the frames may differ in number.
    """
    pairs = _frame_mcd(truth[:, :, None] - output[:, None, :])
    _, path = compiled().sequence.dtw(C=pairs)
    return float(pairs[path[:, 0], path[:, 1]].mean())


def _frame_mcd(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    return 10 / math.log(10) * np.sqrt(2 * np.square(difference).sum(axis=0))


def f0(wave: Wave, sample_rate: int) -> NDArray[np.float64]:
    """Fundamental frequency in Hz every 16 ms, NaN where unvoiced, by pYIN (Mauch and Dixon, ICASSP 2014).

    By librosa, at a coarser resolution than its default (a quarter of a semitone, 50 thresholds), which is 5 times as
    fast. Frames are 64 ms, as long as almost four periods of the lowest voice.
    """
    samples = np.ascontiguousarray(wave, dtype=np.float32)
    key = sample_rate, hashlib.sha256(samples.tobytes()).digest()
    if key not in _KNOWN:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.pop(next(iter(_KNOWN)))
        _KNOWN[key] = _f0(samples, sample_rate)
    return _KNOWN[key]


MOST_KNOWN = 512
_KNOWN: dict[tuple[int, bytes], NDArray[np.float64]] = {}
"""Of waves by their digests, the oldest first: each scoring needs that of the same truth."""


def _f0(samples: Wave, sample_rate: int) -> NDArray[np.float64]:
    frame = 2 * round(0.032 * sample_rate)
    values, _, _ = compiled().pyin(
        samples,
        fmin=F0_RANGE[0],
        fmax=F0_RANGE[1],
        sr=sample_rate,
        frame_length=frame,
        hop_length=frame // 4,
        resolution=0.25,
        n_thresholds=50,
    )
    return values


class Pitch(NamedTuple):
    """Sums over the frames of some clips, which F0 RMSE and V/UV F1 are computed from; `total` adds them up.

    squares: of the deviations in cents, each at most `WORST_CENTS`. both, truth, output: voiced frames.
    """

    squares: float
    both: int
    truth: int
    output: int

    @classmethod
    def compare(cls, truth: NDArray[np.float64], output: NDArray[np.float64]) -> "Pitch":
        """Of two contours as `f0` gives them, cut to the shorter."""
        length = min(len(truth), len(output))
        voiced = [~np.isnan(contour[:length]) for contour in (truth, output)]
        both = voiced[0] & voiced[1]
        cents = 1200 * np.log2(output[:length][both] / truth[:length][both])
        squares = np.square(np.clip(cents, -WORST_CENTS, WORST_CENTS)).sum()
        return cls(float(squares), int(both.sum()), int(voiced[0].sum()), int(voiced[1].sum()))

    @classmethod
    def total(cls, parts: Iterable["Pitch"]) -> "Pitch":
        """The sum over clips."""
        return cls(*(sum(column) for column in zip(*parts, strict=True)))

    @property
    def f0_rmse(self) -> float:
        """Root mean squared deviation in cents over frames that are voiced in both; `WORST_CENTS` if none is."""
        return math.sqrt(self.squares / self.both) if self.both else WORST_CENTS

    @property
    def vuv_f1(self) -> float:
        """F1 of "this frame is voiced" in percent; 100 if none is in either."""
        voiced = self.truth + self.output
        return 100 * 2 * self.both / voiced if voiced else 100.0


def stoi(truth: Wave, output: Wave, sample_rate: int) -> float | None:
    """Short-time objective intelligibility in percent (Taal et al., IEEE TASLP 2011), by `pystoi`.

    None if less than 0.4 s of the truth is speech: STOI is not defined then.
    """
    from pystoi import stoi

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Not enough STFT frames", RuntimeWarning)
        try:
            return 100 * float(stoi(truth, output, sample_rate))
        except RuntimeWarning:
            return None


def score(clips: Iterable[tuple[Wave, Wave]], mel: MelConfig) -> dict[str, float]:
    """All `METRICS` of (truth, output) pairs: means over clips, but F0 RMSE and V/UV F1 over all frames together.

    Truth and output are cut to the shorter of the two, and padded to `SHORTEST` samples if they have fewer.

    Raises ValueError if there is no clip, or an output holds values that are not finite.
    """
    sums: dict[str, list[float]] = {metric.name: [] for metric in METRICS}
    pitches = []
    for truth, output in clips:
        length = min(len(truth), len(output))
        truth, output = (np.pad(wave[:length], (0, max(0, SHORTEST - length))) for wave in (truth, output))
        if not np.isfinite(output).all():
            raise ValueError("the output holds values that are not finite; did the training diverge?")
        sums["mel_l1"].append(log_mel_l1(truth, output, mel))
        sums["mr_stft"].append(multi_resolution_stft(truth, output))
        cepstra = mel_cepstrum(truth, mel), mel_cepstrum(output, mel)
        sums["mcd"].append(mcd(*cepstra))
        sums["mcd_dtw"].append(mcd_dtw(*cepstra))
        pitches.append(Pitch.compare(f0(truth, mel.sample_rate), f0(output, mel.sample_rate)))
        if (value := stoi(truth, output, mel.sample_rate)) is not None:
            sums["stoi"].append(value)
    if not pitches:
        raise ValueError("there is no clip to score")
    if len(sums["stoi"]) < len(pitches):
        log.warning("%d clips are too short for STOI; it is the mean over the others", len(pitches) - len(sums["stoi"]))
    pitch = Pitch.total(pitches)
    sums |= {"f0_rmse": [pitch.f0_rmse], "vuv_f1": [pitch.vuv_f1]}
    return {name: float(np.mean(values)) if values else 0.0 for name, values in sums.items()}


@torch.no_grad()
def _log_mel(wave: Wave, mel: MelConfig) -> NDArray[np.float32]:
    return _log_mel_of(mel.compared)(torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))[None])[0].numpy()


@functools.lru_cache(maxsize=8)
def _log_mel_of(mel: MelConfig) -> LogMel:
    return LogMel(mel)


@functools.lru_cache(maxsize=1)
def _stft_distance() -> MultiResolutionSTFT:
    return MultiResolutionSTFT()
