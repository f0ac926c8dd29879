"""Losses: adversarial, feature matching, mel, and multi-resolution STFT. All return scalars; lower is better."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig

MEL_WEIGHT = 45.0
"""Weight of the mel loss (HiFi-GAN, section 2.4)."""
FEATURE_WEIGHT = 2.0
"""Weight of feature matching (HiFi-GAN, section 2.4)."""


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Least squares: mean (1 - D(x))^2 + mean D(G(s))^2, summed over members (HiFi-GAN, equation 1).

    Args:
        real, fake: scores of real and generated waves, one tensor per member.
    """
    terms = [(1 - r).square().mean() + f.square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).sum()


def adversarial_loss(fake: Sequence[Tensor]) -> Tensor:
    """The generator's part: mean (1 - D(G(s)))^2, summed over members (HiFi-GAN, equation 2)."""
    return torch.stack([(1 - f).square().mean() for f in fake]).sum()


def feature_matching_loss(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Tensor:
    """Mean distance |D_i(x) - D_i(G(s))| of feature maps, summed over layers and members (HiFi-GAN, equation 4).

    No gradient flows into the maps of the real waves. Without `FEATURE_WEIGHT`.
    """
    terms = [
        F.l1_loss(f, r.detach())
        for real_maps, fake_maps in zip(real, fake, strict=True)
        for r, f in zip(real_maps, fake_maps, strict=True)
    ]
    return torch.stack(terms).sum()


class MelLoss(nn.Module):
    """Mean distance |mel(x) - mel(G(s))| (HiFi-GAN, equation 3), without `MEL_WEIGHT`.

    `config` may have other bands than the generator's: the published training compares up to half the sample rate.
    """

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.log_mel = LogMel(config)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """fake, real: (B, 1, T) -> ()"""
        return F.l1_loss(self.log_mel(fake.squeeze(1)), self.log_mel(real.squeeze(1)))


class MultiResolutionSTFT(nn.Module):
    """Spectral convergence plus distance of log magnitudes, averaged over resolutions (Parallel WaveGAN, equations 3 to
    6), by `auraloss`.

    Args:
        resolutions: (n_fft, hop, window) each; those of the paper are for 24 kHz.
    """

    def __init__(
        self, resolutions: Sequence[tuple[int, int, int]] = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
    ) -> None:
        super().__init__()
        from auraloss.freq import MultiResolutionSTFTLoss

        n_ffts, hops, windows = (list(column) for column in zip(*resolutions, strict=True))
        self.loss = MultiResolutionSTFTLoss(n_ffts, hops, windows)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """fake, real: (B, 1, T) -> ()"""
        with torch.autocast(fake.device.type, enabled=False):
            return self.loss(fake.float(), real.float())
