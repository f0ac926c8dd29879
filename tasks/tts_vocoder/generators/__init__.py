"""Generators: log-mel spectrograms to waveforms."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rfnext import Conv
from tasks.tts_vocoder.generators.bigvgan import BigVGAN
from tasks.tts_vocoder.generators.generator import Dilated, Generator, remove_weight_norm, weight_norm
from tasks.tts_vocoder.generators.hifi_gan import HiFiGAN
from tasks.tts_vocoder.generators.parallel_wavegan import ParallelWaveGAN
from tasks.tts_vocoder.generators.source_filter import SourceFilter
from tasks.tts_vocoder.generators.streaming import CausalHiFiGAN, Stream
from tasks.tts_vocoder.generators.vocos import ISTFT, Vocos
from tasks.tts_vocoder.mels.mel import MelConfig

__all__ = [
    "GENERATORS",
    "ISTFT",
    "BigVGAN",
    "CausalHiFiGAN",
    "Dilated",
    "Generator",
    "HiFiGAN",
    "ParallelWaveGAN",
    "SourceFilter",
    "Stream",
    "Vocos",
    "build",
    "remove_weight_norm",
    "searched",
    "weight_norm",
]

GENERATORS: Mapping[str, Callable[..., Generator]] = {
    "hifi_gan_v1": partial(HiFiGAN, channels=512),
    "hifi_gan_v2": partial(HiFiGAN, channels=128),
    "hifi_gan_v3": partial(
        HiFiGAN,
        channels=256,
        upsampling=(8, 8, 4),
        kernels=(3, 5, 7),
        dilations=((1, 2), (2, 6), (3, 12)),
        paired=False,
    ),
    "causal_hifi_gan": partial(CausalHiFiGAN, channels=128),
    "bigvgan_base": BigVGAN,
    "bigvgan": partial(BigVGAN, channels=1536, upsampling=(4, 4, 2, 2, 2, 2)),
    "parallel_wavegan": ParallelWaveGAN,
    "vocos": Vocos,
    "source_filter": SourceFilter,
}
"""The published networks, and small or causal ones of this repository, by name; their sizes are keyword arguments."""


def build(name: str, mel: MelConfig, **sizes: Any) -> Generator:
    """The untrained generator of a name, for mels of a configuration; torch's seed decides its weights.

    Args:
        name: one of `GENERATORS`.
        mel: its hop must be the product of the upsampling factors.
        sizes: instead of the published ones, see the class; smaller for tests and quick runs.

    Raises:
        ValueError: for an unknown name or sizes that do not fit each other or the mels.
    """
    if name not in GENERATORS:
        raise ValueError(f"unknown generator {name!r}; known are {', '.join(GENERATORS)}")
    return GENERATORS[name](mel, **sizes)


def searched(name: str, conv: Conv) -> bool:
    """The `Where` of all generators: the convs of the residual blocks of HiFi-GAN and BigVGAN, the dilated convs of
    Parallel WaveGAN, the depthwise convs of Vocos and of the source-filter network."""
    return isinstance(conv, Dilated)
