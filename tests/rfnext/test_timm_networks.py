"""The search in other people's networks, with the five lines of the README, on timm models of random weights."""

import copy
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rfnext

timm = pytest.importorskip("timm")

NETWORKS = ["resnet18", "convnext_atto", "mobilenetv2_035", "res2net50_14w_8s"]


def create(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name, pretrained=False, num_classes=4)


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One epoch of the caller's own loop; it knows nothing of the search."""
    model.train()
    for _ in range(12):
        optimizer.zero_grad()
        F.cross_entropy(model(images()), torch.tensor([0, 1])).backward()
        optimizer.step()


@pytest.mark.parametrize("name", [pytest.param("resnet18", marks=pytest.mark.slow), *NETWORKS[1:3]])
def test_the_five_lines_of_the_readme(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model, fresh_model = create(name), create(name)
    hand_designed = rfnext.Structure.read(model)

    with rfnext.reproducible(torch.device("cpu")):  # what is found must not hang on a stopwatch
        bounds = rfnext.Bounds(1, 512)
        print(rfnext.plan(model))
        search = rfnext.LocalSearch(model, rfnext.LocalConfig(interval=1, rounds=2, bounds=bounds))
        optimizer = torch.optim.AdamW(model.parameters())
        for epoch in range(3):  # noqa: B007
            train(model, optimizer)
            search.after_step()
        search.structure().save("structure.json")
    rfnext.Structure.load("structure.json").apply(fresh_model)

    assert search.round == 2
    assert all(p.grad is not None for p in model.parameters())
    found = rfnext.Structure.read(fresh_model)
    assert found == search.structure()
    assert found.keys() == hand_designed.keys()
    assert found != hand_designed
    assert any(max(shares) > 0.6 for round_ in search.history for shares in round_.probability.values())
    x = images()
    assert fresh_model.eval()(x).shape == (2, 4)
    shapes = [
        [feature.shape for feature in cast(Any, network.eval()).forward_intermediates(x, intermediates_only=True)]
        for network in (model, fresh_model, create(name))
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_the_readme_shows_the_lines_that_the_test_runs() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = [b for b in readme.split("```python\n")[1:] if "search = rfnext.LocalSearch(model" in b.split("```")[0]]
    tested = [
        line.split("  #")[0].strip() for line in inspect.getsource(test_the_five_lines_of_the_readme).splitlines()
    ]
    for line in block.split("```")[0].splitlines():
        assert line.startswith("import ") or line.split("  #")[0].strip() in tested


def load_before(model: nn.Module, checkpoint: dict[str, Tensor], config: rfnext.LocalConfig) -> None:
    model.load_state_dict(checkpoint)
    rfnext.LocalSearch(model, config)


def load_after(model: nn.Module, checkpoint: dict[str, Tensor], config: rfnext.LocalConfig) -> None:
    rfnext.LocalSearch(model, config)
    model.load_state_dict(checkpoint)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.defect(21)
def test_checkpoints_load_before_or_after_wrapping(name: str) -> None:
    """The checkpoint of a plain network, loaded strictly on either side, gives one and the same searched network."""
    pretrained = create(name, seed=7).eval()
    checkpoint = copy.deepcopy(pretrained.state_dict())
    config, x = rfnext.LocalConfig(), images(1)
    loaders: list[Callable[[nn.Module, dict[str, Tensor], rfnext.LocalConfig], None]] = [load_before, load_after]
    outputs = []
    for load in loaders:
        model = create(name).eval()
        load(model, checkpoint, config)
        with torch.no_grad():
            outputs.append(model(x))
        # Back again: what was wrapped and never trained is the pretrained network.
        plain = create(name).eval()
        plain.load_state_dict(rfnext.plain_state_dict(model.state_dict()))
        with torch.no_grad():
            assert torch.equal(plain(x), pretrained(x))
    assert torch.equal(*outputs)
    with torch.no_grad():
        assert not torch.equal(outputs[0], pretrained(x))  # the branches are at work


@pytest.mark.parametrize("name", NETWORKS[:3])
def test_a_searched_network_merges_into_plain_convs(name: str) -> None:
    model = create(name).eval()
    rfnext.LocalSearch(model, rfnext.LocalConfig(bounds=rfnext.Bounds(1, 3)))
    x = images(1)
    with torch.no_grad():
        expected = model(x)
        rfnext.merge(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
