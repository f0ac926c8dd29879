"""Whether the training of a network diverged. It still answers: the class of the highest value is then class 0."""

import torch
from torch import nn


@torch.no_grad()
def diverged(model: nn.Module) -> bool:
    """Whether a parameter is not finite, or a buffer, as of a norm, holds what is no number (NaN)."""
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        return True
    return any(bool(buffer.isnan().any()) for buffer in model.buffers())
