"""Checkpoints of searched and plain networks: what loads into what, and that it computes the same."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

import rfnext
from rfnext import SearchConv
from rfnext.convs.conv import INITIAL_WEIGHT
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


# Initialisation: where a plain checkpoint meets branch weights that have no values yet


def on_meta() -> nn.Sequential:
    with torch.device("meta"):
        model = network()
    rfnext.LocalSearch(model, CONFIG)
    assert all(p.is_meta for p in model.parameters())
    return model


def reset_all(model: nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()  # type: ignore[operator]


MATERIALISE: dict[str, Callable[[nn.Module, dict[str, Tensor]], object]] = {
    "to_empty": lambda model, state: (model.to_empty(device="cpu"), model.load_state_dict(state)),
    "to_empty, reset_parameters": lambda model, state: (
        *(model.to_empty(device="cpu"), reset_all(model)),
        model.load_state_dict(state),
    ),
    "assign": lambda model, state: model.load_state_dict(state, assign=True),
}


@pytest.mark.parametrize("way", MATERIALISE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_network_from_the_meta_device_has_fresh_branch_weights_with_a_plain_checkpoint(
    way: str, dtype: torch.dtype
) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in network().state_dict().items()}
    model, usual = on_meta(), network()
    MATERIALISE[way](model, state)
    usual.load_state_dict(state)
    rfnext.LocalSearch(usual, CONFIG)
    for conv in searched_convs(model).values():
        assert torch.equal(conv.branch_weight, torch.full((3,), INITIAL_WEIGHT, dtype=conv.branch_weight.dtype))
        assert conv.branch_weight.device.type == "cpu"
        assert conv.branch_weight.dtype in (torch.float32, torch.float64)  # half cannot resolve its steps
    if dtype != torch.float16 or way != "assign":
        x = torch.randn(2, 3, 16, 16, dtype=model[0].weight.dtype)  # type: ignore[arg-type]
        torch.testing.assert_close(model.eval()(x), usual.to(x.dtype).eval()(x))
    model.train()(torch.randn(2, 3, 16, 16, dtype=model[0].weight.dtype)).sum().backward()  # type: ignore[arg-type]
    assert all(conv.branch_weight.grad is not None for conv in searched_convs(model).values())


def test_a_searched_checkpoint_gives_a_network_from_the_meta_device_its_branches() -> None:
    model, _ = searched_network()
    for assign in (True, False):
        fresh = on_meta()
        fresh = fresh if assign else fresh.to_empty(device="cpu")
        fresh.load_state_dict(model.state_dict(), assign=assign)
        x = torch.randn(2, 3, 16, 16)
        torch.testing.assert_close(fresh.eval()(x), model.eval()(x))


MOVES: dict[str, tuple[Callable[[nn.Module], nn.Module], torch.dtype]] = {
    "half": (lambda model: model.half(), torch.float32),
    "bfloat16": (lambda model: model.bfloat16(), torch.float32),
    "double": (lambda model: model.double(), torch.float64),
    "to": (lambda model: model.to("cpu", torch.bfloat16), torch.float32),
    "to_empty": (lambda model: model.to_empty(device="cpu"), torch.float32),
    "share_memory": (lambda model: model.share_memory(), torch.float32),
    "deepcopy": (copy.deepcopy, torch.float32),
    "pickle": (lambda model: pickle.loads(pickle.dumps(model)), torch.float32),  # noqa: S301
    "half and back": (lambda model: model.half().float(), torch.float32),
}


@pytest.mark.parametrize("move", MOVES)
def test_branch_weights_keep_their_values_wherever_the_network_goes(move: str) -> None:
    model, _ = searched_network()
    before = {name: conv.branch_weight.detach().clone() for name, conv in searched_convs(model).items()}
    favour = before["0"] + 1.2345e-4  # finer than half precision
    cast(SearchConv, model[0]).branch_weight.data.copy_(favour)
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    moved, dtype = MOVES[move][0](model), MOVES[move][1]
    for name, conv in searched_convs(moved).items():
        expected = favour if name == "0" else before[name]
        assert conv.branch_weight.dtype == dtype
        assert torch.equal(conv.branch_weight, expected.to(dtype))
        assert conv.branch_weight.grad is None or conv.branch_weight.grad.dtype == dtype
    torch.optim.SGD(moved.parameters(), lr=0.1).step()
    like = cast(SearchConv, moved[0]).weight  # type: ignore[index]
    assert moved(torch.randn(2, 3, 16, 16, dtype=like.dtype)).dtype == like.dtype


def test_reset_parameters_starts_the_branch_weights_anew() -> None:
    model, _ = searched_network()
    conv = cast(SearchConv, model[0])
    weight = cast(Tensor, conv.weight).detach().clone()
    conv.reset_parameters()
    assert (conv.branch_weight == INITIAL_WEIGHT).all()
    assert not torch.equal(cast(Tensor, conv.weight), weight)


def test_a_checkpoint_around_a_state_dict_is_named() -> None:
    model, _ = searched_network()
    with pytest.raises(TypeError, match=r"not a state_dict of tensors, .*state\['model'\]"):
        rfnext.plain_state_dict({"model": model.state_dict(), "epoch": 3})
    for take in (rfnext.merge, rfnext.Structure.read):
        with pytest.raises(TypeError, match=r"not a network \(torch.nn.Module\) but OrderedDict"):
            take(cast(nn.Module, model.state_dict()))
