"""The networks of which a whole training step is timed, and the ways to compute it."""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.speed.peers import PlainMSTCN, has_mmcv, mmcv_operator
from benchmarks.speed.timing import BRANCHES, MMCV, PLAIN, TORCH, native
from rfnext import Bounds, LocalConfig, LocalSearch, SearchConv, pin_implementation
from tasks.action_segmentation.models import ms_tcn, searched
from tasks.action_segmentation.models.losses import loss


@dataclass(frozen=True)
class Model:
    """One whole training step. make: a fresh network and its step's loss; where: the searched convs."""

    name: str
    make: Callable[[], tuple[nn.Module, Callable[[nn.Module], Tensor]]]
    where: Any
    branches: int = 3
    targets: Mapping[int, float] = field(default_factory=dict)
    quick: bool = False
    of_branches: bool = False
    from_torch: Callable[[], nn.Module] | None = None
    """The same plain network put together from torch's modules."""

    def __str__(self) -> str:
        return self.name


FEATURES, CLASSES = 2048, 19  # of 50 Salads


def _ms_tcn(batch: int, length: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    x, labels = torch.randn(batch, FEATURES, length), torch.randint(CLASSES, (batch, length))
    mask = torch.ones(batch, 1, length, dtype=torch.bool)
    return ms_tcn(FEATURES, CLASSES), lambda network: loss(network(x, mask), labels, mask, 0.15)


def _timm(name: str, batch: int, size: int) -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    import timm  # an optional extra

    x, labels = torch.randn(batch, 3, size, size), torch.randint(1000, (batch,))
    return timm.create_model(name), lambda network: F.cross_entropy(network(x), labels)


def _spatial(name: str, conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.kernel_size[0] in (3, 5, 7) and conv.in_channels > 3


MODELS = (
    *(
        Model(
            f"MS-TCN 4 x 10 x 64, {batch} x {length} frames",
            functools.partial(_ms_tcn, batch, length),
            searched,
            targets={3: 1.1},
            quick=length == 500,
            from_torch=functools.partial(PlainMSTCN, FEATURES, CLASSES),
        )
        for batch, length in ((8, 500), (4, 2000))
    ),
    Model("ResNet-50 (timm), 4 x 128 x 128", lambda: _timm("resnet50", 4, 128), _spatial),
    Model("ConvNeXt-Nano (timm), 4 x 128 x 128", lambda: _timm("convnext_nano", 4, 128), _spatial),
    Model("PVTv2-B0 (timm), 4 x 128 x 128", lambda: _timm("pvt_v2_b0", 4, 128), _spatial),
)


def of_model(model: Model) -> dict[str, Callable[[], object]]:
    """A training step of the plain network and of the searched one, by column."""
    torch.manual_seed(0)
    network, evaluate = model.make()
    network.train()
    searching = copy.deepcopy(network)
    LocalSearch(searching, LocalConfig(branches=model.branches, spread=0.1, bounds=Bounds(1, 2048)), model.where)
    for conv in searching.modules():
        if isinstance(conv, SearchConv) and len(conv.dilations) < model.branches:  # dilations end at 1
            conv.set_branches([(d,) * len(conv.dilations[0]) for d in range(1, model.branches + 1)])

    def step(network: nn.Module, implementation: str = "auto") -> Callable[[], object]:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-6)

        def run() -> None:
            with pin_implementation(implementation):
                optimizer.zero_grad()
                evaluate(network).backward()
                optimizer.step()

        return run

    ways = {PLAIN: step(network)} | {name: step(searching, name) for name in (BRANCHES, "taps", *native(), "auto")}
    convs = {name: conv for name, conv in network.named_modules() if model.where(name, conv)}
    if has_mmcv() and all(isinstance(conv, nn.Conv2d) for conv in convs.values()):
        published = copy.deepcopy(network)
        for name in convs:
            conv = published.get_submodule(name)
            assert isinstance(conv, nn.Conv2d)
            operator = mmcv_operator(conv, model.branches)
            operator.dilation_rates = [(d, d) for d in range(1, model.branches + 1)]
            parent, _, child = name.rpartition(".")
            setattr(published.get_submodule(parent), child, operator)
        ways[MMCV] = step(published)
    if model.from_torch is not None:
        ways[TORCH] = step(model.from_torch())
    return ways
