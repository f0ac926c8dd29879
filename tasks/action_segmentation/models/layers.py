"""Layers that the networks share: fast on CPUs, and zero beyond the end of a video.

Shapes: B videos of at most T frames. What a layer gives beyond the end of a video is zero, which equals the zero
padding of the video on its own. So what a network makes of a video depends neither on its padding nor on its batch.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rfnext import SearchConv


def check_sizes(**sizes: int) -> None:
    """Raises ValueError, naming it, for a size of a network below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


def mask_of(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The mask (B, 1, T) as factors 0 and 1 of that dtype; None if no video of the batch has padding.

    Most batches of one video, and many others, have none; then there is nothing to multiply by.
    """
    return None if mask is None or bool(mask.all()) else mask.to(dtype)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x (B, C, T), zero beyond the end of each video; mask: as `mask_of` gives it."""
    return x if mask is None else x * mask


def residual(x: Tensor, update: Tensor, noise: Tensor | None, mask: Tensor | None) -> Tensor:
    """x + dropout(update), masked. x is zero beyond the end already. The mask multiplies the noise, which needs no
    gradient, instead of the sum, which does."""
    factor = mask if noise is None else masked(noise, mask)
    return x + update if factor is None else x + update * factor


class DropoutNoise(nn.Module):
    """The factor of dropout: 0 with probability p, else 1 / (1 - p); None outside training.

    The same distribution as nn.Dropout. On CPUs torch draws one 64-bit number per element for it, which took
    a quarter of the training step; one byte per element is enough, so there p counts in steps of 1/256.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout is {p}; it must be at least 0 and below 1")
        self.p = p

    def forward(self, like: Tensor) -> Tensor | None:
        """Noise of the shape, type and device of `like`, drawn from torch's global generator."""
        if not self.training or self.p == 0:
            return None
        noise = torch.empty_like(like, requires_grad=False)
        if like.device.type != "cpu":
            return noise.bernoulli_(1 - self.p).div_(1 - self.p)
        kept = min(255, max(1, round(256 * (1 - self.p))))
        words = torch.empty(math.ceil(like.numel() / 8), dtype=torch.int64).random_(-(2**63), None)
        torch.lt(words.view(torch.uint8)[: like.numel()].view(like.shape), kept, out=noise)
        return noise.mul_(256 / kept)

    def extra_repr(self) -> str:
        """What print() shows of it."""
        return f"p={self.p}"


class Pointwise(nn.Conv1d):
    """nn.Conv1d of kernel 1, computed as a batched matrix product: on CPUs half the time of torch's conv."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)

    def forward(self, input: Tensor) -> Tensor:
        """input: (B, channels_in, T) -> (B, channels_out, T)"""
        assert self.bias is not None
        return torch.baddbmm(self.bias[:, None], self.weight[:, :, 0].expand(len(input), -1, -1), input)


class DilatedConv(nn.Conv1d):
    """nn.Conv1d of kernel 3 that keeps the length; trains on CPUs in 0.6 to 0.9 of the time of torch's conv.

    There it is one batched product per tap on shifted views of the input. Padding is not multiplied: at dilation 512
    on 500 frames, two of three products disappear. Only training on CPUs uses it; evaluation, export and searched convs
    (`rfnext.SearchConv`) use torch's conv.
    """

    def __init__(self, channels_in: int, channels_out: int, dilation: int) -> None:
        super().__init__(channels_in, channels_out, 3, padding=dilation, dilation=dilation)

    def forward(self, input: Tensor) -> Tensor:
        """input: (B, channels_in, T) -> (B, channels_out, T)"""
        shifted = (
            self.training
            and input.device.type == "cpu"
            and self.kernel_size == (3,)  # a merged conv has a larger one
            and self.padding == self.dilation
            and self.padding_mode == "zeros"  # else, in causal networks, another padding before than after
            and not isinstance(self, SearchConv)
            and not torch.is_autocast_enabled("cpu")
        )
        if not shifted:
            return super().forward(input)
        return _ShiftedProducts.apply(input, self.weight, self.bias, self.dilation[0])


class _ShiftedProducts(torch.autograd.Function):
    """y(t) = W_0 x(t - d) + W_1 x(t) + W_2 x(t + d) + b, with zeros outside of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, d: int) -> Tensor:
        """x: (B, C, T), weight: (O, C, 3), bias: (O,) -> (B, O, T)"""
        ctx.save_for_backward(x, weight)
        ctx.d = d
        left, centre, right = weight.permute(2, 0, 1).contiguous()[:, None].expand(-1, len(x), -1, -1)
        y = torch.baddbmm(bias[:, None], centre, x)
        if d < x.shape[2]:
            # Faster than baddbmm_ onto the slice, which falls back to one small product per video.
            y[:, :, d:] += torch.bmm(left, x[:, :, :-d])
            y[:, :, :-d] += torch.bmm(right, x[:, :, d:])
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        d, overlap = ctx.d, ctx.d < x.shape[2]
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            left, centre, right = weight.permute(2, 1, 0).contiguous()[:, None].expand(-1, len(x), -1, -1)
            grad_x = torch.bmm(centre, g)
            if overlap:
                grad_x[:, :, :-d] += torch.bmm(left, g[:, :, d:])
                grad_x[:, :, d:] += torch.bmm(right, g[:, :, :-d])
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            grad_weight[:, :, 1] = torch.bmm(g, x.mT).sum(0)
            if overlap:
                grad_weight[:, :, 0] = torch.bmm(g[:, :, d:], x[:, :, :-d].mT).sum(0)
                grad_weight[:, :, 2] = torch.bmm(g[:, :, :-d], x[:, :, d:].mT).sum(0)
        if ctx.needs_input_grad[2]:
            grad_bias = g.sum((0, 2))
        return grad_x, grad_weight, grad_bias, None
