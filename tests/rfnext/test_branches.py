"""keep_branches: a network that keeps the branches around a structure and trains their probabilities."""

from typing import cast

import pytest
import torch
from torch import nn

import rfnext
from rfnext import Bounds, LocalConfig, LocalSearch, SearchConv, Structure
from rfnext.convs.conv import INITIAL_WEIGHT
from rfnext.structure import searched_convs


def with_unequal_weights(model: nn.Module) -> nn.Module:
    for conv in searched_convs(model).values():
        with torch.no_grad():
            conv.branch_weight.add_(torch.linspace(0, 0.01, len(conv.branch_weight)))
    return model


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, (3, 2), padding="valid"), nn.Conv2d(2, 2, 2))


def test_keep_branches_makes_a_multi_branch_network_that_does_not_move() -> None:
    model = network()
    config = LocalConfig(branches=3, spread=0.5, bounds=Bounds(1, 24))
    rfnext.keep_branches(model, Structure({"0": (4, 2)}), config)
    conv = cast(SearchConv, model[0])
    assert conv.dilations == ((2, 1), (4, 2), (6, 3))
    assert type(model[1]) is nn.Conv2d
    assert Structure.read(model)["0"] == (4, 2)
    x = torch.randn(1, 2, 9, 9)
    assert model(x).shape == network()(x).shape
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()
    assert (conv.branch_weight != INITIAL_WEIGHT).any()
    assert conv.dilations == ((2, 1), (4, 2), (6, 3))


def test_keep_branches_reproduces_the_network_at_the_end_of_its_search() -> None:
    """Structure and checkpoint of the search run: the very same function, without a LocalSearch."""
    config = LocalConfig(branches=3, rounds=1)
    searched = network()
    search = LocalSearch(searched, config)
    with_unequal_weights(searched)
    search.after_step()
    with_unequal_weights(searched)
    kept = network()
    rfnext.keep_branches(kept, search.structure(), config)
    kept.load_state_dict(searched.state_dict())
    x = torch.randn(1, 2, 9, 9)
    assert torch.equal(kept(x), searched(x))


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        ({"0": (2, 2), "3": (2, 2)}, "layer '3' of the structure is not in the model"),
        ({"0": (2, 2), "2": (1, 1)}, "layer '2' cannot have branches: its kernel"),
        ({"0": (2, 2), "1": (2, 2)}, "layer '1': an even kernel"),
        ({"0": (2, 2), "1": (2,)}, r"layer '1': dilation \(2,\) has 1 axes"),
    ],
)
def test_structures_that_do_not_fit_are_refused_and_change_nothing(
    structure: dict[str, rfnext.Dilation], message: str
) -> None:
    model = network()
    with pytest.raises(ValueError, match=message):
        rfnext.keep_branches(model, Structure(structure), LocalConfig())
    assert not searched_convs(model)
    assert dict(Structure.read(model)) == {"0": (1, 1), "1": (1, 1)}


@pytest.mark.parametrize("rule", ["default", "paper"])
def test_keep_branches_refuses_centres_that_the_bounds_leave_out(rule: rfnext.Rule) -> None:
    """All branches would lie at the bounds: 128 and 512 would become the same layer."""
    model = network()
    with pytest.raises(ValueError, match=r"layer '0': dilation \(4, 128\) is outside Bounds\(min=1, max=24\)"):
        rfnext.keep_branches(model, Structure({"0": (4, 128)}), LocalConfig(rule=rule))
    assert not searched_convs(model)
    # An axis with an even kernel is not searched, so the bounds have no say.
    mixed = nn.Conv2d(1, 1, (3, 2), dilation=(1, 99))
    rfnext.keep_branches(mixed, Structure({"": (24, 99)}), LocalConfig(rule=rule))
    assert Structure.read(mixed)[""] == (24, 99)


def test_a_config_of_another_search_is_named() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1))
    with pytest.raises(TypeError, match="keep_branches takes a LocalConfig, got a OneShotConfig"):
        rfnext.keep_branches(model, rfnext.Structure({"0": 1}), rfnext.OneShotConfig())  # type: ignore[arg-type]
    assert type(model[0]) is nn.Conv1d
