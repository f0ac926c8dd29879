"""Pictures of predictions: segmentation strips, the truth above the prediction."""

import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import nn

from rfnext.files import write_bytes
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.data import Dataset, Videos
from tasks.action_segmentation.datasets import open_fold
from tasks.action_segmentation.evaluation import predict
from tasks.spec import Split

VIDEOS = 4
"""Videos per picture."""


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """One picture of a part; see `strips`."""
    dataset = open_fold(config, split.fold)
    path = folder / f"fold{split.fold}-{split.part}.png"
    strips(model, dataset, dataset.part(split.part), path)
    return [path]


def strips(network: nn.Module, dataset: Dataset, videos: Videos, path: Path) -> None:
    """Draw up to four videos, spread evenly over `videos`, to a PNG file: truth above prediction, one colour
    a class.

    Raises OSError if the file cannot be written.
    """
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(VIDEOS, len(videos))).round().astype(int)).tolist()
    colours = _colours(len(dataset.classes))
    figure = Figure(figsize=(10, 0.6 + 0.8 * len(chosen)), layout="constrained")
    rows = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    shown: set[int] = set()
    for axes, index in zip(rows, chosen, strict=True):
        video = videos[index]
        labels = np.stack([video.full_labels, predict(network, video, dataset.step)])
        shown |= set(np.unique(labels).tolist())
        axes.imshow(
            labels,
            cmap=colours,
            vmin=0,
            vmax=len(dataset.classes) - 1,
            aspect="auto",
            interpolation="nearest",
            extent=(0, labels.shape[1], 2, 0),
        )
        axes.axhline(1, color="white", linewidth=2)
        accuracy = 100 * np.mean(labels[0] == labels[1])
        axes.set_title(f"{video.name}, {accuracy:.0f} % of frames correct", fontsize=9, loc="left")
        axes.set_yticks([0.5, 1.5], ["truth", "prediction"], fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
    rows[-1].set_xlabel("frame", fontsize=8)
    figure.legend(
        handles=[Patch(color=colours(index), label=dataset.classes[index]) for index in sorted(shown)],
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
