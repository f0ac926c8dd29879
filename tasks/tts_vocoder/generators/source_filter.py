"""A harmonic-plus-noise vocoder: a pulse train at the voice's fundamental and noise, each shaped by a filter that a
network predicts for every frame.

After Wang et al., "Neural Source-Filter Waveform Models for Statistical Parametric Speech Synthesis", IEEE/ACM TASLP
2020 (a harmonic source and noise), and Liu et al., "Neural Homomorphic Vocoder", Interspeech 2020 (linear filters that
vary in time, predicted from mels). The network is the backbone of Vocos (`vocos`).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.tts_vocoder.generators.generator import Generator, check_sizes, frame_noise
from tasks.tts_vocoder.generators.pitch import Pitch
from tasks.tts_vocoder.generators.vocos import ISTFT, Backbone
from tasks.tts_vocoder.mels.log_mel import filters
from tasks.tts_vocoder.mels.mel import CONVENTIONS, MelConfig

LOUDEST = 6.0
"""Bound on log magnitudes of the filters, against steps that explode."""


class SourceFilter(Generator):
    """The fundamental is found in the mels (`Pitch`), so that no conv has to make phases that run on from frame to
    frame. Both filters are the mel's own envelope times what the network makes of it; they have no phase.

    Args:
        mel: configuration of the mels.
        dim: channels.
        layers: ConvNeXt blocks.
        kernel: of their depthwise convs.
    """

    between: Tensor
    basis: Tensor

    def __init__(self, mel: MelConfig, *, dim: int = 96, layers: int = 4, kernel: int = 7) -> None:
        super().__init__(mel)
        check_sizes(dim=dim, layers=layers, kernel=kernel)
        self.pitch = Pitch(mel)
        self.backbone = Backbone(mel.mels, dim, 3 * dim, layers, kernel)
        self.out = nn.Linear(dim, mel.n_fft + 2)
        self.istft = ISTFT(mel.n_fft, mel.hop, mel.window)
        self.nats = math.log(CONVENTIONS[mel.convention].base)
        spectrum = torch.fft.rfft(torch.diag(_wide(self.istft.window)))
        self.register_buffer("basis", torch.cat((spectrum.real, spectrum.imag), dim=1).float(), persistent=False)
        self.register_buffer("between", interpolation(mel), persistent=False)

    def source(self, mel: Tensor) -> Tensor:
        """What the filters shape, (B, 2 * hop, F): of each frame the samples of the pulse train, then those of noise.

        The noise is new in training, else always the same.
        """
        c = self.mel_config
        pulses = pulse_train(self.pitch(mel), c.hop, c.sample_rate).unflatten(1, (-1, c.hop)).mT
        return torch.cat((pulses.to(mel), frame_noise(mel, c.hop, fresh=self.training)), dim=1)

    def inputs(self, mel: Tensor) -> tuple[Tensor, ...]:
        """The mels and their source."""
        return mel, self.source(mel)

    def forward(self, mel: Tensor, source: Tensor | None = None) -> Tensor:
        """mel: (B, mels, F), source: (B, 2 * hop, F), by default `self.source(mel)` -> (B, 1, F * hop)"""
        self.check(mel)
        source = self.source(mel) if source is None else source
        change = self.out(self.backbone(mel)).mT
        # Half precision, under autocast, is too coarse for a spectrum's range.
        exact = torch.promote_types(change.dtype, torch.float32)
        envelope = self.between.to(exact) @ (self.nats * mel.to(exact))
        loud = [(envelope + part).clamp(max=LOUDEST).exp() for part in change.to(exact).chunk(2, dim=1)]
        spectra = [self.spectrum(part.mT.flatten(1).to(exact)) for part in source.chunk(2, dim=1)]
        real, imaginary = (sum(a * s[part] for a, s in zip(loud, spectra, strict=True)) for part in (0, 1))
        return self.istft(real, imaginary)

    def spectrum(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F * hop) -> real and imaginary part of the frames that the inverse transform adds up, (B, bins, F)"""
        c = self.mel_config
        frames = F.pad(wave, (self.istft.cut, c.n_fft - c.hop - self.istft.cut)).unfold(1, c.n_fft, c.hop)
        if torch.compiler.is_exporting():  # without complex numbers, which ONNX lacks
            real, imaginary = (frames @ self.basis.to(frames)).mT.chunk(2, dim=1)
            return real, imaginary
        spectrum = torch.fft.rfft(frames * self.istft.window.to(frames)).mT
        return spectrum.real, spectrum.imag


def interpolation(mel: MelConfig) -> Tensor:
    """What makes log magnitudes of frequencies of log mels, linear between the bands' centres: (bins, mels).

    Rows sum to 1; beyond the outermost centres the outermost bands hold.
    """
    weights = filters(mel).double()
    bins = torch.arange(weights.shape[1], dtype=torch.float64)
    centres = (weights @ bins) / weights.sum(dim=1)
    place = bins.clamp(centres[0], centres[-1])
    upper = torch.searchsorted(centres, place).clamp(1, len(centres) - 1)
    share = (place - centres[upper - 1]) / (centres[upper] - centres[upper - 1])
    matrix = torch.zeros(len(bins), len(centres), dtype=torch.float64)
    rows = torch.arange(len(bins))
    matrix[rows, upper - 1], matrix[rows, upper] = 1 - share, share
    return matrix.float()


def _wide(values: Tensor) -> Tensor:
    """In float64; on the CPU, if their device (mps) has none."""
    try:
        return values.double()
    except TypeError:
        return values.cpu().double()


def pulse_train(f0: Tensor, hop: int, sample_rate: int) -> Tensor:
    """All harmonics of a fundamental that lie below half the sample rate, in phase, of mean power 1.

    f0: (B, F) in Hz, linear between the middles of frames of `hop` samples -> (B, F * hop), float32
    """
    frequency = F.interpolate(_wide(f0)[:, None], scale_factor=float(hop), mode="linear")[:, 0] / sample_rate
    cycles = frequency.cumsum(dim=1)
    angle = (2 * math.pi * (cycles - cycles.floor())).float().to(f0.device)
    count = (0.5 / frequency).floor().float().to(f0.device)
    # The sum of cos(k angle) over k = 1 .. count, by Dirichlet's kernel; where it is 0 / 0, all cosines are 1.
    half = torch.sin(angle / 2)
    at_pulse = half.abs() < 1e-4
    total = torch.sin((count + 0.5) * angle) / torch.where(at_pulse, torch.ones_like(half), half)
    total = torch.where(at_pulse, 2 * count + 1, total)
    return (total - 1) / 2 * torch.sqrt(2 / count)
