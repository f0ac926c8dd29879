"""Calls of the operator that several tests compute, and their definition in terms of torch's convolution."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rfnext import mixed_dilation_conv
from rfnext.ops import native_build

# The last one needs a C compiler; test_native.py says so where there is none.
NATIVE = ("native",) if native_build.failure() is None else ()
IMPLEMENTATIONS = ("branches", "taps", "dense", *NATIVE)
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@dataclass(frozen=True)
class Case:
    """Arguments of one call, but for the tensors' values."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    padding: tuple[tuple[tuple[int, int], ...], ...]
    stride: tuple[int, ...] = (1, 1, 1)
    batch: int = 2
    groups: int = 1
    channels: tuple[int, int] = (2, 3)  # in and out, per group
    bias: bool = True
    mode: str = "zeros"

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """x, weight, probability and, if the case has one, bias; all of them requiring gradients."""
        channel_in, channel_out = self.channels
        shapes = [
            (self.batch, self.groups * channel_in, *self.size),
            (self.groups * channel_out, channel_in, *self.kernel),
            (len(self.dilations),),
        ]
        shapes += [(self.groups * channel_out,)] if self.bias else []
        return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]

    def call(self, implementation: str, x: Tensor, weight: Tensor, probability: Tensor, bias: Any = None) -> Tensor:
        return mixed_dilation_conv(
            x,
            weight,
            bias,
            probability,
            self.dilations,
            stride=self.stride[: len(self.kernel)],
            padding=self.padding,
            groups=self.groups,
            padding_mode=self.mode,
            implementation=implementation,
        )

    def definition(self, x: Tensor, weight: Tensor, probability: Tensor, bias: Any = None) -> Tensor:
        """sum_i p_i conv(pad(x)), with the padding by numpy."""
        total = torch.zeros(())
        for p, dilation, padding in zip(probability, self.dilations, self.padding, strict=True):
            window = pad_by_index(x, padding, self.mode)
            stride = self.stride[: len(self.kernel)]
            total = total + p * CONV[len(dilation)](window, weight, bias, stride, 0, dilation, self.groups)
        return total


def pad_by_index(x: Tensor, padding: tuple[tuple[int, int], ...], mode: str) -> Tensor:
    """numpy.pad, differentiable: padded are the elements' numbers, which then pick the elements."""
    size = x.shape[2:]
    number = np.arange(1, np.prod(size) + 1).reshape(size)
    grown = [(max(before, 0), max(after, 0)) for before, after in padding]
    number = np.pad(number, grown, mode=NUMPY_MODE[mode])  # type: ignore[call-overload]
    cuts = [(max(-before, 0), max(-after, 0)) for before, after in padding]
    number = number[tuple(slice(b, n - a) for (b, a), n in zip(cuts, number.shape, strict=True))]
    with_zero = torch.cat([x.new_zeros(*x.shape[:2], 1), x.flatten(2)], dim=2)
    return with_zero[:, :, torch.from_numpy(number.copy())]


def kept(
    kernel: tuple[int, ...], dilation: tuple[int, ...], shift: int = 0, causal: tuple[bool, ...] = (False,) * 3
) -> tuple[tuple[int, int], ...]:
    """Size-keeping padding, uneven where it must be, all of it before on causal axes, moved by `shift`."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    befores = [total if c else total // 2 for total, c in zip(totals, causal, strict=False)]
    return tuple((before + shift, total - before - shift) for total, before in zip(totals, befores, strict=True))


def keeping_size(size: tuple[int, ...], kernel: tuple[int, ...], *dilations: tuple[int, ...], **more: Any) -> Case:
    return Case(size, kernel, dilations, tuple(kept(kernel, dilation) for dilation in dilations), **more)


_CAUSAL = [(1,), (7,), (40,)]

LARGE = {
    "1-d": keeping_size((2000,), (3,), (90,), (100,), (110,), batch=5, channels=(9, 10)),
    "2-d": keeping_size((40, 33), (3, 3), (1, 2), (3, 3), batch=5, channels=(70, 9)),
    "causal": Case((400,), (2,), tuple(_CAUSAL), tuple(((d, 0),) for (d,) in _CAUSAL), batch=5, channels=(9, 10)),
    "grouped": keeping_size((30, 31), (3, 3), (1, 1), (2, 4), batch=5, groups=3, channels=(16, 8)),
    "depthwise": keeping_size((28, 28), (7, 7), (1, 1), (3, 3), batch=5, groups=20, channels=(1, 1)),
}


SMALL = {
    "wide": keeping_size((5,), (3,), (1,), (3,), batch=1, channels=(8, 8)),
    "wide, 2-d": keeping_size((3, 4), (3, 1), (1, 1), (2, 1), batch=1, channels=(8, 8)),
    "depthwise": keeping_size((4, 5), (3, 3), (1, 1), (2, 1), batch=1, groups=2, channels=(1, 1)),
}


def assert_equal(case: Case, implementation: str) -> None:
    """Outputs and all gradients agree with the definition in float64."""
    tensors = case.tensors()
    expected = case.definition(*tensors)
    found = case.call(implementation, *tensors)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(expected)
    for name, one, other in zip(
        ("x", "weight", "probability", "bias"),
        torch.autograd.grad(found, tensors, g),
        torch.autograd.grad(expected, tensors, g),
        strict=False,
    ):
        torch.testing.assert_close(
            one, other, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"gradient of {name}: {m}"
        )


class Products(TorchDispatchMode):
    """Counts the multiply-adds of all matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        out = func(*args, **(kwargs or {}))
        if name in ("bmm", "baddbmm_"):
            one, other = args[-2:]
            self.count += one.numel() * other.shape[2]
        elif name == "convolution":
            self.count += out.numel() * args[1][0].numel()
        elif name == "convolution_backward":
            self.count += args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
        return out
