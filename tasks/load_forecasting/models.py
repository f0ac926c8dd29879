"""A causal temporal convolutional network that forecasts at every position."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rfnext import Conv, Structure
from tasks.load_forecasting import datasets
from tasks.load_forecasting.config import QUANTILES, Config
from tasks.spec import Facts, names_in

KERNEL = 3

UNSEEN = 1e300
"""Scale of a covariate that does not change in the training part: what it is divided by makes any value zero."""


class Block(nn.Module):
    """x + W relu(dropout(conv(x))), where the conv reads the present and the past.

    Args:
        width: channels.
        dilation: of the conv; its last tap is at the present.
        dropout: share of channels.
    """

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.past = nn.ConstantPad1d(((KERNEL - 1) * dilation, 0), 0.0)
        self.dilated = nn.Conv1d(width, width, KERNEL, dilation=dilation)
        self.dropout = nn.Dropout1d(dropout)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, T) -> (B, width, T)."""
        return x + self.mix(torch.relu(self.dropout(self.dilated(self.past(x)))))


class Forecaster(nn.Module):
    """Forecasts from raw values to raw values; the network between them sees normalised ones.

    The statistics are buffers, so a file of the network is complete. They stay on the CPU wherever the layers are, and
    values in units are computed with there: in float32 a series far from zero loses its changes, and not every device
    has float64.

    Args:
        columns: of the input, the target's own past first.
        config: layers, width, dropout, head, trailing.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, columns: int, config: Config) -> None:
        super().__init__()
        self.trailing = config.trailing
        self.first = nn.Conv1d(columns, config.width, 1)
        self.blocks = nn.ModuleList(Block(config.width, 2**layer, config.dropout) for layer in range(config.layers))
        self.last = nn.Conv1d(config.width, len(QUANTILES) if config.head == "quantile" else 1, 1)
        self.register_buffer("centre", torch.zeros(columns, 1, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(columns, 1, dtype=torch.float64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Forecaster":
        statistics, self._buffers = self._buffers, {}
        try:
            return super()._apply(fn, recurse)
        finally:
            self._buffers = statistics

    def calibrate(self, inputs: Tensor) -> None:
        """Normalise by mean and standard deviation of these inputs, (columns, T) on the CPU, from now on.

        A covariate that does not change in them is left out: nothing is learnt of it, so that a later change would
        reach the forecast by weights as they began.
        """
        inputs, _ = self._level(inputs[None])
        self.centre.copy_(inputs[0].mean(1, keepdim=True))
        # Of equal values, rounding makes a spread that is not zero.
        changes = inputs[0].amax(1, keepdim=True) > inputs[0].amin(1, keepdim=True)
        self.scale.copy_(torch.where(changes, inputs[0].std(1, keepdim=True, correction=0), UNSEEN))
        if not changes[0]:
            self.scale[0] = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(B, columns, T) in the series' units -> (B, forecasts, T) in the target's; both float64, on the CPU."""
        level = self._level(x)[1]
        return self.forecast(self.normalised(x)).cpu().double() * self.scale[0] + self.centre[0] + level

    def normalised(self, x: Tensor) -> Tensor:
        """What the layers read, on their device: (B, columns, T) float64 in the series' units -> the same, float32."""
        return ((self._level(x)[0] - self.centre) / self.scale).float().to(self.first.weight.device)

    def forecast(self, x: Tensor) -> Tensor:
        """The layers alone: (B, columns, T) normalised -> (B, forecasts, T) normalised."""
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(torch.relu(x))

    def _level(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The input without the target's level, and the level: the mean of its last `trailing` values at each position.

        Before there are so many, it is the mean of all.
        """
        if not self.trailing:
            return x, x.new_zeros(())
        target, start = x[:, :1], x[:, :1, :1]
        total = (target - start).cumsum(2)  # from the first value on: sums of large ones would round away what varies
        count = torch.arange(1, x.shape[2] + 1, device=x.device).clamp(max=self.trailing)
        before = nn.functional.pad(total, (self.trailing, 0))[:, :, : x.shape[2]]
        level = (total - before) / count + start
        return torch.cat((target - level, x[:, 1:]), 1), level


def build(config: Config) -> nn.Module:
    """The untrained network of a config; reads how many columns its data has."""
    return rebuild(config, datasets.facts(config))


def rebuild(config: Config, facts: Facts) -> nn.Module:
    """The untrained network for the columns that `facts` names."""
    model = Forecaster(len(names_in(facts, "columns")), config)
    # The searched convs stay at the present by their last tap, whatever dilation they get.
    Structure.read(model, searched, anchor="last").apply(model)
    return model


def searched(name: str, conv: Conv) -> bool:
    """The convs of kernel 3."""
    return name.endswith(".dilated")


def values(array: NDArray[np.float64]) -> Tensor:
    """Inputs (columns, T) as a batch of one."""
    return torch.from_numpy(np.ascontiguousarray(array))[None]
