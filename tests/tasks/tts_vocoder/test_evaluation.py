"""Synthesis, and copy synthesis of recordings."""

import numpy as np
import torch

from tasks.tts_vocoder.data import open_recordings
from tasks.tts_vocoder.evaluation import copy_synthesis, synthesise
from tasks.tts_vocoder.generators import build
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.recordings.clips import Shape

MEL = MelConfig(sample_rate=8000, n_fft=256, hop=64, window=256, mels=20, fmax=4000.0)


def hifi_gan():
    return build("hifi_gan_v3", MEL, channels=16, upsampling=(8, 8))


def test_shape_range_and_mode():
    model = hifi_gan()
    with torch.no_grad():
        model.conv_post.bias += 100
    for mode in (True, False):
        model.train(mode)
        wave = synthesise(model, torch.randn(2, 20, 5))
        assert wave.shape == (2, 5 * 64)
        assert wave.max() <= 1
        assert model.training is mode


def test_copy_synthesis_shows_the_generator_the_truths_mel(espeak):
    recordings = open_recordings(espeak, Shape(8000, 4000.0), test=1, validation=2, clips=8)
    model = hifi_gan()
    truth, output = next(copy_synthesis(model, recordings.test))
    wave = recordings.test[0].wave
    assert len(truth) == len(output) == len(wave) // 64 * 64
    mel = LogMel(MEL)(torch.from_numpy(truth)[None])
    assert np.array_equal(output, synthesise(model, mel)[0].numpy())
