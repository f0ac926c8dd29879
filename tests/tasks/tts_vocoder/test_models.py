"""The generator of a config."""

import pytest

from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.task import TASK


def test_sizes_that_the_generator_lacks():
    with pytest.raises(ValueError, match="vocos has no size 'channels'; it has: layers, dim"):
        TASK.build(Config(generator="vocos", channels=8))


def test_mel_that_does_not_fit_the_generator():
    with pytest.raises(ValueError, match=r"makes 256 samples of a frame, but the mel configuration has hop 128"):
        TASK.build(Config(mel=MelConfig(hop=128)))
