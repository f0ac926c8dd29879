"""Pictures of predictions: images, their labels, and what was predicted."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rfnext.files import write_bytes
from tasks.pictures import colour, png, sheet
from tasks.semantic_segmentation.config import Config
from tasks.semantic_segmentation.datasets import open_fold
from tasks.semantic_segmentation.evaluation import predict
from tasks.semantic_segmentation.folder import IGNORED
from tasks.spec import Split

IMAGES = 4
"""Images per picture."""

TILE = 160
"""Longer side of an image in a picture, in pixels."""

Pixels = NDArray[np.uint8]


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """One PNG of four images, spread evenly over the part: above the image, below it its labels, then the prediction.

    Raises OSError if the file cannot be written.
    """
    samples = open_fold(config, split.fold).part(split.part)
    chosen = np.unique(np.linspace(0, len(samples) - 1, IMAGES).round().astype(int)).tolist()
    rows: list[list[Pixels]] = [[], [], []]
    for index in chosen:
        sample = samples[index]
        found = predict(model, sample.image, config.image)
        for row, tile in zip(rows, (sample.image, coloured(sample.labels), coloured(found)), strict=True):
            row.append(tile)
    path = folder / f"fold{split.fold}-{split.part}.png"
    write_bytes(path, png(sheet(rows, TILE)))
    return [path]


def palette() -> Pixels:
    """A colour for each value of a label, (256, 3); white for `IGNORED`."""
    colours = np.array([colour(number) for number in range(256)], np.uint8)
    colours[IGNORED] = 255
    return colours


def coloured(labels: Pixels) -> Pixels:
    """Labels (H, W) as a picture (H, W, 3)."""
    return palette()[labels]
