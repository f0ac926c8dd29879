"""Thin convs of the implementation `taps`, depthwise convs among them: one scaled kernel per branch.

The product of a tap has only a few terms there, so there is nothing to share. The branches are convolved one by one,
but with scaled kernels, so that their outputs add up in place. The gradient of a probability follows from that of its
branch's kernel, dL/dp_i = <W, dL/d(p_i W)>. In depthwise convs of stride 1, a conv with the mirrored
kernel gives the gradient of the input, several times faster than torch's own backward pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from rfnext.ops.branches import CONV
from rfnext.ops.geometry import Geometry, extend, is_depthwise
from rfnext.ops.layout import laid_out

_DIRECT_PADDING = 6  # the largest that oneDNN's fast depthwise kernels take; 7 takes 2 to 6 times as long


def _direct(padding: Sequence[tuple[int, int]]) -> bool:
    """Whether the conv itself carries out the zero padding, which then needs no copy of x."""
    return all(0 <= before == after <= _DIRECT_PADDING for before, after in padding)


def _for_onednn(x: Tensor) -> Tensor:
    """x in the layout in which oneDNN's depthwise kernels are fastest."""
    return laid_out(x, True) if x.device.type == "cpu" and x.dim() > 3 else x


def thin_forward(x: Tensor, weight: Tensor, bias: Tensor | None, probability: Tensor, geometry: Geometry) -> Tensor:
    """y (batch, channel_out, *size_out) for zero padding."""
    y: Tensor | None = None
    source = _for_onednn(x)
    for share, dilation, sides in zip(probability, geometry.dilations, geometry.padding, strict=True):
        padded, inner = (source, [b for b, _ in sides]) if _direct(sides) else (extend(source, sides, "zeros"), 0)
        rest = geometry.stride, inner, dilation, geometry.groups
        part = CONV[x.dim() - 2](padded, weight * share, bias if y is None else None, *rest)
        y = part if y is None else y.add_(part)
    assert y is not None
    return y


def thin_backward(
    g: Tensor, x: Tensor, weight: Tensor, probability: Tensor, geometry: Geometry, needed: Sequence[bool]
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of x, weight and probability for the gradient g of y; see `rfnext.ops.autograd.Backward`."""
    need_x, need_weight, _, need_probability = needed
    source, g_source = _for_onednn(x), _for_onednn(g)
    mirror = is_depthwise(weight, geometry.groups) and max(geometry.stride) == 1
    wanted = [need_x and not mirror, need_weight or need_probability, False]
    grad_x, grad_weight, grad_probability = None, torch.zeros_like(weight), torch.zeros_like(probability)
    for branch, (dilation, sides) in enumerate(zip(geometry.dilations, geometry.padding, strict=True)):
        inner = [before if _direct(sides) else 0 for before, _ in sides]
        outer = [(before - i, after - i) for (before, after), i in zip(sides, inner, strict=True)]
        rest = inner, dilation, False, [0] * len(inner), geometry.groups, wanted
        if wanted[0] or wanted[1]:
            grad_padded, grad_kernel, _ = torch.ops.aten.convolution_backward(
                g_source, extend(source, outer, "zeros"), weight, None, geometry.stride, *rest
            )
        if wanted[1]:
            grad_weight += grad_kernel * probability[branch]
            grad_probability[branch] = (grad_kernel * weight).sum(dtype=probability.dtype)
        if wanted[0]:
            part = extend(grad_padded, [(-before, -after) for before, after in outer], "zeros") * probability[branch]
            grad_x = part if grad_x is None else grad_x.add_(part)
    if need_x and mirror:
        flipped = weight.flip(tuple(range(2, x.dim())))
        grad_x = thin_forward(g_source, flipped, None, probability, _mirrored(geometry))
    return grad_x, grad_weight, grad_probability


def _mirrored(geometry: Geometry) -> Geometry:
    """Geometry of the conv that gives, at stride 1, the gradient of x from that of y."""
    padding = []
    for dilation, sides in zip(geometry.dilations, geometry.padding, strict=True):
        before = [d * (k - 1) - b for d, k, (b, _) in zip(dilation, geometry.kernel, sides, strict=True)]
        after = [n - m + b for n, m, (b, _) in zip(geometry.size_in, geometry.size_out, sides, strict=True)]
        padding.append(tuple(zip(before, after, strict=True)))
    return geometry._replace(padding=tuple(padding), size_in=geometry.size_out, size_out=geometry.size_in)
