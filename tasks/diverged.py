"""Whether a network computes numbers. One that diverged or overflows answers still: its highest value is class 0's."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.spec import fail


class NotFinite(ValueError):
    """A layer computed what is no finite number, so what the network predicts of that input means nothing."""


@torch.no_grad()
def diverged(model: nn.Module) -> bool:
    """Whether a parameter is not finite, or a buffer, as of a norm, holds what is no number (NaN)."""
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        return True
    return any(bool(buffer.isnan().any()) for buffer in model.buffers())


@contextlib.contextmanager
def finite(model: nn.Module) -> Iterator[None]:
    """Raises NotFinite, which names the layer, if one with parameters gives NaN or an infinity within the block.

    Finite weights can overflow, by a training that is about to diverge or by input of another scale. What is looked at
    are layers, not the last values: a sigmoid makes a number of an infinity, and detectors drop boxes without a score.
    """
    looked: list[tuple[str, Tensor]] = []

    def look(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            if output.is_floating_point() and output.numel():
                ends = torch.stack(output.detach().aminmax())  # one pass, through which NaN stays
                looked.append((name, ends.isfinite().all()))
        elif isinstance(output, (tuple, list)):
            for one in output:
                look(name, one)
        elif isinstance(output, dict):
            look(name, list(output.values()))

    layers = [
        (name, module)
        for name, module in model.named_modules()
        if hasattr(module, "parametrizations") or next(module.parameters(recurse=False), None) is not None
    ]
    hooks = [
        layer.register_forward_hook(lambda layer, inputs, output, name=name: look(name, output))
        for name, layer in layers
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    # Asked once: on a GPU every question waits for what was queued before.
    if looked and not bool(torch.stack([fine for _, fine in looked]).all()):
        name = next(name for name, fine in looked if not fine)
        raise NotFinite(f"layer {name!r} gives values that are not finite")


@contextlib.contextmanager
def on_file(path: Path) -> Iterator[None]:
    """Within the block NotFinite is a DataError that names the file that the network was given."""
    try:
        yield
    except NotFinite as error:
        fix = "give values of the scale that the network was trained on, or another network"
        fail(path, None, f"the network has no answer to it: its {error}", fix)
