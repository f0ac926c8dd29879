"""Discriminators: each is several small networks on different views of the waveform (periods, scales, resolutions).

All take waves (B, 1, T) and return the scores of their members, each (B, n), high where the wave seems real, and
their feature maps, the outputs of every layer, for feature matching.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tasks.tts_vocoder.generators.generator import check_sizes, weight_norm

Judgement = tuple[list[Tensor], list[list[Tensor]]]
"""Scores and feature maps, one entry per member."""

SLOPE = 0.1
"""Of HiFi-GAN's leaky ReLUs."""


class Bundle(nn.Module):
    """Runs its members side by side."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def views(self, wave: Tensor) -> list[Tensor]:
        """Input of each member."""
        return [wave] * len(self.members)

    def forward(self, wave: Tensor) -> Judgement:
        """wave: (B, 1, T) -> scores, feature maps"""
        if wave.dim() != 3 or wave.shape[1] != 1:
            raise ValueError(f"waves must be (B, 1, T), got {tuple(wave.shape)}")
        judged = [member(view) for member, view in zip(self.members, self.views(wave), strict=True)]
        return [score for score, _ in judged], [maps for _, maps in judged]


class MultiPeriod(Bundle):
    """HiFi-GAN's multi-period discriminator (Kong et al., NeurIPS 2020, section 2.3).

    Args:
        periods: one member each; its input has every period-th sample side by side.
        channels: of the first conv; 4, 16, 32 and 32 times as many follow. The published 32.
    """

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), channels: int = 32) -> None:
        check_sizes(channels=channels, **{f"periods[{i}]": period for i, period in enumerate(periods)})
        super().__init__([Period(period, channels) for period in periods])


class Period(nn.Module):
    """Member of `MultiPeriod`: 2-d convs over the wave folded to a width of `period` samples."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 16 * channels, 32 * channels, 32 * channels]
        strides = [3, 3, 3, 3, 1]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, (5, 1), (stride, 1), padding=(2, 0))
            for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.post = nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))
        weight_norm(self)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """wave: (B, 1, T) -> scores (B, n), maps (B, C, n, period)"""
        wave = F.pad(wave, (0, -wave.shape[2] % self.period), mode="reflect")
        return _judge(wave.unflatten(2, (-1, self.period)), self.convs, self.post, SLOPE)


class MultiScale(Bundle):
    """HiFi-GAN's multi-scale discriminator (section 2.3; the architecture is MelGAN's): the wave, and averages of it.

    Args:
        scales: members; the input of each has half the sample rate of the one before.
        channels: of the first conv; 8 times as many in the last. A multiple of 16; the published 128.
    """

    def __init__(self, scales: int = 3, channels: int = 128) -> None:
        check_sizes(scales=scales, channels=channels)
        if channels % 16:
            raise ValueError(f"channels is {channels}; the grouped convs need a multiple of 16")
        norms: list[Literal["spectral", "weight"]] = ["spectral"] + ["weight"] * (scales - 1)  # type: ignore[assignment]
        super().__init__([Scale(channels, norm) for norm in norms])

    def views(self, wave: Tensor) -> list[Tensor]:
        """The wave, and averages of it."""
        views = [wave]
        for _ in self.members[1:]:
            views.append(F.avg_pool1d(views[-1], 4, 2, padding=2))
        return views


class Scale(nn.Module):
    """Member of `MultiScale`: strided, grouped 1-d convs."""

    def __init__(self, channels: int, norm: Literal["spectral", "weight"]) -> None:
        super().__init__()
        c = channels
        self.convs = nn.ModuleList(
            [
                nn.Conv1d(1, c, 15, padding=7),
                nn.Conv1d(c, c, 41, 2, padding=20, groups=4),
                nn.Conv1d(c, 2 * c, 41, 2, padding=20, groups=16),
                nn.Conv1d(2 * c, 4 * c, 41, 4, padding=20, groups=16),
                nn.Conv1d(4 * c, 8 * c, 41, 4, padding=20, groups=16),
                nn.Conv1d(8 * c, 8 * c, 41, padding=20, groups=16),
                nn.Conv1d(8 * c, 8 * c, 5, padding=2),
            ]
        )
        self.post = nn.Conv1d(8 * c, 1, 3, padding=1)
        if norm == "weight":
            weight_norm(self)
        else:
            for conv in (*self.convs, self.post):
                parametrizations.spectral_norm(conv)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """wave: (B, 1, T) -> scores (B, n), maps (B, C, n)"""
        return _judge(wave, self.convs, self.post, SLOPE)


class MultiResolution(Bundle):
    """Magnitude spectrograms at several resolutions, as in UnivNet (Jang et al., "UnivNet: A Neural Vocoder with
    Multi-Resolution Spectrogram Discriminators for High-Fidelity Waveform Generation", Interspeech 2021, section 2.2).

    Args:
        resolutions: (n_fft, hop, window) of each member.
        channels: of its convs; the published 32.
    """

    def __init__(
        self,
        resolutions: Sequence[tuple[int, int, int]] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)),
        channels: int = 32,
    ) -> None:
        check_sizes(channels=channels)
        super().__init__([Resolution(*resolution, channels) for resolution in resolutions])


class Resolution(nn.Module):
    """Member of `MultiResolution`: 2-d convs over a magnitude spectrogram."""

    window: Tensor

    def __init__(self, n_fft: int, hop: int, window: int, channels: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, channels, (3, 9), padding=(1, 4)),
                *(nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(1, 4)) for _ in range(3)),
                nn.Conv2d(channels, channels, 3, padding=1),
            ]
        )
        self.post = nn.Conv2d(channels, 1, 3, padding=1)
        weight_norm(self)

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """wave: (B, 1, T) -> scores (B, n), maps (B, C, frequencies, frames)"""
        with torch.autocast(wave.device.type, enabled=False):
            cut = self.n_fft - self.hop
            padded = F.pad(wave.float(), (cut // 2, cut - cut // 2), mode="reflect").squeeze(1)
            spectrum = torch.stft(
                padded, self.n_fft, self.hop, len(self.window), self.window, center=False, return_complex=True
            )
            # The gradient of the root is infinite at zero, the magnitude of silence.
            magnitude = torch.sqrt(torch.view_as_real(spectrum).square().sum(-1) + 1e-9)
        return _judge(magnitude[:, None], self.convs, self.post, 0.2)


def _judge(x: Tensor, convs: nn.ModuleList, post: nn.Conv1d | nn.Conv2d, slope: float) -> tuple[Tensor, list[Tensor]]:
    maps = []
    for conv in convs:
        x = F.leaky_relu(conv(x), slope)
        maps.append(x)
    x = post(x)
    return x.flatten(1), [*maps, x]
