"""The networks that the sections search: MS-TCN and two of timm."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.speed.peers import PlainMSTCN
from rfnext import Bounds, LocalConfig, LocalSearch
from tests.gpu.findings import ON_GPU, NotRun

NAMES = ("MS-TCN", "resnet18", "convnext_atto")


class Subject(NamedTuple):
    """A plain network, its inputs on the CPU, and which convs are searched."""

    network: nn.Module
    inputs: tuple[Tensor, ...]
    where: Callable[[str, nn.Module], bool]


def subject(name: str) -> Subject:
    """Equal at every call; small without a GPU. Raises NotRun if timm is missing."""
    torch.manual_seed(0)
    if name == "MS-TCN":
        features, batch, length = (2048, 8, 500) if ON_GPU else (8, 1, 40)
        inputs = torch.randn(batch, features, length), torch.ones(batch, 1, length)
        return Subject(PlainMSTCN(features, 19), inputs, lambda name, conv: name.endswith("dilated"))
    try:
        import timm
    except ModuleNotFoundError as error:
        raise NotRun("timm is not installed") from error
    images = torch.randn(8, 3, 128, 128) if ON_GPU else torch.randn(2, 3, 32, 32)
    return Subject(timm.create_model(name, pretrained=False), (images,), _spatial)


def _spatial(name: str, conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.kernel_size[0] > 1 and conv.in_channels > 3


def searched(of: Subject) -> LocalSearch:
    """Take over the convs of the subject's network, at three branches each."""
    return LocalSearch(of.network, LocalConfig(branches=3, bounds=Bounds(1, 512)), of.where)
