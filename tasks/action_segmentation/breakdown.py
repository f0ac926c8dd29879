"""What the five scores are made of: by class, by video, which class is taken for which, and over-segmentation."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from rfnext.files import write_bytes
from tasks.action_segmentation import metrics

Pairs = Mapping[str, tuple[Sequence[str], Sequence[str]]]
"""Video -> prediction and truth, one class name a frame, equally many."""


def write(pairs: Pairs, folder: Path, background: Iterable[str], last_segment: metrics.LastSegment) -> list[Path]:
    """Write three tables and two pictures; returns their paths.

    classes.csv: frames and segments of every class; precision, recall and intersection over union of its frames, and
        F1@50 of its segments, in percent; empty where nothing was there to count.
    confusion.csv and confusion.png: frames of each true class (row) by predicted class.
    videos.csv: the scores of every video, and how many segments were predicted for each true one, without background.
    segments.png: those two numbers of segments, one dot a video.
    background, last_segment: as in `metrics.score`.
    Raises OSError if a file cannot be written.
    """
    background = tuple(background)
    names = sorted({name for pair in pairs.values() for labels in pair for name in labels})
    frames = [np.concatenate([np.asarray(pair[side]) for pair in pairs.values()]) for side in (0, 1)]
    confused = confusion_matrix(frames[1], frames[0], labels=names)
    videos = [_video(name, pair, background, last_segment) for name, pair in pairs.items()]
    classes = [_class(pairs, confused, names, index, last_segment) for index in range(len(names))]
    tables = {
        "classes": _table(classes),
        "confusion": [
            ["true class", *names],
            *([name, *row] for name, row in zip(names, confused.tolist(), strict=True)),
        ],
        "videos": _table(videos),
    }
    for name, table in tables.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(table)
        write_bytes(folder / f"{name}.csv", text.getvalue().encode())
    pictures = {"confusion": _confusion(confused, names), "segments": _segments(videos)}
    for name, figure in pictures.items():
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
        write_bytes(folder / f"{name}.png", buffer.getvalue())
    return [folder / f"{name}.csv" for name in tables] + [folder / f"{name}.png" for name in pictures]


def _class(
    pairs: Pairs, confused: NDArray[np.int64], names: Sequence[str], index: int, last_segment: metrics.LastSegment
) -> dict[str, object]:
    hits, true, predicted = int(confused[index, index]), int(confused[index].sum()), int(confused[:, index].sum())
    others = [name for name in names if name != names[index]]
    counts = [metrics.f1_counts(*pair, 0.5, others, last_segment) for pair in pairs.values()]
    found, surplus, missed = np.sum(counts, axis=0).tolist()
    return {
        "class": names[index],
        "frames": true,
        "predicted frames": predicted,
        "precision": _percent(hits, predicted),
        "recall": _percent(hits, true),
        "iou": _percent(hits, true + predicted - hits),
        "segments": found + missed,
        "predicted segments": found + surplus,
        "f1@50": _percent(2 * found, 2 * found + surplus + missed),
    }


def _video(
    name: str, pair: tuple[Sequence[str], Sequence[str]], background: tuple[str, ...], last_segment: metrics.LastSegment
) -> dict[str, object]:
    predicted, true = (sum(label not in background for label in metrics.segments(side).label) for side in pair)
    return {
        "video": name,
        "frames": len(pair[1]),
        **metrics.score([pair], background=background, last_segment=last_segment),
        "segments": true,
        "predicted segments": predicted,
        "predicted per true segment": predicted / true if true else "",
    }


def _percent(part: int, whole: int) -> float | str:
    return 100 * part / whole if whole else ""


def _table(rows: Sequence[Mapping[str, object]]) -> list[list[object]]:
    """Names of the columns, then the rows."""
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def _confusion(confused: NDArray[np.int64], names: Sequence[str]) -> Figure:
    side = 2 + 0.3 * len(names)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    shares = 100 * confused / np.maximum(confused.sum(1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    figure.colorbar(picture, label="% of the true class's frames")
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def _segments(videos: Sequence[Mapping[str, object]]) -> Figure:
    true, predicted = (np.array([video[key] for video in videos]) for key in ("segments", "predicted segments"))
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    limit = 1.05 * max(true.max(), predicted.max(), 1)
    axes.plot([0, limit], [0, limit], color="grey", linewidth=1, label="as many as in the truth")
    axes.scatter(true, predicted, s=16, label="a video")
    axes.set(xlim=(0, limit), ylim=(0, limit), xlabel="true segments", ylabel="predicted segments", aspect="equal")
    axes.legend(frameon=False)
    return figure
