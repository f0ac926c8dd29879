"""Checkpoints of searched and plain networks: what loads into what, and that it computes the same."""

import io
from typing import cast

import pytest
import torch
from torch import nn

import rfnext
from rfnext import SearchConv
from rfnext.structure import searched_convs
from tests.rfnext.networks import CONFIG, network, searched_network


@pytest.mark.defect(21)
def test_plain_checkpoints_load_strictly_into_a_searched_network() -> None:
    torch.manual_seed(1)
    state = {key: torch.randn_like(value.float()).abs() for key, value in network().state_dict().items()}
    model = network()
    plain_keys = list(model.state_dict())
    rfnext.LocalSearch(model, CONFIG)
    branches = {name: conv.dilations for name, conv in searched_convs(model).items()}
    model.load_state_dict(state, strict=True)
    assert {name: conv.dilations for name, conv in searched_convs(model).items()} == branches
    for key in plain_keys:
        torch.testing.assert_close(
            model.state_dict()[key].float(), state[key].to(model.state_dict()[key].dtype).float()
        )
    del state["0.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0.weight"\.'):
        model.load_state_dict(state, strict=True)


@pytest.mark.defect(21)
def test_searched_checkpoints_load_strictly_into_a_plain_network() -> None:
    model, search = searched_network()
    state = rfnext.plain_state_dict(model.state_dict())
    plain = network()
    plain.load_state_dict(state, strict=True)
    search.structure().apply(plain)
    search.structure().apply(model)
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(plain.eval()(x), model.eval()(x))


def test_plain_state_dict_keeps_what_only_looks_like_a_branch() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch_weight = nn.Parameter(torch.ones(2))
            self.my_branch_weight = nn.Parameter(torch.ones(2))

    model = nn.Sequential(Gate(), nn.Conv1d(1, 1, 3, padding=1))
    keys = set(model.state_dict())
    rfnext.LocalSearch(model, CONFIG)
    assert set(rfnext.plain_state_dict(model.state_dict())) == keys


@pytest.mark.defect(22)
def test_a_searched_checkpoint_alone_is_the_same_function() -> None:
    """Loaded from a file, without unpickling objects, into a network that has just been wrapped."""
    model, _ = searched_network()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = network()
    rfnext.LocalSearch(fresh, CONFIG)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(fresh.eval()(x), model.eval()(x))
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert [c.dilations for c in searched_convs(fresh).values()] == [
        c.dilations for c in searched_convs(model).values()
    ]


def test_a_checkpoint_of_other_branches_names_the_layer() -> None:
    two, three = network(), network()
    rfnext.LocalSearch(two, rfnext.LocalConfig(branches=2))
    rfnext.LocalSearch(three, rfnext.LocalConfig(branches=3, bounds=rfnext.Bounds(1, 9), spread=1.0))
    cast(SearchConv, three[0]).set_branches([(1, 1), (2, 2), (3, 3)])
    with pytest.raises(
        RuntimeError, match=r"(?s)size mismatch for 0\.branch_weight.*0: 3 branches for 2 branch weights"
    ):
        two.load_state_dict(three.state_dict())
    state = two.state_dict()
    state["3._extra_state"] = torch.tensor([[1], [2]])
    with pytest.raises(RuntimeError, match=r"3: not the branches of a conv with kernel \(3, 2\)"):
        two.load_state_dict(state)


def test_a_checkpoint_opens_only_under_the_rule_that_its_branch_weights_were_learnt_by() -> None:
    paper, default = network(), network()
    rfnext.LocalSearch(paper, rfnext.LocalConfig(rule="paper"))
    rfnext.LocalSearch(default, rfnext.LocalConfig())
    with pytest.raises(RuntimeError, match=r"(?s)0: .*learnt by rule 'paper'.*LocalConfig\(rule='paper'\)"):
        default.load_state_dict(paper.state_dict())
    with pytest.raises(RuntimeError, match="learnt by rule 'default'"):
        paper.load_state_dict(default.state_dict())
    paper.load_state_dict(paper.state_dict())


def test_branches_saved_without_a_rule_are_refused() -> None:
    model = network()
    rfnext.LocalSearch(model, rfnext.LocalConfig(rule="paper"))
    state = {key: value[1:] if key.endswith("_extra_state") else value for key, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="0: not the rule, centre and branches of a searched conv"):
        model.load_state_dict(state)
