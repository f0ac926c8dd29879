"""BigVGAN: Lee et al., "BigVGAN: A Universal Neural Vocoder with Large-Scale Training", ICLR 2023 (arXiv 2206.04658),
section 3: HiFi-GAN's generator with periodic activations between filters against aliasing. Written from the paper."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.tts_vocoder.generators.generator import Dilated, Generator, check_halved, check_upsampling, weight_norm
from tasks.tts_vocoder.generators.hifi_gan import HiFiGAN, averaged
from tasks.tts_vocoder.mels.mel import MelConfig

TAPS = 12
"""Of the low-pass filters."""

ATTENUATION = 51.0
"""Of what they stop, dB; with 12 taps they pass up to 0.11 and stop from 0.39 of the doubled sample rate on."""


class BigVGAN(Generator):
    """Transposed convs upsample step by step; after each, residual blocks of several kernels are averaged.

    Args:
        mel: configuration of the mels.
        channels: after the first conv; halved by every upsampling.
        upsampling: factors, which multiply to the hop. Kernels are twice as large.
        kernels: of the residual blocks that run side by side.
        dilations: of the residual connections of each block.
    """

    def __init__(
        self,
        mel: MelConfig,
        *,
        channels: int = 512,
        upsampling: Sequence[int] = (8, 8, 2, 2),
        kernels: Sequence[int] = (3, 7, 11),
        dilations: Sequence[int] = (1, 3, 5),
    ) -> None:
        super().__init__(mel)
        check_halved(channels, upsampling)
        check_upsampling(tuple(upsampling), mel)
        self.conv_pre = nn.Conv1d(mel.mels, channels, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for factor in upsampling:
            self.ups.append(HiFiGAN.upsampling_conv(channels, factor))
            channels //= 2
            self.resblocks.extend(PeriodicBlock(channels, kernel, dilations) for kernel in kernels)
        self.activation_post = AntiAliased(Snake(channels))
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)
        weight_norm(self)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (B, mels, F) -> (B, 1, F * hop) within (-1, 1)"""
        self.check(mel)
        x = self.conv_pre(mel)
        side_by_side = len(self.resblocks) // len(self.ups)
        for i, up in enumerate(self.ups):
            x = averaged(self.resblocks[side_by_side * i : side_by_side * (i + 1)], up(x))
        return torch.tanh(self.conv_post(self.activation_post(x)))


class PeriodicBlock(nn.Module):
    """x + conv(snake(dilated conv(snake(x)))), once per dilation, every snake against aliasing."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(Dilated(channels, channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(Dilated(channels, channels, kernel) for _ in dilations)
        self.activations1 = nn.ModuleList(AntiAliased(Snake(channels)) for _ in dilations)
        self.activations2 = nn.ModuleList(AntiAliased(Snake(channels)) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, channels, T) -> the same shape"""
        parts = zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True)
        for first, dilated, second, conv in parts:
            x = x + conv(second(dilated(first(x))))
        return x


class Snake(nn.Module):
    """x + sin^2(alpha x) / alpha, with an alpha for each channel (Ziyin et al., "Neural Networks Fail to Learn Periodic
    Functions and How to Fix It", NeurIPS 2020)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, channels, T) -> the same shape"""
        alpha = self.alpha[:, None]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class AntiAliased(nn.Module):
    """An activation at twice the sample rate, between two low-pass filters; the ends are continued by their values.

    Without them, the harmonics that it makes above half the sample rate would be heard as others.
    """

    up: Tensor
    down: Tensor

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation
        taps = low_pass()
        # Of the samples between x[m] and x[m + 1], at 2m + 1/2 and 2m + 3/2, each sees every second tap.
        up = torch.zeros(2, 1, TAPS // 2 + 1, dtype=torch.float64)
        up[0, 0, :-1], up[1, 0, 1:] = 2 * taps.flip(0)[::2], 2 * taps.flip(0)[1::2]
        self.register_buffer("up", up.float(), persistent=False)
        self.register_buffer("down", taps[None, None].float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, channels, T) -> the same shape"""
        batch, channels, _ = x.shape
        reach = TAPS // 4
        x = F.pad(x.flatten(0, 1)[:, None], (reach, reach), mode="replicate")
        x = F.conv1d(x, self.up.to(x)).mT.flatten(1).unflatten(0, (batch, channels))
        x = self.activation(x)
        x = F.pad(x.flatten(0, 1)[:, None], (TAPS // 2 - 1, TAPS // 2), mode="replicate")
        return F.conv1d(x, self.down.to(x), stride=2)[:, 0].unflatten(0, (batch, channels))


def low_pass() -> Tensor:
    """Taps of a filter that halves the band, (`TAPS`,), of sum 1: a sinc in a Kaiser window.

    The window's parameter follows from the attenuation (Kaiser, "Nonrecursive Digital Filter Design Using the I0-sinh
    Window Function", 1974).
    """
    beta = 0.1102 * (ATTENUATION - 8.7)
    time = torch.arange(TAPS, dtype=torch.float64) - (TAPS - 1) / 2
    window = torch.special.i0(beta * torch.sqrt(1 - (2 * time / (TAPS - 1)).square()))
    taps = torch.sinc(time / 2) * window
    return taps / taps.sum()
