"""The generator that a config describes."""

from torch import nn

from tasks.tts_vocoder import generators
from tasks.tts_vocoder.config import Config

SIZES = {"parallel_wavegan": ("layers", "upsampling"), "vocos": ("dim", "layers")}
"""Which of the config's sizes a generator has; HiFi-GAN has the others."""


def build(config: Config) -> nn.Module:
    """The untrained generator. Raises ValueError if the sizes do not fit it or the mels."""
    known = SIZES.get(config.generator, ("channels", "upsampling"))
    for size in config.sizes:
        if size not in known:
            raise ValueError(f"{config.generator} has no size {size!r}; it has: {', '.join(known)}")
    return generators.build(config.generator, config.mel, **config.sizes)


def generator_of(model: nn.Module) -> generators.Generator:
    if not isinstance(model, generators.Generator):
        raise TypeError(f"{type(model).__name__} is no generator; make it by build()")
    return model
