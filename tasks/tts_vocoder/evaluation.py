"""Speech of a trained generator, its scores, and what its receptive fields are measured on."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rfnext import reproducible
from tasks.diverged import NotFinite, diverged, finite
from tasks.spec import Probe, Split
from tasks.tts_vocoder import metrics
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.data import Clips
from tasks.tts_vocoder.datasets import open_fold
from tasks.tts_vocoder.generators import Generator
from tasks.tts_vocoder.measures import METRICS, SHORTEST
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.models import generator_of
from tasks.tts_vocoder.recordings.clips import Clip, Wave

PROBED = 4
"""Clips that receptive fields are measured on."""

PROBED_FRAMES = 64
"""Frames of each, from its middle."""


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    """Copy synthesis of the part's clips, measured by `metrics.score`; all are nan if the training diverged or
    an output overflows."""
    none = {metric.name: math.nan for metric in METRICS}
    if diverged(model):
        return none
    clips = open_fold(config, split.fold).part(split.part)
    try:
        return metrics.score(copy_synthesis(generator_of(model), clips), config.mel)
    except NotFinite:
        return none


@torch.no_grad()
def synthesise(network: Generator, mel: Tensor) -> Tensor:
    """Waves (B, F * hop) within [-1, 1] of log-mels (B, mels, F), in float32 on the CPU.

    Runs on the network's device in evaluation mode and leaves the mode as it was. Raises NotFinite.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        with reproducible(device), finite(network):
            wave = network(mel.to(device))[:, 0]
    finally:
        network.train(training)
    return wave.float().clamp(-1, 1).cpu()


def copy_synthesis(network: Generator, clips: Clips) -> Iterator[tuple[Wave, Wave]]:
    """(truth, output) of every clip: the output is made from the mel beside the recording, or, if there is none, from
    the truth's. Both are whole frames long."""
    log_mel = LogMel(network.mel_config)
    for clip in clips:
        mel, truth = _input(clip, log_mel)
        yield truth, synthesise(network, mel)[0].numpy()


def _input(clip: Clip, log_mel: LogMel) -> tuple[Tensor, Wave]:
    """The mel (1, mels, F) that a clip is synthesised from, and the truth of F * hop samples."""
    truth = _whole_frames(clip.wave, log_mel.config)
    if clip.mel is not None:
        missing = len(truth) // log_mel.config.hop - clip.mel.shape[1]
        return F.pad(clip.mel[None], (0, missing), value=log_mel.config.silence), truth
    return log_mel(torch.from_numpy(truth)[None]), truth


def _whole_frames(wave: Wave, config: MelConfig) -> Wave:
    # Fewer samples than a transform has cannot be reflected at their ends.
    wave = np.pad(wave, (0, max(0, max(config.n_fft, SHORTEST) - len(wave))))
    return wave[: len(wave) // config.hop * config.hop]


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    """What receptive fields are measured on: the middle of up to `PROBED` clips, the first ones of the part.

    The output is the waveform, (B, 1, F * hop) for mels (B, mels, F), a sample at a time: over a block of samples
    the gradients of a wave would cancel. Distances are mel frames. A network that makes a source of the mels is
    measured with a given one: the phase of a pulse train depends on all frames before.
    """
    network = generator_of(model)
    device = next(network.parameters()).device
    log_mel, inputs = LogMel(network.mel_config), []
    for clip in open_fold(config, split.fold).part(split.part).first(PROBED):
        mel, _ = _input(clip, log_mel)
        start = max(0, (mel.shape[2] - PROBED_FRAMES) // 2)
        inputs.append(mel[:, :, start : start + PROBED_FRAMES].to(device))
    return Probe(
        forward=lambda mel: network(mel, *network.inputs(torch.zeros_like(mel))[1:]),
        inputs=inputs,
        unit="mel frames",
        step=(1.0,),
        output="a sample of the waveform",
    )
