"""A device that has no float64, as Apple's mps: what asks for it there gets a TypeError."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class NoFloat64(TorchFunctionMode):
    """All tensors count as that device's, until one is moved to the CPU by cpu()."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse what would be float64."""
        self.moved |= func is torch.Tensor.cpu
        asked = func is torch.Tensor.double or torch.float64 in [*args, *(kwargs or {}).values()]
        if asked and not self.moved:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")
        return func(*args, **(kwargs or {}))
