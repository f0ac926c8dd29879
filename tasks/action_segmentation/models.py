"""MS-TCN and MS-TCN++ as published, for batches of videos of different length, fast on CPUs.

MS-TCN: Farha and Gall, "MS-TCN: Multi-Stage Temporal Convolutional Network for Action Segmentation",
CVPR 2019, section 3. MS-TCN++: Li et al., "MS-TCN++: Multi-Stage Temporal Convolutional Network for Action
Segmentation", TPAMI 2020, section 3.

Shapes: B videos of at most T frames; D features per frame. The output of every layer is zero beyond the end of a video,
which equals the zero padding of the video on its own. So the logits of a video depend neither on its padding nor on its
batch.

Searched are the dilated convs, named `stages.<s>.layers.<l>.dilated` and, in MS-TCN++'s first stage,
`stages.0.layers.<l>.shrinking` and `.growing`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from rfnext import Conv, SearchConv
from tasks.action_segmentation import datasets
from tasks.action_segmentation.config import Config
from tasks.spec import Facts


def build(config: Config) -> nn.Module:
    """The untrained network for the config's data; torch's seed decides its weights.

    Raises DataError if there is no usable data.
    """
    return rebuild(config, datasets.facts(config))


def rebuild(config: Config, facts: Facts) -> nn.Module:
    """The untrained network for data of these facts (`datasets.facts`)."""
    feature_size, classes = facts["features"], len(facts["classes"])
    sizes = {"stages": config.stages, "maps": config.maps, "dropout": config.dropout}
    if config.model == "ms_tcn_pp":
        return ms_tcn_pp(feature_size, classes, layers=(config.prediction_layers, config.layers), **sizes)
    return ms_tcn(feature_size, classes, layers=config.layers, **sizes)


def searched(name: str, conv: Conv) -> bool:
    """The `Where` of both networks: their dilated convs."""
    return isinstance(conv, DilatedConv)


def ms_tcn(
    feature_size: int,
    classes: int,
    *,
    stages: int = 4,
    layers: int = 10,
    maps: int = 64,
    dropout: float = 0.5,
) -> "MultiStageTCN":
    """MS-TCN: every stage has `layers` layers of dilations 1, 2, 4, ...

    Parameters, weights and biases: per stage, (4 maps + 2) maps * layers + (n + 1) maps + (maps + 1) classes
    with n = feature_size in the first stage and n = classes in the others.
    """
    _check_sizes(feature_size=feature_size, classes=classes, stages=stages, layers=layers, maps=maps)
    return MultiStageTCN(
        Stage(
            feature_size if stage == 0 else classes,
            classes,
            maps,
            [DilatedLayer(maps, 2**layer, dropout) for layer in range(layers)],
        )
        for stage in range(stages)
    )


def ms_tcn_pp(
    feature_size: int,
    classes: int,
    *,
    stages: int = 4,
    layers: tuple[int, int] = (11, 10),
    maps: int = 64,
    dropout: float = 0.5,
) -> "MultiStageTCN":
    """MS-TCN++: a prediction stage of dual dilated layers, then `stages` - 1 refinement stages.

    The refinement stages are those of MS-TCN and do not share their weights.

    layers: of the prediction stage, and of each refinement stage.
    """
    first, later = layers
    _check_sizes(
        feature_size=feature_size, classes=classes, stages=stages, prediction_layers=first, layers=later, maps=maps
    )
    dual = [DualDilatedLayer(maps, 2 ** (first - 1 - layer), 2**layer, dropout) for layer in range(first)]
    prediction = Stage(feature_size, classes, maps, dual)
    refinements = [
        Stage(classes, classes, maps, [DilatedLayer(maps, 2**layer, dropout) for layer in range(later)])
        for _ in range(stages - 1)
    ]
    return MultiStageTCN([prediction, *refinements])


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


class MultiStageTCN(nn.Module):
    """Stages in a row: the input of the first is the features, that of each later one the previous probabilities."""

    def __init__(self, stages: Any) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of all stages; the last stage's are the prediction.

        Args:
            x: (B, D, T), features, zero beyond the end of a video.
            mask: (B, 1, T), True where the video has frames; None if all have T.

        Returns:
            (stages, B, classes, T), zero beyond the end of a video.
        """
        # Most batches of one video, and many others, have no padding; then there is nothing to multiply by.
        mask = None if mask is None or bool(mask.all()) else mask.to(x.dtype)
        outputs: list[Tensor] = []
        for stage in self.stages:
            outputs.append(stage(x, mask))
            x = torch.softmax(outputs[-1], dim=1)  # beyond the end 1 / classes: the next stage masks it
        return torch.stack(outputs)


class Stage(nn.Module):
    """1x1 conv to `maps` channels, dilated layers, 1x1 conv to class scores."""

    def __init__(self, channels: int, classes: int, maps: int, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.enter = Pointwise(channels, maps)
        self.layers = nn.ModuleList(layers)
        self.classify = Pointwise(maps, classes)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, channels, T), mask: (B, 1, T) of x's dtype or None -> logits (B, classes, T)."""
        x = _masked(self.enter(x), mask)
        for layer in self.layers:
            x = layer(x, mask)
        return _masked(self.classify(x), mask)


class DilatedLayer(nn.Module):
    """Dilated residual layer: x + dropout(1x1(relu(dilated conv(x))))."""

    def __init__(self, maps: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilated = DilatedConv(maps, maps, dilation)
        self.pointwise = Pointwise(maps, maps)
        self.noise = DropoutNoise(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, maps, T), mask: (B, 1, T) of x's dtype or None -> (B, maps, T)."""
        update = self.pointwise(F.relu(self.dilated(x)))
        return _residual(x, update, self.noise(update), mask)


class DualDilatedLayer(nn.Module):
    """Dual dilated layer of MS-TCN++: x + dropout(relu(1x1(conv of one dilation | conv of another)))."""

    def __init__(self, maps: int, shrinking: int, growing: int, dropout: float) -> None:
        super().__init__()
        self.shrinking = DilatedConv(maps, maps, shrinking)
        self.growing = DilatedConv(maps, maps, growing)
        self.fusion = Pointwise(2 * maps, maps)
        self.noise = DropoutNoise(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B, maps, T), mask: (B, 1, T) of x's dtype or None -> (B, maps, T)."""
        update = F.relu(self.fusion(torch.cat((self.shrinking(x), self.growing(x)), dim=1)))
        return _residual(x, update, self.noise(update), mask)


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _residual(x: Tensor, update: Tensor, noise: Tensor | None, mask: Tensor | None) -> Tensor:
    """x + dropout(update), masked. x is zero beyond the end already. The mask multiplies the noise, which needs no
    gradient, instead of the sum, which does."""
    factor = mask if noise is None else _masked(noise, mask)
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
