"""What every search that runs inside a training must offer, whatever it searches."""

import copy
import inspect
import io
import json
import pickle
import re
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import nn

import rfnext
from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Round, Search, SearchConv, Structure
from rfnext.structure import searched_convs

Start = Callable[[nn.Module], Search]

SEARCHES: dict[str, Start] = {
    "local": lambda model: LocalSearch(model, LocalConfig(interval=2, rounds=2, branches=3)),
    "local by the paper's rule": lambda model: LocalSearch(model, LocalConfig(interval=2, rounds=2, rule="paper")),
    "local, anchored at the last tap": lambda model: LocalSearch(
        model, LocalConfig(interval=2, rounds=2), anchor="last"
    ),
    "one-shot": lambda model: OneShotSearch(model, OneShotConfig((1, 2, 4, 8), interval=2)),
}
every_search = pytest.mark.parametrize("start", SEARCHES.values(), ids=list(SEARCHES))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=4, dilation=4))


def train(search: Search, optimizer: torch.optim.Optimizer, epochs: range) -> list[bool]:
    """A step per epoch; returns in which of them a round was run."""
    ran = []
    for epoch in epochs:
        x = torch.randn(4, 2, 40, generator=torch.Generator().manual_seed(epoch))
        optimizer.zero_grad()
        (search.model(x)[..., 6:] - x[..., :-6]).square().mean().backward()
        optimizer.step()
        ran.append(search.after_step())
    return ran


def optimizer_of(search: Search) -> torch.optim.Optimizer:
    return torch.optim.Adam(search.parameter_groups(), lr=5e-3)


def kinds() -> set[type]:
    return {type(start(network())) for start in SEARCHES.values()}


def test_every_search_of_the_library_is_tested_here() -> None:
    public = [getattr(rfnext, name) for name in rfnext.__all__]
    found = {kind for kind in public if inspect.isclass(kind) and kind is not Search and hasattr(kind, "after_step")}
    assert found == kinds()


@every_search
def test_it_is_a_search(start: Start) -> None:
    model = network()
    search = start(model)
    assert isinstance(search, Search)
    assert search.model is model
    assert dict(search.initial) == {"0": (1,), "2": (4,)}
    assert (search.step, list(search.history)) == (0, [])


@every_search
def test_the_branch_weights_are_those_of_the_searched_convs(start: Start) -> None:
    search = start(network())
    expected = [conv.branch_weight for conv in searched_convs(search.model).values()]
    assert [id(weight) for weight in search.branch_weights()] == [id(weight) for weight in expected]


@every_search
def test_the_parameter_groups_hold_every_parameter_once(start: Start) -> None:
    search = start(network())
    held = [id(p) for group in search.parameter_groups() for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in search.model.parameters())
    for group in search.parameter_groups():
        if "lr" in group:  # a learning rate of its own is for the branch weights alone
            assert {id(p) for p in group["params"]} == {id(p) for p in search.branch_weights()}


@every_search
def test_probabilities_are_shares_of_the_branches(start: Start) -> None:
    search = start(network())
    train(search, optimizer_of(search), range(3))
    convs = searched_convs(search.model)
    assert search.probability().keys() == convs.keys()
    for name, shares in search.probability().items():
        assert len(shares) == len(convs[name].dilations)
        assert sum(shares) == pytest.approx(1)


@every_search
def test_steps_are_counted_and_rounds_are_kept(start: Start) -> None:
    search = start(network())
    assert train(search, optimizer_of(search), range(4)) == [False, True, False, True]
    assert search.step == 4
    assert [round_.step for round_ in search.history] == [2, 4]
    for round_ in search.history:
        assert round_.structure.keys() == round_.probability.keys() == round_.dilations.keys() == search.initial.keys()
        assert all(len(round_.dilations[name]) == len(shares) for name, shares in round_.probability.items())
        assert Round.from_state(json.loads(json.dumps(round_.state_dict()))) == round_


@every_search
def test_the_structure_fits_a_plain_network_and_asking_changes_nothing(start: Start) -> None:
    search = start(network())
    train(search, optimizer_of(search), range(3))
    before = copy.deepcopy(search.model.state_dict())
    structure = search.structure()
    assert search.structure() == structure
    assert all(torch.equal(value, before[name]) for name, value in search.model.state_dict().items())
    plain = network()
    structure.apply(plain)
    assert Structure.read(plain) == structure


@every_search
@pytest.mark.parametrize("stop", [1, 2, 5])
def test_a_resumed_search_equals_the_uninterrupted_one(start: Start, stop: int) -> None:
    whole = start(network())
    train(whole, optimizer_of(whole), range(6))
    first = start(network())
    optimizer = optimizer_of(first)
    train(first, optimizer, range(stop))
    file = io.BytesIO()
    state = {"search": first.state_dict(), "model": first.model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert json.loads(json.dumps(state["search"])) == state["search"]
    resumed = start(network())
    resumed.load_state_dict(state["search"])
    resumed.model.load_state_dict(state["model"])
    optimizer = optimizer_of(resumed)
    optimizer.load_state_dict(state["optimizer"])
    train(resumed, optimizer, range(stop, 6))
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.structure() == whole.structure()
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.model.state_dict().items())


@every_search
def test_states_that_do_not_fit_are_refused_and_change_nothing(start: Start) -> None:
    search = start(network())
    before = copy.deepcopy(search.state_dict())
    longer = start(nn.Sequential(*network(), nn.Conv1d(2, 2, 3)))
    for wrong in ({}, {"step": 3}, before | {"version": 0}, longer.state_dict()):
        with pytest.raises(ValueError, match="state"):
            search.load_state_dict(wrong)
        assert search.state_dict() == before


@every_search
@pytest.mark.defect(28)
def test_an_averaged_copy_follows(start: Start) -> None:
    search = start(network())
    average = copy.deepcopy(search.model)
    train(search, optimizer_of(search), range(3))
    search.copy_to(average)
    for name, conv in searched_convs(search.model).items():
        twin = searched_convs(average)[name]
        assert isinstance(twin, SearchConv)
        assert twin is not conv
        assert twin.dilations == conv.dilations
        assert torch.equal(twin.branch_weight, conv.branch_weight)
    with pytest.raises(ValueError, match="not a searched conv of the copy"):
        search.copy_to(network())


@every_search
def test_branches_that_read_padding_alone_are_named_once(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """On 5 positions, dilations of 5 and more read nothing but at the kernel's centre: those around 4, and up to 8."""
    for length, expected in [(5, 1), (40, 0)]:
        search = start(network())
        caplog.clear()
        for _ in range(4):
            search.model(torch.randn(1, 2, length))
            search.after_step()
        named = [r.getMessage() for r in caplog.records if "read padding" in r.getMessage()]
        assert len(named) == expected
        assert all(re.search(r"of 2 searched layers .*2, .*inputs of at most \(5,\)", message) for message in named)


@every_search
def test_branches_that_no_plain_conv_can_pad_for_are_named(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """The search goes on reflecting; the network with such a dilation would end in an error of torch."""
    for length, warned in ((40, False), (4, True)):
        caplog.clear()
        model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=4, dilation=4, padding_mode="reflect"))
        search = start(model)
        model(torch.randn(1, 2, length))
        search.after_step()
        search.after_step()
        assert ("torch cannot pad" in caplog.text) is warned
        assert "read padding" not in caplog.text
    longest = max(search.history[0].dilations["0"])
    plain = nn.Sequential(nn.Conv1d(2, 2, 3, padding=4, dilation=4, padding_mode="reflect"))
    rfnext.Structure({"0": longest}).apply(plain)
    with pytest.raises(RuntimeError, match="(?i)padding"):
        plain(torch.randn(1, 2, 4))


@every_search
def test_padding_that_is_no_zeros_is_read_as_input(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=4, dilation=4, padding_mode="replicate"))
    search = start(model)
    model(torch.randn(1, 2, 5))
    for _ in range(2):
        search.after_step()
    assert "read padding" not in caplog.text


@every_search
def test_clipping_leaves_the_branch_weights_out_but_by_the_papers_rule(start: Start) -> None:
    """The network's gradient is then as long as without a search; a training without clipping stays as it is."""
    search = start(network())
    x = torch.randn(4, 2, 40)
    (search.model(x)[..., 6:] - x[..., :-6]).square().mean().backward()
    gradients = [cast(torch.Tensor, p.grad).clone() for p in search.model.parameters()]
    clipped = search.parameters_to_clip()
    branch = {id(weight) for weight in search.branch_weights()}
    kept = [p for p in search.model.parameters() if id(p) not in branch]
    paper = next(iter(searched_convs(search.model).values())).rule == "paper"
    assert [id(p) for p in clipped] == [id(p) for p in (search.model.parameters() if paper else kept)]
    torch.nn.utils.clip_grad_norm_(clipped, 1e-3)
    for p, before in zip(search.model.parameters(), gradients, strict=True):
        assert torch.equal(cast(torch.Tensor, p.grad), before) == (id(p) in branch and not paper)


@every_search
def test_a_pickled_search_goes_on(start: Start) -> None:
    search = start(network())
    optimizer = optimizer_of(search)
    train(search, optimizer, range(4))
    twin = pickle.loads(pickle.dumps(search))  # noqa: S301
    for each in (search, twin):
        train(each, optimizer_of(each), range(4, 8))
    assert twin.state_dict() == search.state_dict()


@every_search
def test_a_search_that_follows_one_in_its_warmup_learns(start: Start) -> None:
    model = network()
    OneShotSearch(model, OneShotConfig((1, 2, 4, 8), warmup=100))
    search = start(model)
    train(search, optimizer_of(search), range(2))
    assert all(len(set(share)) > 1 for share in search.history[0].probability.values())
