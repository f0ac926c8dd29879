"""MS-TCN and MS-TCN++ as published.

MS-TCN: Farha and Gall, "MS-TCN: Multi-Stage Temporal Convolutional Network for Action Segmentation",
CVPR 2019, section 3. MS-TCN++: Li et al., "MS-TCN++: Multi-Stage Temporal Convolutional Network for Action
Segmentation", TPAMI 2020, section 3.

Searched are the dilated convs, named `stages.<s>.layers.<l>.dilated` and, in MS-TCN++'s first stage,
`stages.0.layers.<l>.shrinking` and `.growing`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.action_segmentation.models.layers import (
    DilatedConv,
    DropoutNoise,
    Pointwise,
    check_sizes,
    mask_of,
    masked,
    residual,
)
from tasks.action_segmentation.models.network import Network


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
    check_sizes(feature_size=feature_size, classes=classes, stages=stages, layers=layers, maps=maps)
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
    check_sizes(
        feature_size=feature_size, classes=classes, stages=stages, prediction_layers=first, layers=later, maps=maps
    )
    dual = [DualDilatedLayer(maps, 2 ** (first - 1 - layer), 2**layer, dropout) for layer in range(first)]
    prediction = Stage(feature_size, classes, maps, dual)
    refinements = [
        Stage(classes, classes, maps, [DilatedLayer(maps, 2**layer, dropout) for layer in range(later)])
        for _ in range(stages - 1)
    ]
    return MultiStageTCN([prediction, *refinements])


class MultiStageTCN(Network):
    """Stages in a row: the input of the first is the features, that of each later one the previous probabilities."""

    def __init__(self, stages: Any) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def stage_of(self, layer: str) -> int:
        """The number in its name."""
        return int(layer.split(".")[1])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of all stages; the last stage's are the prediction.

        Args:
            x: (B, D, T), features, zero beyond the end of a video.
            mask: (B, 1, T), True where the video has frames; None if all have T.

        Returns:
            (stages, B, classes, T), zero beyond the end of a video.
        """
        mask = mask_of(mask, x.dtype)
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
        x = masked(self.enter(x), mask)
        for layer in self.layers:
            x = layer(x, mask)
        return masked(self.classify(x), mask)


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
        return residual(x, update, self.noise(update), mask)


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
        return residual(x, update, self.noise(update), mask)
