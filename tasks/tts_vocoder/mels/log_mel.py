"""Log-mel spectrograms of waveforms, by the settings of `mel`."""

import functools
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.tts_vocoder.mels.compiled_librosa import compiled
from tasks.tts_vocoder.mels.mel import CONVENTIONS, MelConfig


class LogMel(nn.Module):
    """Waveforms to logarithms of mel magnitudes, by the configuration's convention.

    By HiFi-GAN's, they are natural, and the bands Slaney's at unit area (`librosa.filters.mel`). The ends are reflected
    so that frame f is centred on samples f * hop to (f + 1) * hop, those that a generator makes from it.

    Raises:
        ValueError: if the bands are so narrow that some hold no frequency of the transform.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        # Not in the state_dict: they follow from the configuration.
        self.register_buffer("window", torch.hann_window(config.window), persistent=False)
        self.register_buffer("filters", filters(config).clone(), persistent=False)

    def forward(self, wave: Tensor) -> Tensor:
        """wave: (B, T) within [-1, 1] -> (B, mels, T // hop), float32.

        Raises:
            ValueError: if the wave is not (B, T), or too short to be reflected at its ends.
        """
        c = self.config
        convention = CONVENTIONS[c.convention]
        before = c.n_fft // 2 if convention.centred else (c.n_fft - c.hop) // 2
        after = c.n_fft - c.hop - before
        most = max(before, after)
        if wave.dim() != 2 or wave.shape[1] < max(most + 1, c.hop):
            raise ValueError(
                f"wave must be (B, T) with T of at least {max(most + 1, c.hop)} samples, got {tuple(wave.shape)}"
            )
        # Half precision cannot hold a spectrum's range.
        with torch.autocast(wave.device.type, enabled=False):
            padded = F.pad(wave.float()[:, None], (before, after), mode="reflect").squeeze(1)
            spectrum = torch.stft(padded, c.n_fft, c.hop, c.window, self.window, center=False, return_complex=True)
            if convention.offset:
                magnitude = torch.sqrt(spectrum.real.square() + spectrum.imag.square() + convention.offset)
            else:
                magnitude = spectrum.abs()
            bands = torch.clamp(self.filters @ magnitude, min=c.floor)
            return torch.log10(bands) if convention.base == 10 else torch.log(bands)


@functools.lru_cache(maxsize=16)
def filters(config: MelConfig) -> Tensor:
    """Weights of the bands, (mels, n_fft / 2 + 1), float32; do not write into it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Empty filters detected", UserWarning)
        warnings.filterwarnings("error", "At least one mel filterbank has all zero values", UserWarning)
        try:
            return _htk(config) if CONVENTIONS[config.convention].htk else _slaney(config)
        except UserWarning:
            raise ValueError(
                f"{config.mels} mel bands from {config.fmin} to {config.top} Hz are too narrow for n_fft "
                f"{config.n_fft} at {config.sample_rate} Hz: some hold no frequency; take fewer mels or a larger n_fft"
            ) from None


def _slaney(config: MelConfig) -> Tensor:
    return torch.from_numpy(
        compiled().filters.mel(
            sr=config.sample_rate, n_fft=config.n_fft, n_mels=config.mels, fmin=config.fmin, fmax=config.top
        )
    )


def _htk(config: MelConfig) -> Tensor:
    try:
        from torchaudio.functional import melscale_fbanks  # slow to import
    except ImportError as error:
        raise ValueError(f"mels of convention {config.convention} need the package torchaudio ({error})") from error
    return melscale_fbanks(config.n_fft // 2 + 1, config.fmin, config.top, config.mels, config.sample_rate).T
