"""Where the panels of a figure lie, in inches."""

import math
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

TITLE, LETTER = 0.26, 0.055
"""Inches: the height of a title, and the width of a letter of 7 points. Nothing is measured: a reader's fonts differ
from those here, and measuring all labels takes longer than drawing them."""


def width(labels: Iterable[str]) -> float:
    """Inches that the longest of some labels takes."""
    return LETTER * max(map(len, labels), default=0)


def grid(count: int, height: float, *, same_rows: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels of equal size, three in a row; same_rows: their vertical axes are the same."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(max(3.4 * columns, 3.6), height * rows))
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=same_rows).flat)
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def arrange(figure: Figure, panels: Sequence[Axes], left: float, right: float, bottom: float, gap: float = 0.0) -> None:
    """Place equal panels; inches left and right of all, below each row, and between columns.

    Labels that would take more than 0.4 of the figure's width reach beyond it.
    """
    (total, height), spec = figure.get_size_inches(), panels[0].get_subplotspec()
    assert spec is not None
    left, right = min(left, 0.4 * total), min(right, 0.4 * total)
    rows, columns = spec.get_gridspec().get_geometry()
    wide = (total - left - right - (columns - 1) * gap) / columns
    high = height / rows - TITLE - bottom
    figure.subplots_adjust(
        left=left / total,
        right=1 - right / total,
        bottom=bottom / height,
        top=1 - TITLE / height,
        wspace=gap / wide,
        hspace=(TITLE + bottom) / high,
    )
    for panel in panels:
        panel.xaxis.set_label_coords(0.5, -0.26 / high)
        panel.yaxis.set_label_coords(-0.36 / wide, 0.5)
