"""Losses on values worked out by hand and on known changes of a signal."""

import math

import numpy as np
import pytest
import torch

from tasks.tts_vocoder.losses import (
    FEATURE_WEIGHT,
    MEL_WEIGHT,
    MelLoss,
    MultiResolutionSTFT,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from tasks.tts_vocoder.mels.mel import MelConfig


def test_adversarial_losses():
    real = [torch.tensor([[1.0, 0.5]]), torch.tensor([[2.0]])]
    fake = [torch.tensor([[0.0, 1.0]]), torch.tensor([[-1.0]])]
    # (0 + 0.25) / 2 + (0 + 1) / 2, then 1 + 1
    assert discriminator_loss(real, fake) == 0.125 + 0.5 + 2
    assert adversarial_loss(fake) == 0.5 + 4
    perfect = discriminator_loss([torch.ones(1, 3)], [torch.zeros(1, 3)])
    assert perfect == 0
    assert adversarial_loss([torch.ones(1, 3)]) == 0


def test_feature_matching():
    real = [[torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([0.0])], [torch.tensor([3.0])]]
    fake = [[torch.tensor([2.0, 2.0], requires_grad=True), torch.tensor([-2.0])], [torch.tensor([3.0])]]
    loss = feature_matching_loss(real, fake)
    assert loss == 0.5 + 2 + 0
    loss.backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad.tolist() == [0.5, 0.0]


def test_members_must_pair():
    with pytest.raises(ValueError, match="shorter"):
        discriminator_loss([torch.ones(1, 1)] * 2, [torch.ones(1, 1)])


def test_published_weights():
    assert (MEL_WEIGHT, FEATURE_WEIGHT) == (45, 2)  # HiFi-GAN, section 2.4


def test_mel_loss():
    wave = 0.3 * torch.randn(2, 1, 8192)
    loss = MelLoss(MelConfig(fmax=None))
    assert loss(wave, wave) == 0
    # A gain moves every logarithm by the same amount.
    assert float(loss(math.e * wave, wave)) == pytest.approx(1, abs=1e-3)


def by_numpy(fake: np.ndarray, real: np.ndarray, n_fft: int, hop: int, window: int) -> float:
    """Yamamoto et al. 2020, equations 4 and 5, with the transform as torch centres it, one frame after the other."""

    def magnitudes(wave):
        before = (n_fft - window) // 2
        hann = np.zeros(n_fft)
        hann[before : before + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        padded = np.pad(wave, n_fft // 2, mode="reflect")
        frames = [padded[i : i + n_fft] * hann for i in range(0, len(padded) - n_fft + 1, hop)]
        return np.sqrt(np.maximum(np.abs(np.fft.rfft(frames, axis=1)) ** 2, 1e-8))

    f, r = magnitudes(fake), magnitudes(real)
    return float(np.linalg.norm(r - f) / np.linalg.norm(r) + np.abs(np.log(f) - np.log(r)).mean())


def test_multi_resolution_stft_equals_its_definition():
    rng = np.random.default_rng(0)
    fake, real = 0.3 * rng.standard_normal((2, 4000))
    resolutions = ((256, 60, 200), (512, 100, 512))
    expected = np.mean([by_numpy(fake, real, *resolution) for resolution in resolutions])
    waves = [torch.from_numpy(wave.astype(np.float32))[None, None] for wave in (fake, real)]
    assert float(MultiResolutionSTFT(resolutions)(*waves)) == pytest.approx(expected, rel=1e-4)


def test_multi_resolution_stft_of_known_changes():
    wave = 0.3 * torch.randn(2, 1, 8192)
    loss = MultiResolutionSTFT()
    assert loss(wave, wave) == 0
    # Half the amplitude: half the norm is missing, and log 2 everywhere.
    assert float(loss(wave / 2, wave)) == pytest.approx(0.5 + math.log(2), rel=1e-3)


def test_silence_has_finite_gradients():
    target = torch.zeros(1, 1, 4096)
    target[..., :1000] = 0.1 * torch.randn(1000)
    for loss in (MelLoss(MelConfig()), MultiResolutionSTFT()):
        for real in (target, torch.zeros_like(target)):
            wave = torch.zeros(1, 1, 4096, requires_grad=True)
            loss(wave, real).backward()
            assert wave.grad is not None
            assert wave.grad.isfinite().all()


def test_half_precision_around_them_changes_nothing():
    fake, real = 0.3 * torch.randn(2, 1, 1, 4096)
    for loss in (MelLoss(MelConfig()), MultiResolutionSTFT()):
        with torch.autocast("cpu", torch.bfloat16):
            inside = loss(fake, real)
        assert torch.equal(inside, loss(fake, real))
