"""Layers that learn nothing are named in the log, once, and keep their dilations."""

import copy
import logging
import types
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rfnext
from rfnext import LocalConfig, LocalSearch, Rule


class Network(nn.Module):
    """Every layer reads the same input, and all outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        names = ("learns", "encoder", "frozen", "replaced", "read", "patched", "useless", "again")
        self.layers = nn.ModuleDict({name: nn.Conv1d(2, 2, 3, padding=1) for name in names})
        self.same = self.layers["again"]  # one layer of two names
        self.head = nn.Conv1d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        read = self.layers["read"]
        with torch.no_grad():
            y = self.layers["encoder"](x)
        y = y + F.conv1d(x, read.weight, read.bias, padding=1) + 0 * self.layers["useless"](x)  # type: ignore[arg-type]
        for name in ("learns", "frozen", "replaced", "patched"):
            y = y + self.layers[name](x)
        return self.head(y + self.same(x))


IDLE = {"layers.encoder", "layers.frozen", "layers.replaced", "layers.read", "layers.patched", "layers.useless"}


def searched(config: LocalConfig) -> LocalSearch:
    model = Network()
    search = LocalSearch(model, config)
    model.layers["frozen"].requires_grad_(False)
    model.layers["replaced"] = nn.Conv1d(2, 2, 3, padding=1)
    plain = nn.Conv1d(2, 2, 3, padding=1)
    model.layers["patched"].forward = types.MethodType(lambda _, x: plain(x), model.layers["patched"])  # type: ignore
    return search


def epoch(search: LocalSearch, optimizer: torch.optim.Optimizer, accumulate: int = 1) -> None:
    generator = torch.Generator().manual_seed(search.step)
    for step in range(1, 13):
        x = torch.randn(4, 2, 30, generator=generator)
        (search.model(x) - x.roll(2, -1)).square().mean().backward()
        if step % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return found


def named(message: str) -> set[str]:
    return {f"layers.{name}" for name in Network().layers if f"layers.{name}" in message}


@pytest.mark.parametrize("rule", get_args(Rule))
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_layers_that_no_gradient_reaches_are_named_once_and_stay(
    rule: Rule, decay: float, caplog: pytest.LogCaptureFixture
) -> None:
    search = searched(LocalConfig(rounds=3, rule=rule))
    optimizer = torch.optim.AdamW(search.model.parameters(), lr=0.01, weight_decay=decay)
    for _ in range(3):
        epoch(search, optimizer, accumulate=3)
        search.after_step()
    (message,) = warnings_of(caplog)
    assert named(message) == IDLE
    assert {name for name, d in search.structure().items() if d == (1,)} >= IDLE
    assert all(len(set(r.probability["layers.learns"])) > 1 for r in search.history)
    assert all(len(set(r.probability[name])) == 1 for r in search.history for name in IDLE)


def test_a_layer_that_the_optimizer_leaves_out_is_named(caplog: pytest.LogCaptureFixture) -> None:
    search = LocalSearch(Network(), LocalConfig(), where=lambda name, _: name in ("layers.learns", "layers.again"))
    left_out = search.convs["layers.again"].branch_weight
    optimizer = torch.optim.SGD([p for p in search.model.parameters() if p is not left_out], lr=0.1)
    epoch(search, optimizer)
    search.after_step()
    (message,) = warnings_of(caplog)
    assert named(message) == {"layers.again"}


def test_steps_that_mixed_precision_skips_say_nothing_of_single_layers(caplog: pytest.LogCaptureFixture) -> None:
    """A gradient scaler that meets an infinity skips the step for all layers alike."""
    search = LocalSearch(Network(), LocalConfig(rounds=2), where=lambda name, _: name == "layers.learns")
    scaler: Any = torch.amp.GradScaler("cpu", init_scale=1e38)
    optimizer = torch.optim.SGD(search.model.parameters(), lr=0.1)
    before = copy.deepcopy(search.branch_weights())
    scaler.scale(1e38 * search.model(torch.ones(1, 2, 30)).sum()).backward()
    scaler.step(optimizer)
    assert torch.equal(before[0], search.branch_weights()[0])
    search.after_step()
    (message,) = warnings_of(caplog)
    assert "no branch weight has changed" in message
    assert not named(message)


def test_a_one_shot_search_names_them_when_it_has_warmed_up(caplog: pytest.LogCaptureFixture) -> None:
    search = rfnext.OneShotSearch(Network(), rfnext.OneShotConfig((1, 2, 4), warmup=1, sharpen=1.1))
    optimizer = torch.optim.Adam(search.parameter_groups(), lr=0.01)
    for _ in range(3):
        epoch(search, optimizer)  # type: ignore[arg-type]
        search.after_step()
    (message,) = warnings_of(caplog)
    assert named(message) == {"layers.encoder", "layers.read", "layers.useless"}
