"""A small network wrapped and trained by mmcv's own hook, and what its training leaves: checkpoints and structures."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

rfsearch = pytest.importorskip("mmcv.cnn.rfsearch", reason="mmcv-lite, the peer, is not installed")
Wrapper = pytest.importorskip("mmcv.cnn").Conv2d


class Network(nn.Module):
    """Every kind of 2-d conv that mmcv's operator knows; layer1 is left out of the search."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(2, width, 3, padding=1)
        self.neck = nn.Sequential(nn.Conv2d(width, 8, 3, padding=0), nn.BatchNorm2d(8), Wrapper(8, 8, 3, padding=1))
        self.even = nn.Conv2d(8, 8, (2, 3), padding=(0, 4), dilation=(1, 4))
        self.patches = nn.Conv2d(8, 8, 7, stride=4, padding=3)  # mmcv's tools pad it by 4
        self.depthwise = nn.Conv2d(8, 8, 5, padding=12, dilation=6, groups=8, bias=False)
        self.column = nn.Conv2d(8, 8, (3, 1), dilation=(1, 4), padding=(1, 0))  # 3 branches: two are the same
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.even(self.neck(self.layer1(x).relu()).relu()).relu()
        return self.head(self.column(self.depthwise(self.patches(x).relu())))


class Trained(NamedTuple):
    """The wrapped network, the checkpoint that it was saved to, and the structure file of its step."""

    model: nn.Module
    checkpoint: Path
    structure: Path


def settings(branches: int = 2, spread: float = 0.5) -> dict[str, Any]:
    return {
        "search": {
            "step": 0,
            "max_step": 4,
            "search_interval": 1,
            "exp_rate": spread,
            "init_alphas": 0.01,
            "mmin": 1,
            "mmax": 24,
            "num_branches": branches,
            "skip_layer": ["layer1"],
        }
    }


def images() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(3)
    while True:
        yield torch.randn(2, 2, 37, 38, generator=generator, dtype=torch.float64)


def train(model: nn.Module, steps: int, after_step: Callable[[], Any] = lambda: None) -> None:
    """SGD, with a larger learning rate for branch weights, so that dilations move within a few steps."""
    weights = [p for name, p in model.named_parameters() if "branch_weight" in name]
    others = [p for name, p in model.named_parameters() if "branch_weight" not in name]
    optimizer = torch.optim.SGD([{"params": others, "lr": 0.05}, {"params": weights, "lr": 0.2}])
    for x, _ in zip(images(), range(steps), strict=False):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        after_step()


def rounds(hook: Any, model: nn.Module, folder: Path) -> Callable[[], Any]:
    """The hook's round after a step. Its files can be read back only with the names that DDP gives."""
    wrapped = nn.ModuleDict({"module": model})
    return lambda: hook.step(wrapped, str(folder))


def trained(folder: Path, mode: str = "search", branches: int = 2, spread: float = 0.5) -> Trained:
    """Search for three steps; in the fixed modes, train with what was found."""
    torch.manual_seed(1)
    config = settings(branches, spread)
    model = Network()
    hook = rfsearch.RFSearchHook("search", config, by_epoch=False, verbose=False)
    hook.init_model(model)
    model.double()
    train(model, 3, rounds(hook, model, folder))
    structure = folder / "local_search_config_step3.json"
    if mode != "search":
        torch.manual_seed(2)
        model = Network()
        hook = rfsearch.RFSearchHook(mode, settings(branches, spread), str(structure), verbose=False)
        hook.init_model(model)
        model.double()
    train(model, 1)
    return Trained(model, save(model, folder / "checkpoint.pth"), structure)


def save(model: nn.Module, path: Path, **meta: Any) -> Path:
    """As mmdet publishes: {"state_dict", "meta"} in torch's old format."""
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"meta": meta, "state_dict": state}, path, _use_new_zipfile_serialization=False)
    return path


def config_text(mode: str, structure: Path | None = None, branches: int = 2, **others: Any) -> str:
    """The text of a training's config, as mmcv writes it."""
    search = ", ".join(f"{name}={value!r}" for name, value in settings(branches)["search"].items())
    lines = [f"{name} = {value!r}" for name, value in others.items()]
    file = None if structure is None else str(structure)
    hook = f"dict(type='RFSearchHook', mode={mode!r}, rfstructure_file={file!r}, config=dict(search=dict({search})))"
    return "\n".join(["model = dict(type='Net', scale=float('inf'))", *lines, f"custom_hooks = [{hook}]"])


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())
