"""The implementation `branches` of the operator: one conv per branch, as the definition reads. The reference."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rfnext.ops.geometry import Geometry, extend

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""torch's convolution by number of spatial axes."""


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dilation: Sequence[int],
    padding: Sequence[tuple[int, int]],
    geometry: Geometry,
) -> Tensor:
    """One conv with any padding; stride, groups and padding mode from `geometry`."""
    inner: tuple[int, ...] | int = 0
    if geometry.padding_mode == "zeros" and all(0 <= before == after for before, after in padding):
        inner = tuple(before for before, _ in padding)
    else:
        x = extend(x, padding, geometry.padding_mode)
    return CONV[len(dilation)](x, weight, bias, geometry.stride, inner, dilation, geometry.groups)


def by_branches(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """x (batch, channel_in, *size_in) -> (batch, channel_out, *size_out)."""
    total: Tensor | None = None
    for share, dilation, padding in zip(probability.unbind(), geometry.dilations, geometry.padding, strict=True):
        y = share * conv(x, weight, bias, dilation, padding, geometry)
        total = y if total is None else total + y
    assert total is not None
    return total


def is_recorded() -> bool:
    """Whether torch.jit.trace, torch.export, torch.onnx or make_fx records the call, for use without this library."""
    # Not torch.compiler.is_exporting(), which torch before 2.12 takes for true in all that it compiles.
    exporting = torch.compiler._is_exporting_flag
    if torch._C._get_tracing_state() is not None or exporting or torch.onnx.is_in_onnx_export():
        return True
    if torch.compiler.is_compiling():
        return False
    # make_fx would record our kernels as the empty tensors that they fill.
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
