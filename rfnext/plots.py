"""Figures of searches and receptive fields, by matplotlib, which `pip install matplotlib` brings.

A figure is a `matplotlib.figure.Figure` of its own: `figure.savefig("dilations.svg")`. Nothing global is changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from rfnext.dilation import Dilation

_MOST_LABELS = 20  # layers in a legend, above which it would hide the lines


def trajectories(structures: Sequence[Mapping[str, Dilation]], axis: int = -1) -> Any:
    """The dilation of every layer, round by round, on a logarithmic scale.

    Args:
        structures: before the first round, after it, after the second and so on.
        axis: of the kernels, if these have several.

    Raises:
        ValueError: if there is nothing to draw.
        ImportError: without matplotlib.
    """
    if not structures or not structures[0]:
        raise ValueError("no structure to draw: give that before the first round, and those after the rounds")
    figure = _figure((7, 4))
    axes = figure.subplots()
    for name in structures[0]:
        dilations = [structure[name][axis] for structure in structures]
        axes.plot(range(len(dilations)), dilations, marker=".", label=name or "the model")
    axes.set_yscale("log", base=2)
    axes.set_xlabel("round")
    axes.set_ylabel("dilation")
    if len(structures[0]) <= _MOST_LABELS:
        axes.legend(fontsize="x-small", ncols=2)
    return figure


def receptive_fields(fields: Mapping[str, Tensor]) -> Any:
    """Effective receptive fields, as `rfnext.receptive_field.effective_receptive_field` gives them.

    Args:
        fields: by title; of shape (T,), drawn as lines in one diagram, or (H, W), drawn as one image each.

    Raises:
        ValueError: if there is none, or one has another number of axes than 1 or 2 or than the first.
        ImportError: without matplotlib.
    """
    ranks = {field.dim() for field in fields.values()}
    if ranks not in ({1}, {2}):
        raise ValueError(f"fields must all have one axis or all have two, got {sorted(ranks)}")
    images = ranks == {2}
    figure = _figure((3 * len(fields), 3) if images else (7, 3))
    panels = figure.subplots(1, len(fields) if images else 1, squeeze=False)[0]
    for number, (title, field) in enumerate(fields.items()):
        values = field.detach().cpu().numpy()
        if images:
            panels[number].imshow(values)
            panels[number].set_title(title)
        else:
            panels[0].plot(values, label=title)
    if not images:
        panels[0].set_xlabel("input position")
        panels[0].set_ylabel("share of the influence")
        panels[0].legend()
    return figure


def _figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install matplotlib") from error
    return Figure(figsize=size, layout="constrained")
