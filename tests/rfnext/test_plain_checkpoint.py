"""Checkpoints without the branch weights of a searched network: what starts a search, and what is an error."""

import copy
import io
import logging
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import rfnext
from rfnext import SearchConv
from rfnext.convs.conv import INITIAL_WEIGHT
from rfnext.description import describe, load_into, restore
from rfnext.structure import searched_convs
from tests.rfnext.networks import CONFIG, favour_the_widest, network, searched_network

OWN = ("branch_weight", "_extra_state")


def keep(model: nn.Module) -> None:
    rfnext.keep_branches(model, rfnext.Structure({"0": (4, 4), "3": (2, 1)}), CONFIG)


def one_shot(model: nn.Module) -> None:
    rfnext.OneShotSearch(model, rfnext.OneShotConfig(candidates=(1, 2, 4)))


MODES: dict[str, Callable[[nn.Module], object]] = {
    "search": lambda model: rfnext.LocalSearch(model, CONFIG),
    "one-shot": one_shot,
    "kept branches": keep,
}


def keys_of(*layers: str) -> set[str]:
    return {f"{layer}.{key}" for layer in layers for key in OWN}


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    caplog.clear()
    return said


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_a_plain_checkpoint_starts_a_search_and_the_log_says_so_once(
    mode: str, strict: bool, caplog: pytest.LogCaptureFixture
) -> None:
    model = network()
    MODES[mode](model)
    caplog.clear()
    with torch.no_grad():
        state = {key: value + 1 for key, value in network().state_dict().items()}
    assert model.load_state_dict(state, strict=strict).missing_keys == []
    assert [line.partition(":")[0] for line in warnings_of(caplog)] == ["the checkpoint has no branch weights"]
    for conv in searched_convs(model).values():
        assert (conv.branch_weight == INITIAL_WEIGHT).all()
    model.load_state_dict(model.state_dict())
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("mode", MODES)
def test_learnt_shares_are_missing_keys_of_a_plain_checkpoint(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """They were learnt with other kernels: the result would be neither this network nor that one."""
    model = network()
    MODES[mode](model)
    favour_the_widest(model)
    caplog.clear()
    with pytest.raises(
        RuntimeError, match=r'Missing key\(s\) in state_dict: "0.branch_weight", "0._extra_state", "3.b'
    ):
        model.load_state_dict(network().state_dict())
    assert set(model.load_state_dict(network().state_dict(), strict=False).missing_keys) == keys_of("0", "3")
    assert warnings_of(caplog) == []


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": lambda model: model,
    "copied": copy.deepcopy,
    "within another": lambda model: nn.ModuleDict({"inner": nn.Sequential(model)}),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_with_the_branches_of_other_layers_names_those_that_it_lacks(way: str) -> None:
    """A search of one layer is loaded into a search of two, whose shares are those of the start."""
    saved, model = network(), network()
    rfnext.LocalSearch(saved, CONFIG, where=lambda name, _: name == "0")
    rfnext.LocalSearch(model, CONFIG)
    saved, model = WAYS[way](saved), WAYS[way](model)
    prefix = "inner.0." if way == "within another" else ""
    with pytest.raises(
        RuntimeError, match=rf'Missing key\(s\) in state_dict: "{prefix}3.branch_weight", "{prefix}3._e'
    ):
        model.load_state_dict(saved.state_dict())
    told = model.load_state_dict(saved.state_dict(), strict=False)
    assert sorted(told.missing_keys) == sorted(keys_of(prefix + "3"))
    assert told.unexpected_keys == []


@pytest.mark.parametrize("key", OWN)
def test_half_of_a_layers_branches_is_not_a_plain_checkpoint(key: str) -> None:
    model, _ = searched_network()
    state = model.state_dict()
    del state["3." + key]
    with pytest.raises(RuntimeError, match=rf'Missing key\(s\) in state_dict: "3.{key}"\.'):
        model.load_state_dict(state)
    assert model.load_state_dict(state, strict=False).missing_keys == ["3." + key]


def test_other_layers_alone_say_nothing_of_branches(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    rfnext.LocalSearch(model, CONFIG)
    state = {key: value for key, value in network().state_dict().items() if key.startswith(("1.", "5."))}
    caplog.clear()
    assert "0.weight" in model.load_state_dict(state, strict=False).missing_keys
    assert warnings_of(caplog) == []


def test_a_described_network_needs_its_branch_weights() -> None:
    model, _ = searched_network()
    plain = rfnext.plain_state_dict(model.state_dict())
    with pytest.raises(ValueError, match=r"'0.branch_weight' is missing"):
        restore(network(), describe(model), plain)
    with pytest.raises(ValueError, match=r"'0.branch_weight' is missing"):
        load_into(model, describe(model), plain)


def test_a_pickled_search_still_names_them() -> None:
    saved, model = network(), network()
    rfnext.LocalSearch(saved, CONFIG, where="0")
    rfnext.LocalSearch(model, CONFIG)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = cast(nn.Module, torch.load(file, weights_only=False))
    assert set(again.load_state_dict(saved.state_dict(), strict=False).missing_keys) == keys_of("3")


def test_a_searched_conv_alone_is_its_own_network() -> None:
    conv = nn.Conv1d(2, 2, 3, padding=1)
    plain: dict[str, Tensor] = copy.deepcopy(conv.state_dict())
    rfnext.LocalSearch(conv, CONFIG)
    conv.load_state_dict(plain)
    with torch.no_grad():
        cast(SearchConv, conv).branch_weight[0] = 0.02
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "branch_weight", "_extra_state"'):
        conv.load_state_dict(plain)
