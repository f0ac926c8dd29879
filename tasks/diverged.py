"""Whether a network computes numbers. One that diverged or overflows answers still: its highest value is class 0's."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tasks.spec import fail

SUMS = {
    **dict.fromkeys(("add", "add_"), "a sum"),
    **dict.fromkeys(("sub", "sub_", "__rsub__"), "a difference"),
    **dict.fromkeys(("mul", "mul_"), "a product"),
}
"""Functions that add up or scale what layers give, and what they give. No others are looked at: logarithms and
divisions make infinities on purpose."""

IN_PLACE = ("add_", "sub_", "mul_")


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
    """Raises NotFinite, which names the layer, if one with parameters gives NaN or an infinity within the block, or a
    sum or product of finite values does.

    Finite weights can overflow, by a training that is about to diverge or by input of another scale. What is looked at
    are layers, not the last values: a sigmoid makes a number of an infinity, a ReLU of a negative one, and detectors
    drop boxes without a score.
    """
    looked: list[tuple[str, Tensor]] = []

    def look(name: str, output: Any) -> None:
        if isinstance(output, Tensor):
            if output.is_floating_point() and output.numel():
                looked.append((f"layer {name!r} gives values", _is_finite(output)))
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
        with _Sums(looked):
            yield
    finally:
        for hook in hooks:
            hook.remove()
    # Asked once: on a GPU every question waits for what was queued before.
    if looked and not bool(torch.stack([fine for _, fine in looked]).all()):
        what = next(what for what, fine in looked if not fine)
        raise NotFinite(f"{what} that are not finite")


def _is_finite(values: Tensor) -> Tensor:
    return torch.stack(values.detach().aminmax()).isfinite().all()  # one pass, through which NaN stays


class _Sums(TorchFunctionMode):
    """Notes whether sums and products of finite values are finite; a mask that adds infinities is none of these."""

    def __init__(self, looked: list[tuple[str, Tensor]]) -> None:
        super().__init__()
        self._looked = looked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name not in SUMS or len(args) < 2:
            return func(*args, **(kwargs or {}))
        given = [x for x in map(torch.as_tensor, args[:2]) if x.is_floating_point() and x.numel()]
        before = [_is_finite(x) for x in given] if name in IN_PLACE else []  # it is changed by then
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point() and result.numel():
            fine = _is_finite(result)
            if result.is_cuda or not bool(fine):
                known = torch.stack([one.to(fine.device) for one in before or map(_is_finite, given)])
                fine = fine | ~known.all()
            self._looked.append((f"{SUMS[name]} of finite values gives values", fine))
        return result


@contextlib.contextmanager
def on_file(path: Path) -> Iterator[None]:
    """Within the block NotFinite is a DataError that names the file that the network was given."""
    try:
        yield
    except NotFinite as error:
        fix = "give values of the scale that the network was trained on, or another network"
        fail(path, None, f"the network has no answer to it: {error}", fix)
