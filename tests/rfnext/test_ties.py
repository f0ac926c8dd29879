"""Tied convs get one dilation: those that are named, and those whose kernels are added to each other."""

import copy
import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Search, Structure


class Lora(nn.Module):
    """A conv adapted by LoRA, with peft's names of the parts: merged, it is one conv by the sum of kernels."""

    def __init__(self, rank: int = 2) -> None:
        super().__init__()
        self.base_layer = nn.Conv1d(4, 4, 3, padding=1)
        self.lora_A = nn.ModuleDict({"default": nn.Conv1d(4, rank, 3, padding=1, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Conv1d(rank, 4, 1, bias=False)})

        self.merged = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return y if self.merged else y + self.lora_B["default"](self.lora_A["default"](x))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        down, up = (part.get_parameter("default.weight") for part in (self.lora_A, self.lora_B))
        self.base_layer.weight.data += torch.einsum("or,rik->oik", up[..., 0], down)
        self.merged = True


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), Lora(), nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 2, 1))


TIE = [["0", "2"]]
LORA = {"1.base_layer", "1.lora_A.default"}
SEARCHES: dict[str, Callable[[nn.Module], Search]] = {
    "local": lambda model: LocalSearch(model, LocalConfig(rounds=3), tie=TIE),
    "paper": lambda model: LocalSearch(model, LocalConfig(rounds=3, rule="paper"), tie=TIE),
    "one-shot": lambda model: OneShotSearch(model, OneShotConfig((1, 2, 4), sharpen=1.1), tie=TIE),
}


def train(search: Search, epochs: int = 4) -> None:
    optimizer = torch.optim.Adam(search.parameter_groups(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for _ in range(6):
            x = torch.randn(4, 2, 40, generator=generator)
            optimizer.zero_grad()
            (search.model(x) - x.roll(4, -1)).square().mean().backward()
            optimizer.step()
        search.after_step()


@pytest.mark.parametrize("start", SEARCHES.values(), ids=list(SEARCHES))
def test_tied_layers_get_one_dilation(start: Callable[[nn.Module], Search]) -> None:
    search = start(network())
    assert len(search.branch_weights()) == 2
    train(search)
    for structure in (*(round_.structure for round_ in search.history), dict(search.structure())):
        assert structure["0"] == structure["2"]
        assert len({structure[name] for name in LORA}) == 1
    assert any(r.probability["0"] != r.probability["1.base_layer"] for r in search.history)
    resumed = start(network())
    resumed.load_state_dict(search.state_dict())
    resumed.model.load_state_dict(search.model.state_dict())
    train(search, 1)
    train(resumed, 1)
    assert resumed.structure() == search.structure()


def test_a_lora_pair_merges_into_one_conv() -> None:
    """After the search, and even before its end: both have the same branches and probabilities."""
    search, x = LocalSearch(network(), LocalConfig(rounds=3)), torch.randn(1, 2, 40)
    train(search)
    assert len(set(search.probability()["1.base_layer"])) > 1
    for model in (copy.deepcopy(search.model), search.model):
        if model is search.model:
            search.structure().apply(model)
            assert search.history[-1].structure["1.base_layer"] != (1,)
        expected = model(x)
        lora = model.get_submodule("1")
        assert isinstance(lora, Lora)
        lora.merge(safe_merge=True, adapter_names=["default"])
        assert lora.merged
        torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_a_lora_pair_of_unlike_dilations_does_not_merge() -> None:
    model = network()
    Structure({"1.base_layer": 3}).apply(model)
    lora = model[1]
    assert isinstance(lora, Lora)
    with pytest.raises(ValueError, match=r"merge\(\) of block '1' would change what it computes"):
        lora.merge()
    assert not lora.merged


def test_a_pair_of_which_one_is_not_searched_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    LocalSearch(network(), LocalConfig(), where=lambda name, _: "lora_A" not in name)
    assert "1.base_layer is searched and 1.lora_A.default is not" in caplog.text


@pytest.mark.parametrize(
    ("tie", "error", "message"),
    [
        ([["0", "7"]], ValueError, "'7' of tie is not among"),
        ([["0", "3"]], ValueError, "'3' of tie is not among"),
        ([["0", "wide"]], ValueError, "'0' and 'wide' cannot be tied"),
        ("0", TypeError, "groups of layer names"),
        (["0", "2"], TypeError, "groups of layer names"),
    ],
)
def test_groups_that_cannot_be_tied_are_an_error_and_change_nothing(
    tie: list[list[str]], error: type[Exception], message: str
) -> None:
    model = network()
    model.add_module("wide", nn.Conv1d(2, 2, 3, dilation=4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        LocalSearch(model, LocalConfig(), tie=tie)
    assert before.keys() == model.state_dict().keys()


def test_states_of_a_search_without_the_tie_are_refused() -> None:
    untied = LocalSearch(network(), LocalConfig(rounds=3))
    untied.convs["0"].branch_weight.data[-1] = 0.1
    untied.after_step()
    assert untied.structure()["0"] != untied.structure()["2"]
    search = LocalSearch(network(), LocalConfig(rounds=3), tie=TIE)
    with pytest.raises(ValueError, match="other ties; 1 groups differ, \\['0', '2'\\] first"):
        search.load_state_dict(untied.state_dict())
    old = {key: value for key, value in untied.state_dict().items() if key != "tied"}
    with pytest.raises(ValueError, match="'0' and '2' cannot be tied"):
        search.load_state_dict(old)
    search.model.load_state_dict(untied.model.state_dict())
    with pytest.raises(ValueError, match="'0' and '2' cannot be tied"):
        search.after_step()


def test_samples_draw_tied_layers_together() -> None:
    search = OneShotSearch(network(), OneShotConfig((1, 2, 4)), tie=TIE)
    rng = np.random.default_rng(0)
    drawn = [search.sample(rng) for _ in range(20)]
    assert all(structure["0"] == structure["2"] for structure in drawn)
    assert any(structure["0"] != structure["1.base_layer"] for structure in drawn)


def test_a_search_without_the_tie_of_the_one_before(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rfnext")
    model = network()
    assert len(LocalSearch(model, LocalConfig(), tie=TIE).branch_weights()) == 2
    assert len(LocalSearch(model, LocalConfig()).branch_weights()) == 3
    assert "1.base_layer, 1.lora_A.default: tied" in caplog.text


def test_equal_branches_of_a_search_without_the_tie_are_refused() -> None:
    untied = OneShotSearch(network(), OneShotConfig((1, 2, 4)))
    search = OneShotSearch(network(), OneShotConfig((1, 2, 4)), tie=TIE)
    with pytest.raises(ValueError, match="other ties"):
        search.load_state_dict(untied.state_dict())
    with pytest.raises(ValueError, match="other ties"):
        untied.load_state_dict(search.state_dict())
    search.load_state_dict(search.state_dict())


def test_a_network_off_the_meta_device_stays_tied() -> None:
    with torch.device("meta"):
        model = network()
        search = LocalSearch(model, LocalConfig(), tie=TIE)
    model.to_empty(device="cpu")
    for module in model.modules():
        if reset := getattr(module, "reset_parameters", None):
            reset()
    assert len(search.branch_weights()) == 2
    train(search)
    assert search.structure()["0"] == search.structure()["2"]


@pytest.mark.parametrize("plain", [False, True], ids=["searched", "plain"])
def test_a_network_whose_parameters_are_assigned_stays_tied(plain: bool) -> None:
    saved = network()
    if not plain:
        train(LocalSearch(saved, LocalConfig(), tie=TIE))
    with torch.device("meta"):
        model = network()
        search = LocalSearch(model, LocalConfig(), tie=TIE)
    model.load_state_dict(copy.deepcopy(saved.state_dict()), assign=True)
    assert len(search.branch_weights()) == 2
    x = torch.randn(1, 2, 20)
    torch.testing.assert_close(model(x), saved(x)) if not plain else train(search)
    assert search.structure()["0"] == search.structure()["2"]
