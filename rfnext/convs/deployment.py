"""Blocks that make one conv of several for deployment: `reparameterize()` and the like, as timm and others call it.

They read the convs' weights, and know nothing of branches, nor always of other dilations than the designed ones. On a
network that is searched, such a call is an error. On one with a structure applied it is tried first, on a copy: a new
conv gets the dilation of those that it replaces, and if the block then computes something else, that is an error, too.
"""

import copy
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rfnext.convs.conv import SearchConv
from rfnext.convs.padding import Conv
from rfnext.convs.searchable import is_conv
from rfnext.convs.set_dilation import set_dilation

log = logging.getLogger(__name__)

METHODS = ("reparameterize", "switch_to_deploy", "fuse_convs", "merge_kernel", "fuse", "merge")
"""What timm, RepVGG, RepLKNet, YOLO and peft call it. "fuse" may belong to a whole network, the others to a block.
"merge" adds LoRA's kernel to the conv's own, which stays."""

_TOLERANCE = 1e-4  # of the largest output; float32 rounds to about 1e-6 of it


def guard(model: nn.Module, convs: Mapping[str, Conv]) -> None:
    """Put a `Guard` in front of the deployment methods of all blocks that these convs are in."""
    guarded = {id(conv) for conv in convs.values()}
    for name, block in model.named_modules():
        own = deployment_methods(block)
        if own and id(block) not in guarded and any(id(part) in guarded for part in block.modules()):
            for method in own:
                vars(block).setdefault(method, Guard(block, name, method))


def deployment_methods(block: nn.Module) -> list[str]:
    """Those of `METHODS` that a block has, and that can be called without arguments: others join features."""
    found = ((method, getattr(type(block), method, None)) for method in METHODS)
    return [method for method, function in found if callable(function) and _takes_nothing(function)]


def _takes_nothing(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):  # ValueError: a function of C has no signature
        return False
    return True


class Guard:
    """A block's deployment method: carried out if the block then computes the same, else an error.

    Raises ValueError, naming the block or layer, if it is searched, or would compute something else. It stays in front
    of the method after the search, and goes with the block into copies and pickles.
    """

    def __init__(self, block: nn.Module, name: str, method: str) -> None:
        self.block, self.name, self.method = block, name, method

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method."""
        block = self.block
        if any(map(_is_features, (*args, *kwargs.values()))):
            return getattr(type(block), self.method)(block, *args, **kwargs)
        for name, part in block.named_modules():
            if isinstance(part, SearchConv) and self.method != "merge":
                raise ValueError(
                    f"{self.method}() of {self._called()} would drop the branches of its layer {name!r}: apply the "
                    "structure first, search.structure().apply(model), or merge what can be merged, rfnext.merge(model)"
                )
        with torch.no_grad():
            try:
                twin = copy.deepcopy(block).float().eval()
                x, before = _first_output(twin)
            except Exception as error:  # of any kind: a block may take more than one tensor
                log.warning("%s() of %s is not checked: %s", self.method, self._called(), error)
                return self._run(block, args, kwargs)[1]
            after = self._run(twin, args, kwargs)[0].eval()(x)
        if not _same(before, after):
            dilations = {name: tuple(conv.dilation) for name, conv in _convs(block).items()}
            raise ValueError(
                f"{self.method}() of {self._called()} would change what it computes, at these dilations: {dilations}. "
                "Kernels that it adds no longer coincide; search with these convs tied, LocalSearch(..., tie=[[...]])"
            )
        return self._run(block, args, kwargs)[1]

    def _run(self, block: nn.Module, args: Any, kwargs: Any) -> tuple[nn.Module, Any]:
        """Carry the method out on a block. Returns what the block has become, and what the method returned."""
        old = list(_convs(block).values())
        result = getattr(type(block), self.method)(block, *args, **kwargs)
        new = result if isinstance(result, nn.Module) else block
        replaced = {tuple(conv.dilation) for conv in old if conv not in list(new.modules())}
        if len(replaced) == 1:
            for conv in _convs(new).values():
                if conv not in old and tuple(conv.dilation) not in replaced:
                    set_dilation(conv, next(iter(replaced)))
        return new, result

    def _called(self) -> str:
        return f"block {self.name!r}" if self.name else f"the {type(self.block).__name__}"


def _is_features(value: object) -> bool:
    return any(isinstance(part, Tensor) for part in (value if isinstance(value, (list, tuple)) else [value]))


def _convs(block: nn.Module) -> dict[str, Conv]:
    """The convs of a block for which a dilation means something."""
    return {name: part for name, part in block.named_modules() if is_conv(part) and max(part.kernel_size) > 1}


def _first_output(block: nn.Module) -> tuple[Tensor, Tensor]:
    """An input that the block takes, wide enough for its convs' taps to lie inside, and the output."""
    convs = list(_convs(block).values())
    width = 1 + max(d * (k - 1) for each in convs for d, k in zip(each.dilation, each.kernel_size, strict=True))
    size = [4 * (width // 4 + 1)] * len(convs[0].kernel_size)
    generator = torch.Generator("cpu").manual_seed(0)
    device = next(block.parameters()).device
    failed: Exception | None = None
    for conv in (*convs, *filter(is_conv, block.modules())):  # whose input the block's is, is not known
        x = torch.randn(2, conv.in_channels, *size, generator=generator, device="cpu").to(device)
        try:
            if isinstance(y := block(x), Tensor):
                return x, y
            failed = failed or TypeError(f"its output is a {type(y).__name__}, which is not compared")
        except Exception as error:
            failed = failed or error
    raise failed or TypeError("it has no conv")


def _same(before: Tensor, after: Any) -> bool:
    if not isinstance(after, Tensor) or before.shape != after.shape:
        return False
    return float((before - after).abs().max()) <= _TOLERANCE * float(before.abs().max())
