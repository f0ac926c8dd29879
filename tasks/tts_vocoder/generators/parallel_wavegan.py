"""Parallel WaveGAN: Yamamoto et al., "Parallel WaveGAN: A Fast Waveform Generation Model Based on Generative
Adversarial Networks with Multi-Resolution Spectrogram", ICASSP 2020, section 4.1.3."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tasks.tts_vocoder.generators.generator import (
    Dilated,
    Generator,
    check_sizes,
    check_upsampling,
    frame_noise,
    weight_norm,
)
from tasks.tts_vocoder.mels.mel import MelConfig


class ParallelWaveGAN(Generator):
    """A WaveNet without autoregression: gated dilated convs on noise, conditioned on the upsampled mels.

    Args:
        mel: configuration of the mels.
        layers: dilated convs; `layers` / `stacks` to a stack, of dilations 1, 2, 4, ...
        stacks: how often the dilations start again from 1.
        channels: between layers, before the gate (which halves them), and of the sum over layers.
        upsampling: factors, which multiply to the hop.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        mel: MelConfig,
        *,
        layers: int = 30,
        stacks: int = 3,
        channels: tuple[int, int, int] = (64, 128, 64),
        upsampling: Sequence[int] = (4, 4, 4, 4),
    ) -> None:
        super().__init__(mel)
        residual, gate, skip = channels
        check_sizes(layers=layers, stacks=stacks, residual=residual, gate=gate, skip=skip)
        check_upsampling(tuple(upsampling), mel)
        if layers % stacks or gate % 2:
            raise ValueError(f"{layers} layers must divide into {stacks} stacks, and {gate} gate channels by two")
        if mel.convention == "parallel_wavegan":  # which standardises every band, by files beside its checkpoints
            self.register_buffer("mean", torch.zeros(mel.mels))
            self.register_buffer("scale", torch.ones(mel.mels))
        self.upsample_net = Upsampling(mel.mels, upsampling)
        self.first_conv = nn.Conv1d(1, residual, 1)
        self.conv_layers = nn.ModuleList(
            GatedLayer(residual, gate, skip, mel.mels, 2 ** (layer % (layers // stacks))) for layer in range(layers)
        )
        self.last_conv_layers = nn.Sequential(nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        weight_norm(self)

    def noise(self, mel: Tensor) -> Tensor:
        """Noise for these mels, (B, hop, F), column f for frame f: new in training, else always the same."""
        return frame_noise(mel, self.mel_config.hop, fresh=self.training)

    def inputs(self, mel: Tensor) -> tuple[Tensor, ...]:
        """The mels and their noise."""
        return mel, self.noise(mel)

    def forward(self, mel: Tensor, noise: Tensor | None = None) -> Tensor:
        """mel: (B, mels, F), noise: (B, hop, F), by default `self.noise(mel)` -> (B, 1, F * hop)"""
        self.check(mel)
        noise = self.noise(mel) if noise is None else noise
        if self.mel_config.convention == "parallel_wavegan":
            mel = (mel - self.mean[:, None]) / self.scale[:, None]
        local = self.upsample_net(mel)
        x = self.first_conv(noise.mT.flatten(1)[:, None])
        skips: Tensor | float = 0.0
        for layer in self.conv_layers:
            x, skip = layer(x, local)
            skips = skips + skip
        return self.last_conv_layers(skips * math.sqrt(1 / len(self.conv_layers)))


class GatedLayer(nn.Module):
    """Dilated conv plus 1x1 conv of the mels, gated; then one 1x1 conv for the residual and one for the skip.

    As published, the last layer has a residual, too, which is not used: its parameters get no gradient.
    """

    def __init__(self, residual: int, gate: int, skip: int, mels: int, dilation: int) -> None:
        super().__init__()
        self.conv = Dilated(residual, gate, 3, dilation)
        self.conv1x1_aux = nn.Conv1d(mels, gate, 1, bias=False)
        self.conv1x1_out = nn.Conv1d(gate // 2, residual, 1)
        self.conv1x1_skip = nn.Conv1d(gate // 2, skip, 1)

    def forward(self, x: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, residual, T), local: (B, mels, T) -> next x: (B, residual, T), skip: (B, skip, T)"""
        a, b = (self.conv(x) + self.conv1x1_aux(local)).chunk(2, dim=1)
        gated = torch.tanh(a) * torch.sigmoid(b)
        return (x + self.conv1x1_out(gated)) * math.sqrt(0.5), self.conv1x1_skip(gated)


class Upsampling(nn.Module):
    """Mels at the sample rate: a conv over five frames, then repeats, each smoothed by a conv along time."""

    def __init__(self, mels: int, factors: Sequence[int]) -> None:
        super().__init__()
        self.conv_in = nn.Conv1d(mels, mels, 5, padding=2, padding_mode="replicate", bias=False)
        self.factors = tuple(factors)
        self.smoothing = nn.ModuleList()
        for factor in factors:
            conv = nn.Conv2d(1, 1, (1, 2 * factor + 1), padding=(0, factor), bias=False)
            nn.init.constant_(conv.weight, 1 / (2 * factor + 1))
            self.smoothing.append(conv)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (B, mels, F) -> (B, mels, F * product of the factors)"""
        x = self.conv_in(mel)[:, None]
        for factor, conv in zip(self.factors, self.smoothing, strict=True):
            x = conv(x[..., None].expand(-1, -1, -1, -1, factor).flatten(3))
        return x[:, 0]
