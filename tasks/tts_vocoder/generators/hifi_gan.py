"""HiFi-GAN: Kong et al., "HiFi-GAN: Generative Adversarial Networks for Efficient and High Fidelity Speech Synthesis",
NeurIPS 2020, section 2.2 and appendix A.1. Modules are named as in the published checkpoints, which load."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.tts_vocoder.generators.generator import (
    Dilated,
    Generator,
    check_halved,
    check_upsampling,
    weight_norm,
)
from tasks.tts_vocoder.mels.mel import MelConfig

SLOPE = 0.1
"""Of the leaky ReLUs, all but the last."""


class HiFiGAN(Generator):
    """Transposed convs upsample step by step; after each, residual blocks of several kernels are averaged.

    Args:
        mel: configuration of the mels.
        channels: after the first conv; halved by every upsampling.
        upsampling: factors, which multiply to the hop. Kernels are twice as large.
        kernels: of the residual blocks that run side by side.
        dilations: per kernel, one per residual connection.
        paired: whether every dilated conv is followed by one of dilation 1 (V1 and V2).
    """

    def __init__(
        self,
        mel: MelConfig,
        *,
        channels: int = 512,
        upsampling: Sequence[int] = (8, 8, 2, 2),
        kernels: Sequence[int] = (3, 7, 11),
        dilations: Sequence[Sequence[int]] = ((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        paired: bool = True,
    ) -> None:
        super().__init__(mel)
        check_halved(channels, upsampling)
        check_upsampling(tuple(upsampling), mel)
        self.conv_pre = nn.Conv1d(mel.mels, channels, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for factor in upsampling:
            self.ups.append(self.upsampling_conv(channels, factor))
            channels //= 2
            self.resblocks.extend(
                (PairedBlock if paired else SingleBlock)(channels, kernel, block)
                for kernel, block in zip(kernels, dilations, strict=True)
            )
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)
        # Weights start as torch draws them: the N(0, 0.01) of the published code is overwritten by its weight_norm.
        weight_norm(self)

    @staticmethod
    def upsampling_conv(channels: int, factor: int) -> nn.ConvTranspose1d:
        """Makes `factor` samples of each, of half the channels; its kernel is twice the factor."""
        before, after = (factor + 1) // 2, factor % 2
        return nn.ConvTranspose1d(channels, channels // 2, 2 * factor, factor, padding=before, output_padding=after)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (B, mels, F) -> (B, 1, F * hop) within (-1, 1)"""
        self.check(mel)
        x = self.conv_pre(mel)
        side_by_side = len(self.resblocks) // len(self.ups)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            x = averaged(self.resblocks[side_by_side * i : side_by_side * (i + 1)], x)
        return torch.tanh(self.conv_post(F.leaky_relu(x)))


def averaged(blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
    """The mean of what several blocks make of x, all of one shape."""
    made = [block(x) for block in blocks]
    total = made[0]
    for one in made[1:]:
        total = total + one
    return total / len(made)


class PairedBlock(nn.Module):
    """x + conv(act(dilated conv(act(x)))), once per dilation."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(Dilated(channels, channels, kernel, dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(Dilated(channels, channels, kernel) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, channels, T) -> the same shape"""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class SingleBlock(nn.Module):
    """x + dilated conv(act(x)), once per dilation."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(Dilated(channels, channels, kernel, dilation) for dilation in dilations)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, channels, T) -> the same shape"""
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, SLOPE))
        return x
