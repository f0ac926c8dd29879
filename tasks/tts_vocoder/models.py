"""The generator that a config describes."""

from torch import nn

from tasks.fingerprints import starting
from tasks.tts_vocoder import generators, released
from tasks.tts_vocoder.config import SIZES, Config


def build(config: Config) -> nn.Module:
    """The untrained generator; torch's seed decides its weights, or `config.init` has them.

    Raises ValueError for sizes that do not fit the generator or the mels, and for a checkpoint of another network.
    """
    known = SIZES.get(config.generator, ("channels", "upsampling"))
    for size in config.sizes:
        if size not in known:
            raise ValueError(f"{config.generator} has no size {size!r}; it has: {', '.join(known)}")
    network = generators.build(config.generator, config.mel, **config.sizes)
    if config.init is not None:
        with starting():
            released.load_weights(network, config.init)
    return network


def generator_of(model: nn.Module) -> generators.Generator:
    """The model itself. Raises TypeError if it is no generator."""
    if not isinstance(model, generators.Generator):
        raise TypeError(f"{type(model).__name__} is no generator; make it by build()")
    return model
