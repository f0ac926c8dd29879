"""The networks: DeepLabV3 on torchvision's ResNets or a small one, UPerNet on a timm backbone.

All are called as torchvision's segmentation networks: images (B, 3, H, W), normalised, give {"out": logits}, (B,
classes, H, W), and "aux" beside it where they have an auxiliary head. torchvision and timm are imported when a network
is built: that takes seconds, which --help does not need.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rfnext import Conv
from tasks.semantic_segmentation import datasets
from tasks.semantic_segmentation.config import SMALL, Config
from tasks.spec import Facts, names_in

SMALL_RATES = (2, 3, 5)
"""Dilations of the small network's atrous pooling: those of DeepLabV3, 12, 24 and 36 on maps of 64 x 64 pixels, on maps
of 8 x 8."""

SMALL_CHANNELS = (16, 32, 64, 128)
BINS = (1, 2, 3, 6)
"""Sides of the pooled maps of pyramid pooling."""


def searched(name: str, conv: Conv) -> bool:
    """The backbone's last stage and the head, as published for DeepLab ("layer4 and head") and ConvNeXt."""
    return name.startswith(("backbone.layer4.", "backbone.stages_3.", "classifier."))


def build(config: Config) -> nn.Module:
    """The initialised network for the classes of the config's data. Raises DataError if that is unusable."""
    return _network(config, len(datasets.facts(config)["classes"]), pretrained=config.pretrained)


def rebuild(config: Config, facts: Facts) -> nn.Module:
    """The network for the classes that `facts` names, not pretrained."""
    return _network(config, len(names_in(facts, "classes")), pretrained=False)


def _network(config: Config, classes: int, *, pretrained: bool) -> nn.Module:
    if config.network == "upernet":
        return UPerNet(_features(config.backbone, pretrained), config.width, classes)
    if config.backbone == SMALL:
        return SmallDeepLab(config.width, classes)
    from torchvision.models import segmentation

    make = getattr(segmentation, f"deeplabv3_{config.backbone}")
    weights = "IMAGENET1K_V1" if pretrained else None
    return make(weights=None, weights_backbone=weights, num_classes=classes, aux_loss=True)


class SmallDeepLab(nn.Module):
    """DeepLabV3 (Chen et al., 2017) on a ResNet of one block a stage, with torchvision's head, but narrower.

    Args:
        width: channels of the head.
        classes: of the output.
    """

    def __init__(self, width: int, classes: int) -> None:
        from torchvision.models.segmentation.deeplabv3 import ASPP

        super().__init__()
        shape = {"layers": (1, 1, 1, 1), "channels": SMALL_CHANNELS, "output_stride": 8}
        self.backbone = _create("resnet18", out_indices=(4,), **shape)
        self.classifier = nn.Sequential(
            ASPP(SMALL_CHANNELS[-1], SMALL_RATES, width), _unit(width, width, 3), nn.Conv2d(width, classes, 1)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"out"}: (B, classes, H, W)."""
        return {"out": _scaled(self.classifier(self.backbone(x)[-1]), x.shape[2:])}


def _features(name: str, pretrained: bool) -> Any:
    """A timm network that returns four feature maps."""
    if name == SMALL:
        return _create("convnext_atto", depths=(1, 1, 1, 1), dims=SMALL_CHANNELS)
    backbone = _create(name, pretrained=pretrained)
    if (reductions := backbone.feature_info.reduction()[-4:]) != [4, 8, 16, 32]:
        raise ValueError(f"{name} has feature maps of strides {reductions}; give a network with 4, 8, 16 and 32")
    return backbone


def _create(name: str, **given: Any) -> Any:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no network {name!r}; timm.list_models() has the names")
    return timm.create_model(name, features_only=True, **given)


class UPerNet(nn.Module):
    """Unified perceptual parsing (Xiao et al., ECCV 2018), for classes alone.

    Pyramid pooling of the coarsest feature map, a feature pyramid over four, all of which are fused; and an auxiliary
    head on the third.

    Args:
        backbone: of timm, features_only, with at least four maps, of strides 4 to 32.
        width: channels of the head.
        classes: of the output.
    """

    def __init__(self, backbone: Any, width: int, classes: int) -> None:
        super().__init__()
        channels = backbone.feature_info.channels()[-4:]
        self.backbone = backbone
        self.classifier = _Head(channels, width, classes)
        self.aux_classifier = nn.Sequential(_unit(channels[2], 256, 3), nn.Dropout(0.1), nn.Conv2d(256, classes, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"out", "aux"}: (B, classes, H, W)."""
        maps = self.backbone(x)[-4:]
        logits = {"out": self.classifier(maps), "aux": self.aux_classifier(maps[2])}
        return {name: _scaled(value, x.shape[2:]) for name, value in logits.items()}


class _Head(nn.Module):
    def __init__(self, channels: list[int], width: int, classes: int) -> None:
        super().__init__()
        *finer, last = channels
        self.pools = nn.ModuleList(nn.Sequential(nn.AdaptiveAvgPool2d(side), _unit(last, width, 1)) for side in BINS)
        self.bottleneck = _unit(last + len(BINS) * width, width, 3)
        self.laterals = nn.ModuleList(_unit(count, width, 1) for count in finer)
        self.outputs = nn.ModuleList(_unit(width, width, 3) for _ in finer)
        self.fuse = _unit(len(channels) * width, width, 3)
        self.predict = nn.Sequential(nn.Dropout(0.1), nn.Conv2d(width, classes, 1))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Four maps, the finest first -> logits of the finest one's size."""
        *finer, last = maps
        pooled = [_scaled(pool(last), last.shape[2:]) for pool in self.pools]
        levels = [self.bottleneck(torch.cat((last, *pooled), 1))]
        for lateral, features in zip(reversed(self.laterals), reversed(finer), strict=True):
            levels.insert(0, lateral(features) + _scaled(levels[0], features.shape[2:]))
        smooth = [output(level) for output, level in zip(self.outputs, levels[:-1], strict=True)]
        size = levels[0].shape[2:]
        return self.predict(self.fuse(torch.cat([_scaled(level, size) for level in (*smooth, levels[-1])], 1)))


def _unit(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _scaled(x: Tensor, size: Any) -> Tensor:
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
