"""Causal networks as they are written in the field, and what it means that they are causal."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Build = Callable[[Sequence[int]], nn.Module]
"""A network whose searched convs have these dilations along time, in module order."""


def padded_by_a_layer(dilations: Sequence[int]) -> nn.Module:
    (d,) = dilations
    return nn.Sequential(nn.ConstantPad1d((2 * d, 0), 0.0), nn.Conv1d(4, 4, 3, dilation=d))


class Chomp1d(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : -self.size]


def tcn(dilations: Sequence[int]) -> nn.Module:
    """Bai, Kolter and Koltun's: padded on both sides by (k - 1) d, the end cropped."""
    layers: list[nn.Module] = []
    for d in dilations:
        conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3, padding=2 * d, dilation=d))
        layers += [conv, Chomp1d(2 * d), nn.ReLU()]
    return nn.Sequential(*layers)


class WaveNet(nn.Module):
    """Kernels of 2, padded on the left by the parent, gated, with residuals."""

    def __init__(self, dilations: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=d) for d in dilations)
        self.left = list(dilations)

    def forward(self, x: Tensor) -> Tensor:
        for conv, left in zip(self.convs, self.left, strict=True):
            signal, gate = conv(F.pad(x, (left, 0))).chunk(2, 1)
            x = x + signal.tanh() * gate.sigmoid()
        return x


class CausalConv1d(nn.Conv1d):
    """Padded in its own forward(), by an amount that __init__() computes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left = (self.kernel_size[0] - 1) * self.dilation[0]

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.pad(input, (self.left, 0)))


class CroppedConv1d(nn.Conv1d):
    """Padded on both sides, what that adds at the end is cropped in its own forward()."""

    def __init__(self, *args: Any, dilation: int) -> None:
        self.__padding = 2 * dilation
        super().__init__(*args, padding=self.__padding, dilation=dilation)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)[:, :, : -self.__padding]


def of_a_class(kind: Any) -> Build:
    def build(dilations: Sequence[int]) -> nn.Module:
        return nn.Sequential(*(layer for d in dilations for layer in (kind(4, 4, 3, dilation=d), nn.ReLU())))

    return build


def streaming(dilations: Sequence[int]) -> nn.Module:
    """Spectrograms of (frequency, time): centred in frequency, causal in time, the first layer of half the frames."""
    layers: list[nn.Module] = []
    for i, d in enumerate(dilations):
        layers += [nn.ZeroPad2d((2 * d, 0, 0, 0)), nn.Conv2d(4, 4, 3, (1, 2 - i), padding=(2, 0), dilation=(2, d))]
    return nn.Sequential(*layers)


class Kind(NamedTuple):
    """A causal network, its hand design, dilations that a search may find, an anchor and the size of an input."""

    build: Build
    designed: tuple[int, ...]
    found: tuple[int, ...]
    anchor: Any = "last"
    size: tuple[int, ...] = (48,)

    def network(self, dilations: Sequence[int] | None = None) -> nn.Module:
        torch.manual_seed(0)
        return self.build(dilations or self.designed).double().eval()

    def input(self) -> Tensor:
        return torch.randn(2, 4, *self.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def structure(self, dilations: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Both axes of images are searched; frequency keeps its 2."""
        convs = [name for name, module in self.network().named_modules() if isinstance(module, (nn.Conv1d, nn.Conv2d))]
        return {name: (2,) * (len(self.size) - 1) + (d,) for name, d in zip(convs, dilations, strict=True)}


KINDS = {
    "ConstantPad1d": Kind(padded_by_a_layer, (4,), (7,)),
    "ConstantPad1d, smaller": Kind(padded_by_a_layer, (4,), (2,)),
    "TCN": Kind(tcn, (1, 2, 4), (3, 1, 6)),
    "WaveNet": Kind(WaveNet, (1, 2, 4), (3, 1, 6)),
    "CausalConv1d": Kind(of_a_class(CausalConv1d), (2, 4), (1, 6)),
    "CroppedConv1d": Kind(of_a_class(CroppedConv1d), (2, 4), (1, 6)),
    "spectrograms": Kind(streaming, (2, 4), (1, 6), ("centre", "last"), (9, 48)),
}


def reads_ahead(model: Callable[[Tensor], Tensor], x: Tensor, starts: Sequence[int] = (13, 24, 37)) -> bool:
    """Whether an output depends on later inputs along the last axis; at a lower rate, on those after its own frames."""
    with torch.no_grad():
        expected = model(x)
        for start in starts:
            other = x.clone()
            other[..., start:] += torch.randn_like(other[..., start:])
            before = start * expected.shape[-1] // x.shape[-1]
            if not torch.allclose(model(other)[..., :before], expected[..., :before], rtol=1e-9, atol=1e-9):
                return True
    return False


def direct_sum(x: Tensor, weight: Tensor, bias: Tensor, dilation: int, offset: int, count: int) -> Tensor:
    """The causal conv as defined: y[t] = b + sum_j W_j x[t + offset - (k - 1 - j) d], zeros outside of x.

    offset: input at which the last tap of the first output is.
    """
    k, n = weight.shape[-1], x.shape[-1]
    y = bias.reshape(1, -1, 1).repeat(len(x), 1, count)
    for t in range(count):
        for j in range(k):
            position = t + offset - (k - 1 - j) * dilation
            if 0 <= position < n:
                y[:, :, t] = y[:, :, t] + x[:, :, position] @ weight[:, :, j].T
    return y
