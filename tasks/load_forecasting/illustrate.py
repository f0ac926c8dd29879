"""Pictures of forecasts: the last week of a part, the truth behind the forecast."""

import io
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from rfnext.files import write_bytes
from tasks.load_forecasting.config import Config
from tasks.load_forecasting.datasets import open_fold, times
from tasks.load_forecasting.evaluation import forecast
from tasks.spec import Split


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """One picture: the last steps of a part, as many as the longest season, with quantiles as a band if there are.

    Raises OSError if the file cannot be written.
    """
    fold = open_fold(config, split.fold)
    found, where = forecast(model, fold, split.part), fold.positions(split.part)
    shown = min(max((*config.seasons, 2 * config.horizon)), found.shape[1])
    found, truth = found[:, -shown:], fold.targets[where][-shown:]
    when = times(config, np.arange(where.stop - shown, where.stop) + fold.horizon)
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(when, truth, color="black", linewidth=1.5, label="truth")
    axes.plot(
        when, found[len(found) // 2], color="tab:orange", linewidth=1.5, label=f"forecast {fold.horizon} steps before"
    )
    if len(found) > 1:
        axes.fill_between(when, found[0], found[-1], color="tab:orange", alpha=0.25, label="quantiles 0.1 to 0.9")
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False, ncols=3)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    path = folder / f"fold{split.fold}-{split.part}.png"
    write_bytes(path, buffer.getvalue())
    return [path]
