"""BigVGAN against a plain rebuild: its filters are scipy's, applied to samples with zeros between them."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import firwin
from torch.nn import functional as F

from tasks.tts_vocoder import generators
from tasks.tts_vocoder.generators.bigvgan import AntiAliased, Snake
from tasks.tts_vocoder.mels.mel import MelConfig

TAPS = np.float64(firwin(12, 0.5, window=("kaiser", 0.1102 * (51 - 8.7))).astype(np.float32))


def snake(x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """(C, T): at twice the rate, by zeros between the samples and twice the filter; then every second one."""
    made = []
    for row, a in zip(x, alpha, strict=True):
        between = np.zeros(2 * (len(row) + 20))
        between[::2] = np.pad(row, 10, mode="edge")
        # Sample n is at 2 n + 20 here, and the filter's middle half a sample beyond its tap 5.
        doubled = np.convolve(between, 2 * TAPS)[25 : 25 + 2 * len(row)]
        doubled = doubled + np.sin(a * doubled) ** 2 / a
        filtered = np.convolve(np.pad(doubled, (5, 6), mode="edge"), TAPS, mode="valid")
        made.append(filtered[::2])
    return np.array(made)


def rebuilt(network: Any, mel: torch.Tensor) -> torch.Tensor:
    """Lee et al., figure 1 and section 3."""
    w = dict(network.named_parameters())

    def conv(name: str, x: torch.Tensor, dilation: int = 1) -> torch.Tensor:
        weight = w[f"{name}.weight"]
        return F.conv1d(x, weight, w[f"{name}.bias"], padding=dilation * (weight.shape[2] // 2), dilation=dilation)

    def activated(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(snake(x[0].numpy(), w[f"{name}.activation.alpha"].numpy()))[None]

    x = conv("conv_pre", mel)
    for stage in range(2):
        x = F.conv_transpose1d(x, w[f"ups.{stage}.weight"], w[f"ups.{stage}.bias"], stride=16, padding=8)
        total = torch.zeros_like(x)
        for block in range(2):
            y, name = x, f"resblocks.{2 * stage + block}"
            for k, dilation in enumerate((1, 3)):
                z = conv(f"{name}.convs1.{k}", activated(f"{name}.activations1.{k}", y), dilation)
                y = y + conv(f"{name}.convs2.{k}", activated(f"{name}.activations2.{k}", z))
            total = total + y
        x = total / 2
    return torch.tanh(conv("conv_post", activated("activation_post", x)))


@torch.no_grad()
def test_it_is_the_published_architecture() -> None:
    sizes = {"channels": 8, "upsampling": (16, 16), "kernels": (3, 5), "dilations": (1, 3)}
    network = generators.build("bigvgan_base", MelConfig(), **sizes).double().eval()
    generators.remove_weight_norm(network)
    for name, parameter in network.named_parameters():
        if name.endswith("alpha"):
            parameter.mul_(0.5 + torch.rand_like(parameter))
    mel = torch.randn(1, 80, 3, dtype=torch.float64)
    expected = rebuilt(network, mel)
    assert expected.std() > 1e-4
    torch.testing.assert_close(network(mel), expected, rtol=1e-7, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("cycles", [0.05, 0.32])
def test_no_harmonics_are_heard_at_other_frequencies(cycles: float) -> None:
    """Of a tone of 0.32 cycles a sample, the second harmonic would be heard at 0.36, as loud as it was made: with 12
    taps, a quarter of it is left. That of a tone of 0.05 is at 0.1, where it belongs.
    """
    tone = torch.sin(2 * torch.pi * cycles * torch.arange(2000.0))[None, None]
    plain, filtered = Snake(1), AntiAliased(Snake(1))
    heard = 0.1 if cycles == 0.05 else 0.36

    def loudness(wave: torch.Tensor) -> float:
        return float(torch.fft.rfft(wave[0, 0, 100:1900] * torch.hann_window(1800)).abs()[round(1800 * heard)])

    share = loudness(filtered(tone)) / loudness(plain(tone))
    assert share > 0.9 if cycles == 0.05 else share < 0.3


def test_parameter_counts_are_the_published_ones() -> None:
    """The README of NVIDIA/BigVGAN: 14 M and 112 M, with 100 bands at 24 kHz; the norms' scales are not counted. The
    file of the smaller generator there, of 32-bit numbers, has 56.3 MB."""
    mel = MelConfig(sample_rate=24000, mels=100, fmax=None)
    for name, published in (("bigvgan_base", 14), ("bigvgan", 112)):
        with torch.device("meta"):
            network = generators.build(name, mel)
        count = sum(p.numel() for key, p in network.named_parameters() if not key.endswith("original0"))
        assert round(count / 1e6) == published
        assert name == "bigvgan" or round(4 * count / 1e6) == 56
