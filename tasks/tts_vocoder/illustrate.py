"""Pictures of synthesised speech: log-mel spectrograms, the truth above the output."""

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from rfnext.files import write_bytes
from tasks.spec import Split
from tasks.tts_vocoder.config import Config
from tasks.tts_vocoder.data import Clips
from tasks.tts_vocoder.datasets import open_fold
from tasks.tts_vocoder.evaluation import copy_synthesis
from tasks.tts_vocoder.generators import Generator
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.metrics import log_mel_l1
from tasks.tts_vocoder.models import generator_of

CLIPS = 2
"""Clips per picture."""

SECONDS = 2.0
"""Seconds of each clip, from its beginning; longer pictures would be too dense."""

COLOURS = 12
"""So few because noise with more colours compresses badly."""


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """One picture of a part's first clips; see `pixels`."""
    path = folder / f"fold{split.fold}-{split.part}.png"
    spectrograms(generator_of(model), open_fold(config, split.fold).part(split.part), path)
    return [path]


def spectrograms(network: Generator, clips: Clips, path: Path) -> None:
    """Draw the first clips to a PNG file; see `pixels`. Raises OSError if the file cannot be written."""
    buffer = io.BytesIO()
    _draw(network, clips).print_png(buffer)
    write_bytes(path, buffer.getvalue())


def pixels(network: Generator, clips: Clips) -> NDArray[np.uint8]:
    """Truth and output of the first clips side by side, one row a clip: (height, width, 3)."""
    canvas = _draw(network, clips)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw(network: Generator, clips: Clips) -> FigureCanvasAgg:
    config, shown = network.mel_config.compared, clips.first(CLIPS)
    log_mel, seconds = LogMel(config), config.hop / config.sample_rate
    figure = Figure(figsize=(8, 0.4 + 1.8 * len(shown)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    rows = figure.subplots(len(shown), 2, squeeze=False, sharey=True)
    for row, name, (truth, output) in zip(rows, shown.names, copy_synthesis(network, shown), strict=True):
        distance = log_mel_l1(truth, output, config)
        titles = (f"{name}, truth", f"output, {distance:.2f} nat away")
        for axes, wave, title in zip(row, (truth, output), titles, strict=True):
            mel = log_mel(torch.from_numpy(wave)[None])[0].numpy()[:, : round(SECONDS / seconds)]
            axes.imshow(
                mel,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                cmap=colormaps["magma"].resampled(COLOURS),
                vmin=np.log(config.floor),
                vmax=2,
                extent=(0, mel.shape[1] * seconds, 0, config.mels),
            )
            axes.set_title(title, fontsize=9, loc="left")
            axes.tick_params(labelsize=8)
        row[0].set_ylabel("mel band", fontsize=8)
    for axes in rows[-1]:
        axes.set_xlabel("seconds", fontsize=8)
    return canvas
