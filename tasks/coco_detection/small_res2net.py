"""Res2Net with one or two blocks a stage, which mmdet's own does not offer."""

from typing import ClassVar

from mmdet.models.backbones.res2net import Bottle2neck, Res2Net
from mmdet.registry import MODELS


@MODELS.register_module()
class SmallRes2Net(Res2Net):
    """`depth` 8: one block in each of the four stages; 16: two."""

    arch_settings: ClassVar = {8: (Bottle2neck, (1, 1, 1, 1)), 16: (Bottle2neck, (2, 2, 2, 2))}
