"""Vocos: Siuzdak, "Vocos: Closing the Gap Between Time-Domain and Fourier-Based Neural Vocoders for High-Quality Audio
Synthesis", ICLR 2024, section 3."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.tts_vocoder.generators.generator import Dilated, Generator, check_sizes
from tasks.tts_vocoder.mels.mel import MelConfig


class Vocos(Generator):
    """ConvNeXt blocks at the frame rate, then magnitudes and phases of an inverse short-time Fourier transform.

    Args:
        mel: configuration of the mels.
        dim: channels.
        intermediate: channels between the two 1x1 convs of a block; None: 3 * dim.
        layers: blocks.
        kernel: of the depthwise convs.
    """

    def __init__(
        self, mel: MelConfig, *, dim: int = 512, intermediate: int | None = None, layers: int = 8, kernel: int = 7
    ) -> None:
        super().__init__(mel)
        intermediate = 3 * dim if intermediate is None else intermediate
        check_sizes(dim=dim, intermediate=intermediate, layers=layers, kernel=kernel)
        self.backbone = Backbone(mel.mels, dim, intermediate, layers, kernel)
        self.head = Head(dim, mel)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (B, mels, F) -> (B, 1, F * hop)"""
        self.check(mel)
        return self.head(self.backbone(mel))


class Backbone(nn.Module):
    """A conv from mels to channels, ConvNeXt blocks, and layer norms before and after them."""

    def __init__(self, mels: int, dim: int, intermediate: int, layers: int, kernel: int) -> None:
        super().__init__()
        self.embed = nn.Conv1d(mels, dim, 7, padding=3)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.convnext = nn.ModuleList(ConvNeXtBlock(dim, intermediate, kernel, 1 / layers) for _ in range(layers))
        self.final_layer_norm = nn.LayerNorm(dim, eps=1e-6)
        for module in self.modules():
            if isinstance(module, (nn.Conv1d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, mel: Tensor) -> Tensor:
        """mel: (B, mels, F) -> (B, F, dim)"""
        x = self.norm(self.embed(mel).mT).mT
        for block in self.convnext:
            x = block(x)
        return self.final_layer_norm(x.mT)


class ConvNeXtBlock(nn.Module):
    """Liu et al., "A ConvNet for the 2020s", CVPR 2022, in one dimension; `scale` is where gamma starts."""

    def __init__(self, dim: int, intermediate: int, kernel: int, scale: float) -> None:
        super().__init__()
        self.dwconv = Dilated(dim, dim, kernel, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, intermediate)
        self.pwconv2 = nn.Linear(intermediate, dim)
        self.gamma = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, dim, F) -> the same shape"""
        y = self.norm(self.dwconv(x).mT)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.mT


class Head(nn.Module):
    """Logarithm of the magnitude and phase of every frequency, and their inverse transform."""

    def __init__(self, dim: int, mel: MelConfig) -> None:
        super().__init__()
        self.out = nn.Linear(dim, mel.n_fft + 2)
        self.istft = ISTFT(mel.n_fft, mel.hop, mel.window)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, F, dim) -> (B, 1, F * hop)"""
        y = self.out(x)
        # Half precision, under autocast, is too coarse for phases.
        logarithm, phase = y.to(torch.promote_types(y.dtype, torch.float32)).mT.chunk(2, dim=1)
        magnitude = logarithm.exp().clamp(max=100.0)  # the paper's bound against steps that explode
        return self.istft(magnitude * phase.cos(), magnitude * phase.sin())


class ISTFT(nn.Module):
    """Inverse short-time Fourier transform that makes `hop` samples of every frame ("same" padding), Hann window.

    What `torch.istft(center=False)` returns, with (n_fft - hop) / 2 samples cut off at both ends, where it refuses to
    divide by the window's zeros.

    Raises:
        ValueError: if the window leaves samples with no weight.
    """

    window: Tensor
    basis: Tensor

    def __init__(self, n_fft: int, hop: int, window: int) -> None:
        super().__init__()
        self.n_fft, self.hop, self.cut = n_fft, hop, (n_fft - hop) // 2
        before = (n_fft - window) // 2
        shape = F.pad(torch.hann_window(window, dtype=torch.float64), (before, n_fft - window - before))
        if shape[self.cut : self.cut + hop].min() < 1e-3:  # all that a lone frame has
            raise ValueError(f"window {window} is too short for hop {hop}: samples between two frames have no weight")
        one = torch.eye(n_fft // 2 + 1, dtype=torch.complex128)
        basis = torch.cat((torch.fft.irfft(one, n_fft), torch.fft.irfft(1j * one, n_fft))) * shape
        self.register_buffer("window", shape.float(), persistent=False)
        self.register_buffer("basis", basis.float(), persistent=False)

    def forward(self, real: Tensor, imaginary: Tensor) -> Tensor:
        """real, imaginary: (B, n_fft / 2 + 1, F), not of half precision -> (B, 1, F * hop)"""
        overlapping = self.by_product if torch.compiler.is_exporting() else self.by_fft
        length = self.hop * real.shape[2]
        wave, weight = (x.narrow(2, self.cut, length) for x in overlapping(real, imaginary))
        return wave / weight

    def by_fft(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over frames of the windowed waves, (B, 1, T), and of the squared window, (1, 1, T)."""
        frames = real.shape[2]
        waves = torch.fft.irfft(torch.complex(real, imaginary).mT, self.n_fft).mT * self.window[:, None]
        squares = self.window.square()[None, :, None].expand(-1, -1, frames)
        size = (1, (frames - 1) * self.hop + self.n_fft)
        wave, weight = (F.fold(x, size, (1, self.n_fft), stride=(1, self.hop)) for x in (waves, squares))
        return wave[:, :, 0], weight[:, :, 0]

    def by_product(self, real: Tensor, imaginary: Tensor) -> tuple[Tensor, Tensor]:
        """The same without complex numbers, which ONNX lacks: the transform is a matrix; 2 to 5 times slower."""
        wave = F.conv_transpose1d(torch.cat((real, imaginary), dim=1), self.basis[:, None], stride=self.hop)
        squares = self.window.square()[None, None]
        return wave, F.conv_transpose1d(torch.ones_like(real[:1, :1]), squares, stride=self.hop)
