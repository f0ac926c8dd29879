"""The layers that are timed, the ways to compute one, and the time that one of them cannot do without."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.speed.peers import has_mmcv, mmcv_operator
from benchmarks.speed.timing import BRANCHES, MMCV, PLAIN, fastest, native
from rfnext import mixed_dilation_conv

_CONV = {1: F.conv1d, 2: F.conv2d}


@dataclass(frozen=True)
class Layer:
    """One convolution and the numbers of branches to search it with.

    targets: branches -> largest ratio to the plain conv that we aim at; with `of_branches` the ratio is to "branches".
    """

    name: str
    batch: int
    channels: int
    size: tuple[int, ...]
    kernel: int
    dilation: int = 1
    depthwise: bool = False
    branches: tuple[int, ...] = (3,)
    targets: Mapping[int, float] = field(default_factory=dict)
    of_branches: bool = False
    quick: bool = False

    @property
    def groups(self) -> int:
        """Of the conv."""
        return self.channels if self.depthwise else 1

    def __str__(self) -> str:
        size = "x".join(map(str, (self.batch, self.channels, *self.size)))
        return f"{self.name}, {size}, k {self.kernel}, d {self.dilation}"


ALL = (2, 3, 5, 9)

LAYERS = (
    *(
        Layer("MS-TCN", 8, 64, (length,), 3, dilation, branches=ALL if dilation == 16 else (3,))
        for length in (500, 6000)
        for dilation in (1, 16, 128, 512)
    ),
    Layer("MS-TCN", 8, 64, (2000,), 3, 16, branches=ALL, targets={3: 1.15, 5: 1.3, 9: 1.6}, quick=True),
    *(Layer("MS-TCN", 8, 64, (2000,), 3, dilation) for dilation in (1, 128, 512)),
    Layer("HiFi-GAN", 4, 256, (512,), 3, branches=ALL, targets={3: 1.3}, quick=True),
    Layer("HiFi-GAN", 4, 256, (512,), 7, targets={3: 1.3}, quick=True),
    Layer("HiFi-GAN", 4, 256, (512,), 11, targets={3: 1.3}, quick=True),
    *(Layer("HiFi-GAN", 4, 128, (2048,), kernel) for kernel in (3, 7, 11)),
    Layer("3x3", 4, 256, (32, 32), 3, branches=ALL, targets={2: 1.3, 3: 1.4}, quick=True),
    Layer("3x3", 4, 64, (64, 64), 3, branches=ALL, targets={2: 1.7, 3: 2.2}, quick=True),
    Layer("ResNet layer2", 4, 128, (28, 28), 3, branches=(2, 3)),
    Layer("ResNet layer3", 4, 256, (14, 14), 3, branches=(2, 3)),
    Layer("ResNet layer4", 4, 512, (7, 7), 3, branches=(2, 3)),
    Layer("Res2Net layer2 split", 4, 52, (28, 28), 3, branches=(2, 3)),
    Layer("Res2Net layer3 split", 4, 104, (14, 14), 3, branches=(2, 3)),
    Layer("Res2Net layer4 split", 4, 208, (7, 7), 3, branches=(2, 3)),
    *(
        Layer(f"HRNet-W18 branch {i}", 4, channels, (size, size), 3, branches=(2, 3))
        for i, (channels, size) in enumerate(((18, 56), (36, 28), (72, 14), (144, 7)), start=1)
    ),
    Layer("FPN", 2, 256, (56, 56), 3, branches=(2, 3)),
    *(
        Layer(
            f"{name} depthwise",
            4,
            channels,
            (size, size),
            kernel,
            depthwise=True,
            branches=(2, 3),
            targets={2: 0.75, 3: 0.75},
            of_branches=True,
            quick=size == 28,
        )
        for name, kernel, sizes in (
            ("PVTv2", 3, ((256, 56), (512, 28), (1280, 14))),
            ("ConvNeXt", 7, ((96, 56), (192, 28), (384, 14))),
        )
        for channels, size in sizes
    ),
)


def spaced(centre: int, branches: int) -> list[int]:
    """Distinct dilations between half and one and a half times the centre; 1, 2, 3, ... where there are too few."""
    wanted = [round(centre * (0.5 + i / (branches - 1))) for i in range(branches)]
    return wanted if wanted[0] >= 1 and len(set(wanted)) == branches else list(range(1, branches + 1))


def of_layer(layer: Layer, branches: int) -> dict[str, Callable[[], object]]:
    """The ways to compute a layer, by column."""
    axes = len(layer.size)
    x = torch.randn(layer.batch, layer.channels, *layer.size, requires_grad=True)
    weight = torch.randn(layer.channels, layer.channels // layer.groups, *[layer.kernel] * axes).mul_(0.05)
    weight.requires_grad_()
    bias = torch.zeros(layer.channels, requires_grad=True)
    probability = torch.full((branches,), 1 / branches, requires_grad=True)
    dilations = [(d,) * axes for d in spaced(layer.dilation, branches)]
    padding = [[d * (layer.kernel - 1) // 2 for d in dilation] for dilation in dilations]
    g = torch.randn_like(x)

    def mixed(implementation: str) -> Callable[[], object]:
        def run() -> object:
            y = mixed_dilation_conv(
                x, weight, bias, probability, dilations, groups=layer.groups, implementation=implementation
            )
            return torch.autograd.grad(y, (x, weight, bias, probability), g)

        return run

    def plain() -> object:
        d = dilations[branches // 2]
        y = _CONV[axes](x, weight, bias, 1, padding[branches // 2], d, layer.groups)
        return torch.autograd.grad(y, (x, weight, bias), g)

    ways: dict[str, Callable[[], object]] = {PLAIN: plain}
    ways |= {name: mixed(name) for name in (BRANCHES, "taps", "dense", *native(), "auto")}
    reach = [d for (d, *_) in dilations]
    cells = ((layer.kernel - 1) * max(reach) // math.gcd(*reach) + 1) ** axes
    if cells > 4 * branches * layer.kernel**axes:
        del ways["dense"]  # many times the work of "branches"
    if axes == 2 and branches in (2, 3) and has_mmcv():
        conv = nn.Conv2d(layer.channels, layer.channels, layer.kernel, groups=layer.groups)
        operator = mmcv_operator(conv, branches)
        operator.dilation_rates = dilations
        parameters = [x, *operator.parameters()]
        ways[MMCV] = lambda: torch.autograd.grad(operator(x), parameters, g)
    return ways


def floor(layer: Layer, branches: int) -> float:
    """Seconds of what "taps" cannot do without, each at the rate that torch reaches here with nothing else to do.

    By the derivation in `rfnext.ops`, with k the number of taps, the centre's among them: 3 k products of the
    weights of a tap with the input, and 3 branches (k - 1) + 2 branches passes of multiply-add over the input, from and
    to the cache.
    """
    taps, positions = layer.kernel ** len(layer.size), math.prod(layer.size)
    share = 2**18 * torch.get_num_threads()  # elements, 1 MiB per thread
    one, other, p = torch.randn(share), torch.randn(share), torch.tensor(1e-3)
    x, kernel = torch.randn(layer.batch, layer.channels, positions), torch.randn(layer.channels, layer.channels)
    y, kernels = torch.empty_like(x), kernel.expand(layer.batch, -1, -1)
    product = fastest(lambda: torch.bmm(kernels, x, out=y))
    a_pass = fastest(lambda: one.addcmul_(other, p)) * x.numel() / share
    return 3 * taps * product + (3 * branches * (taps - 1) + 2 * branches) * a_pass
