"""Averages of a searched network (EMA) by timm and torch, in their usual loops, against averages made by hand."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from rfnext import LocalConfig, LocalSearch
from rfnext.structure import searched_convs

DECAY = 0.9


class Written:
    """The loop that people write by hand."""

    def __init__(self, model: nn.Module) -> None:
        self.module: Any = copy.deepcopy(model).requires_grad_(False)

    def update(self, model: nn.Module) -> None:
        for average, parameter in zip(self.module.parameters(), model.parameters(), strict=True):
            average.data.mul_(DECAY).add_(parameter.data, alpha=1 - DECAY)


def by_timm(kind: str) -> Callable[[nn.Module], Any]:
    return lambda model: getattr(pytest.importorskip("timm.utils"), kind)(model, decay=DECAY)


def by_torch(**options: Any) -> Callable[[nn.Module], Any]:
    def average(model: nn.Module) -> Any:
        averaged: Any = AveragedModel(model, **options)
        averaged.n_averaged += 1  # from the initial weights on, as the others
        averaged.update = averaged.update_parameters
        return averaged

    return average


AVERAGES: dict[str, Callable[[nn.Module], Any]] = {
    "ModelEmaV2": by_timm("ModelEmaV2"),
    "ModelEmaV3": by_timm("ModelEmaV3"),
    "AveragedModel": by_torch(avg_fn=get_ema_avg_fn(DECAY)),
    "AveragedModel of lists": by_torch(multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True),
    "by hand": Written,
}
every_average = pytest.mark.parametrize("average", AVERAGES.values(), ids=list(AVERAGES))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=4, dilation=4))


def train(search: LocalSearch, optimizer: torch.optim.Optimizer, after: Callable[[], None]) -> None:
    generator = torch.Generator().manual_seed(search.step)
    for _ in range(6):
        x = torch.randn(4, 2, 40, generator=generator)
        optimizer.zero_grad()
        (search.model(x) - x.roll(5, -1)).square().mean().backward()
        optimizer.step()
        after()


def by_definition(weights: dict[str, Tensor], dilations: dict[str, tuple[tuple[int, ...], ...]], x: Tensor) -> Tensor:
    """The network of these weights and branches: per layer the sum of softmax(a / 0.01) conv(x, W, d)."""
    for layer in ("0", "2"):
        share = torch.softmax(weights[f"{layer}.branch_weight"] / 0.01, 0)
        weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        branches = [F.conv1d(x, weight, bias, padding=d, dilation=d) for (d,) in dilations[layer]]
        x = sum(p * y for p, y in zip(share, branches, strict=True))  # type: ignore[assignment]
        x = x.relu() if layer == "0" else x
    return x


@every_average
def test_an_average_equals_one_made_by_hand(average: Callable[[nn.Module], Any]) -> None:
    model = network()
    search = LocalSearch(model, LocalConfig(rounds=2, branches=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ema = average(model)
    averaged: nn.Module = ema.module
    expected = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update() -> None:
        ema.update(model)
        for name, p in model.named_parameters():
            expected[name] = DECAY * expected[name] + (1 - DECAY) * p.detach()

    moved = False
    for _ in range(4):
        train(search, optimizer, update)
        if search.after_step():
            search.copy_to(averaged if isinstance(ema, Written) else ema)
            moved |= search.history[-1].structure != dict(search.initial)
            expected |= {name: p.detach().clone() for name, p in model.named_parameters() if "branch" in name}
    assert moved
    dilations = {name: conv.dilations for name, conv in searched_convs(model).items()}
    x = torch.randn(1, 2, 40, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        torch.testing.assert_close(averaged(x), by_definition(expected, dilations, x), rtol=1e-4, atol=1e-5)


@every_average
def test_an_average_that_is_left_behind_is_an_error(average: Callable[[nn.Module], Any]) -> None:
    model = network()
    search = LocalSearch(model, LocalConfig(rounds=1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    ema = average(model)
    train(search, optimizer, lambda: ema.update(model))
    assert search.after_step()
    train(search, optimizer, lambda: ema.update(model))
    with pytest.raises(RuntimeError, match=r"layer '.*copy_to\(ema\)"):
        search.after_step()
    assert search.step == 1


def test_copies_that_are_no_averages_are_left_alone() -> None:
    """A snapshot keeps its branches; a copy with a search of its own goes its own way."""
    model = network()
    search = LocalSearch(model, LocalConfig(rounds=2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    twin = copy.deepcopy(model)
    own = LocalSearch(twin, LocalConfig(rounds=2, branches=3))
    train(search, optimizer, lambda: None)
    x = torch.randn(1, 2, 40)
    snapshot: nn.Module = copy.deepcopy(model)
    before = snapshot.forward(x)
    for _ in range(3):
        search.after_step()
        train(search, optimizer, lambda: None)
        own_optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
        train(own, own_optimizer, own_optimizer.zero_grad)
        own.after_step()
    assert search.structure() != search.initial
    assert torch.equal(snapshot(x), before)


def test_a_snapshot_that_loads_another_one_is_no_average() -> None:
    model = network()
    search = LocalSearch(model, LocalConfig(rounds=9))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    best = copy.deepcopy(model)
    train(search, optimizer, lambda: None)
    search.after_step()
    train(search, optimizer, lambda: None)
    better = copy.deepcopy(model.state_dict())
    search.after_step()
    best.load_state_dict(better)  # its branches are neither those of before nor those of now
    train(search, optimizer, lambda: None)
    search.after_step()
