"""Arguments of the operator that the tests of the compiled kernels share, and the comparison with the reference."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rfnext import mixed_dilation_conv
from rfnext.ops import native_build

needs_compiler = pytest.mark.skipif(native_build.failure() is not None, reason="needs a C compiler")


def arguments(
    batch: int, channels: tuple[int, int], size: tuple[int, ...], dilations: list[int], groups: int = 1
) -> list[Tensor]:
    weight = torch.randn(channels[1] * groups, channels[0], *[3] * len(size), dtype=torch.float64)
    x = torch.randn(batch, channels[0] * groups, *size, dtype=torch.float64)
    p = torch.rand(len(dilations), dtype=torch.float64)
    return [t.requires_grad_() for t in (x, weight, torch.randn(len(weight), dtype=torch.float64), p)]


def results(tensors: list[Tensor], dilations: list[int], implementation: str, **options: Any) -> list[Tensor]:
    """Output and gradients."""
    x, weight, bias, p = tensors
    all_axes = [(d,) * (x.dim() - 2) for d in dilations]
    y = mixed_dilation_conv(x, weight, bias, p, all_axes, implementation=implementation, **options)
    g = torch.empty_like(y).copy_(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype))
    return [y, *torch.autograd.grad(y, tensors, g)]


def assert_as_branches(tensors: list[Tensor], dilations: list[int], **options: Any) -> None:
    found = results(tensors, dilations, "native", **options)
    torch.testing.assert_close(found, results(tensors, dilations, "branches", **options), rtol=1e-10, atol=1e-10)


SHAPES = {
    # Tiles that end within a vector, several of them, and one that spans samples.
    "long": (2, (16, 24), (1003,), [1, 60, 400]),
    "short": (7, (9, 8), (13,), [1, 2, 9]),
    "one element": (1, (8, 8), (1,), [1, 2]),
    "small images": (5, (17, 33), (7, 7), [1, 2, 3]),
    # Many tiles of samples, dilations of which only the centre reads anything, more channels than are mixed at a time.
    "many small images": (80, (65, 10), (3, 4), [1, 2]),
    "small images, long dilations": (2, (70, 24), (7, 5), [7, 8, 9]),
    "small images of very many channels": (1, (300, 75), (4, 4), [1, 3]),
    "somewhat larger images": (2, (66, 70), (20, 21), [1, 2, 5]),
    "images": (2, (8, 40), (33, 20), [1, 4]),
    "flat": (3, (8, 8), (1, 70), [1, 3]),
    "volumes": (2, (8, 9), (5, 4, 11), [1, 2]),
    # More than are mixed at a time, of channels and of branches; rows that are cut, and some longer than a tile.
    "images of many channels": (3, (140, 17), (9, 10), [1, 2, 3, 4, 5, 6]),
    "wide images": (2, (9, 8), (5, 150), [1, 3]),
    "very wide images": (1, (9, 8), (5, 430), [1, 3]),
    # More of a product's widths than fit in one go.
    "many channels": (1, (70, 140), (40,), [2, 3]),
}


DEPTHWISE = {
    "long": (3, 5, (1003,), [1, 60, 400, 2000]),
    "short": (2, 9, (3,), [1, 2]),
    "images": (2, 4, (33, 20), [1, 4]),
    # Rows of half a vector and less, columns of fewer than are summed up at a time, frames that are all zeros.
    "small images": (3, 3, (7, 7), [1, 2, 9]),
    "flat": (2, 3, (2, 70), [1, 3]),
    "volumes": (2, 6, (5, 4, 11), [1, 2]),
    "wide": (1, 3, (9, 130), [1, 2]),
}
