"""What our code is compared with: mmcv's operator, and MS-TCN put together from torch's modules."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

try:
    from mmcv.cnn.rfsearch.operator import Conv2dRFSearchOp
except ImportError:
    Conv2dRFSearchOp = None


def has_mmcv() -> bool:
    """Whether mmcv is installed."""
    return Conv2dRFSearchOp is not None


def mmcv_operator(conv: nn.Conv2d, branches: int) -> Any:
    """The published operator around a conv; it takes 2 or 3 branches."""
    config = {"init_alphas": 0.01, "num_branches": branches, "exp_rate": 0.5, "mmin": 1, "mmax": 24}
    assert Conv2dRFSearchOp is not None
    return Conv2dRFSearchOp(conv, config, verbose=False)


class _Layer(nn.Module):
    """MS-TCN's dilated residual layer, put together from torch's modules as its paper describes it."""

    def __init__(self, maps: int, dilation: int) -> None:
        super().__init__()
        self.dilated = nn.Conv1d(maps, maps, 3, padding=dilation, dilation=dilation)
        self.pointwise = nn.Conv1d(maps, maps, 1)
        self.dropout = nn.Dropout()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, maps, T), mask: (B, 1, T) -> (B, maps, T)."""
        return (x + self.dropout(self.pointwise(F.relu(self.dilated(x))))) * mask


class _Stage(nn.Module):
    """A stage of MS-TCN, put together likewise."""

    def __init__(self, channels: int, classes: int, maps: int = 64, layers: int = 10) -> None:
        super().__init__()
        self.enter = nn.Conv1d(channels, maps, 1)
        self.layers = nn.ModuleList(_Layer(maps, 2**layer) for layer in range(layers))
        self.classify = nn.Conv1d(maps, classes, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, channels, T), mask: (B, 1, T) -> logits (B, classes, T)."""
        x = self.enter(x)
        for layer in self.layers:
            x = layer(x, mask)
        return self.classify(x) * mask


class PlainMSTCN(nn.Module):
    """MS-TCN as its paper describes it; computes the same as our own network."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_Stage(classes if stage else features, classes) for stage in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, features, T), mask: (B, 1, T) -> logits of all stages (stage, B, classes, T)."""
        outputs: list[Tensor] = []
        for stage in self.stages:
            outputs.append(stage(x, mask))
            x = torch.softmax(outputs[-1], dim=1) * mask
        return torch.stack(outputs)
