"""Pictures of predictions: segmentation strips, the truth above the prediction."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import nn

from rfnext.files import write_bytes
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.datasets import open_fold
from tasks.action_segmentation.evaluation import predict
from tasks.spec import Split

VIDEOS = 4
"""Videos per picture."""


class Strip(NamedTuple):
    """One video of a picture: its rows, from the top, as name -> class index of every frame, (T)."""

    title: str
    rows: Mapping[str, NDArray[np.int64]]


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """One picture of a part: up to four videos, spread evenly over it, with the truth above the prediction.

    Raises OSError if the file cannot be written.
    """
    dataset = open_fold(config, split.fold)
    videos = dataset.part(split.part)
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(VIDEOS, len(videos))).round().astype(int)).tolist()
    strips = []
    for video in (videos[index] for index in chosen):
        prediction = predict(model, video.features, dataset.step, len(video.full_labels))
        strips.append(compared(video.name, prediction, video.full_labels))
    path = folder / f"fold{split.fold}-{split.part}.png"
    draw(strips, dataset.classes, path)
    return [path]


def compared(name: str, prediction: NDArray[np.int64], truth: NDArray[np.int64]) -> Strip:
    """The strip of a labelled video; both (T)."""
    accuracy = 100 * np.mean(prediction == truth)
    return Strip(f"{name}, {accuracy:.0f} % of frames correct", {"truth": truth, "prediction": prediction})


def draw(strips: Sequence[Strip], classes: Sequence[str], path: Path) -> None:
    """Draw videos one below the other to a PNG file, one colour a class. Raises OSError if it cannot be written."""
    colours = _colours(len(classes))
    figure = Figure(figsize=(10, 0.6 + sum(0.3 + 0.25 * len(strip.rows) for strip in strips)), layout="constrained")
    axes = figure.subplots(len(strips), 1, squeeze=False)[:, 0]
    shown: set[int] = set()
    for row, strip in zip(axes, strips, strict=True):
        labels = np.stack(list(strip.rows.values()))
        count, frames = labels.shape
        shown |= set(np.unique(labels).tolist())
        row.imshow(
            labels,
            cmap=colours,
            vmin=0,
            vmax=len(classes) - 1,
            aspect="auto",
            interpolation="nearest",
            extent=(0, frames, count, 0),
        )
        for boundary in range(1, count):
            row.axhline(boundary, color="white", linewidth=2)
        row.set_title(strip.title, fontsize=9, loc="left")
        row.set_yticks([k + 0.5 for k in range(count)], list(strip.rows), fontsize=8)
        row.tick_params(axis="x", labelsize=8)
    axes[-1].set_xlabel("frame", fontsize=8)
    figure.legend(
        handles=[Patch(color=colours(index), label=classes[index]) for index in sorted(shown)],
        loc="outside lower center",
        ncols=7,
        fontsize=8,
        frameon=False,
    )
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_bytes(path, buffer.getvalue())


def _colours(classes: int) -> ListedColormap:
    """Colours as distinct as that many classes allow."""
    if classes <= 20:
        return ListedColormap([colormaps["tab20"](index) for index in range(classes)])
    return ListedColormap(colormaps["nipy_spectral"](np.linspace(0.05, 0.95, classes)))
