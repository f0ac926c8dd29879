"""Convs in plain values: JSON carries them, and a network as designed becomes the described one."""

import json

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from rfnext import LocalConfig, Structure, keep_branches, merge
from rfnext.description import describe, load_into, restore


def designed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        weight_norm(nn.Conv2d(4, 4, 3, padding=1, groups=2)),
        nn.Conv2d(4, 4, (3, 1), padding="same", dilation=(2, 1), padding_mode="reflect"),
        nn.Conv2d(4, 4, 1),
    )


def merged() -> nn.Module:
    model = designed()
    keep_branches(model, Structure({"0": (2, 3), "1": (3, 1)}), LocalConfig(branches=3))
    with torch.no_grad():
        model[0].branch_weight.copy_(torch.tensor([0.01, 0.02, 0.0]))
    merge(model)
    return model


def test_a_merged_network_comes_back_through_json() -> None:
    model, again = merged(), designed()
    restore(again, json.loads(json.dumps(describe(model))), model.state_dict())
    x = torch.randn(2, 4, 20, 20)
    assert torch.equal(again(x), model(x))
    assert describe(again) == describe(model)
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_frozen_layers_stay_frozen() -> None:
    model, again = merged(), designed()
    again[1].requires_grad_(False)
    restore(again, describe(model), model.state_dict())
    assert not again[1].weight.requires_grad


def test_another_network_is_refused_by_layer() -> None:
    model = merged()
    with pytest.raises(ValueError, match="layer '2' is in only one of"):
        restore(designed()[:2], describe(model), model.state_dict())
    with pytest.raises(ValueError, match="layer '0' has kernel"):
        load_into(designed(), describe(model), model.state_dict())
    with pytest.raises(ValueError, match="the weights are of another network"):
        load_into(merged(), describe(model), {})
