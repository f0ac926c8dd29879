"""The fundamental frequency of a voice, found in log-mels: combs of harmonics are compared with their low bands."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.tts_vocoder.mels.log_mel import filters
from tasks.tts_vocoder.mels.mel import CONVENTIONS, MelConfig

RANGE = (70.0, 400.0)
"""Lowest and highest fundamental that is looked for, Hz."""

CENTS = 20.0
"""Between two fundamentals that are tried; the best is refined by a parabola."""

HIGHEST = 1500.0
"""Centre of the highest band that is compared, Hz. Mel bands above are too wide to hold single harmonics."""

ENVELOPE = 9
"""Bands that the spectral envelope is averaged over; what is left of the log-mel are the harmonics."""

FRAMES = 5
"""Frames that the correlation is averaged over."""

VOICE = 61
"""Frames that the voice's usual fundamental is taken from, a second of speech."""

PULL = 0.5
"""Correlation that a fundamental loses for each octave between it and the voice's usual one."""


class Pitch(nn.Module):
    """F0 of every frame: the fundamental whose harmonics correlate best with the log-mel of its neighbourhood.

    It is deterministic and has no parameters, and no gradient flows through it. It always gives a frequency, in
    unvoiced frames an arbitrary one.

    Raises:
        ValueError: if the mels have too few bands below `HIGHEST` to hold harmonics.
    """

    candidates: Tensor
    combs: Tensor

    def __init__(self, mel: MelConfig) -> None:
        super().__init__()
        self.nats = math.log(CONVENTIONS[mel.convention].base)
        weights = filters(mel).double()
        bins = torch.arange(weights.shape[1], dtype=torch.float64) * mel.sample_rate / mel.n_fft
        centres = (weights @ bins) / weights.sum(dim=1)
        self.bands = int((centres <= HIGHEST).sum())
        if self.bands < 2 * ENVELOPE:
            raise ValueError(
                f"{self.bands} mel bands lie below {HIGHEST:.0f} Hz, too few to find a voice's fundamental in; take "
                f"{2 * ENVELOPE} or more"
            )
        steps = math.floor(1200 * math.log2(RANGE[1] / RANGE[0]) / CENTS) + 1
        found = RANGE[0] * 2 ** (torch.arange(steps, dtype=torch.float64) * CENTS / 1200)
        harmonics = torch.arange(1, math.ceil(2 * HIGHEST / RANGE[0]), dtype=torch.float64)
        distance = (bins - harmonics[:, None] * found[:, None, None]) * mel.window / mel.sample_rate
        spectrum = _hann_lobe(distance).sum(dim=1)
        bands = spectrum @ weights[: self.bands].T
        combs = self._harmonics(torch.log(bands + 0.05 * bands.mean(dim=1, keepdim=True))[:, :, None])[:, :, 0]
        self.register_buffer("candidates", found.float(), persistent=False)
        self.register_buffer("combs", combs.float(), persistent=False)

    @torch.no_grad()
    def forward(self, mel: Tensor) -> Tensor:
        """mel: (B, mels, F) -> F0 in Hz, (B, F)"""
        agreement = self.combs @ self._harmonics(self.nats * mel[:, : self.bands].to(self.combs))
        octaves = torch.log2(self.candidates)[:, None]
        # Frames of clear harmonics count, those of noise and silence almost not.
        clear, usual = agreement.max(dim=1, keepdim=True)
        weight = clear.clamp(min=0.01) ** 8
        centre = _average(weight * octaves[:, 0][usual], VOICE) / _average(weight, VOICE)
        agreement = _average(weight * agreement, FRAMES) / _average(weight, FRAMES)
        agreement = agreement - PULL * (octaves - centre).abs()
        best = agreement[:, 1:-1].argmax(dim=1, keepdim=True) + 1
        below, at, above = (agreement.gather(1, best + step) for step in (-1, 0, 1))
        shift = (0.5 * (below - above) / (below - 2 * at + above).clamp(max=-1e-6)).clamp(-0.5, 0.5)
        return (self.candidates[best] * 2 ** (shift * CENTS / 1200))[:, 0]

    @staticmethod
    def _harmonics(mel: Tensor) -> Tensor:
        """(B, bands, F) -> the same without the envelope, each frame of length 1."""
        envelope = F.avg_pool1d(mel.mT, ENVELOPE, 1, ENVELOPE // 2, count_include_pad=False).mT
        return F.normalize(mel - envelope, dim=1)


def _average(x: Tensor, frames: int) -> Tensor:
    """Over neighbouring frames; at the ends over those that are there."""
    return F.avg_pool1d(x, frames, 1, frames // 2, count_include_pad=False)


def _hann_lobe(distance: Tensor) -> Tensor:
    """Magnitude of a Hann window's spectrum at distances in 1 / length of the window, 1 at 0: its main lobe."""
    inside = distance.abs() < 2
    x = torch.where(inside, distance, torch.zeros_like(distance))
    x = torch.where((x.abs() - 1).abs() < 1e-6, x + 1e-5, x)
    return torch.where(inside, torch.sinc(x) / (1 - x.square()), torch.zeros_like(x))
