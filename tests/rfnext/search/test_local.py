"""The local search around a training loop: when rounds run, where they lead, and that it survives interruptions."""

import copy
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import rfnext
from rfnext import Bounds, LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Structure
from rfnext.convs.conv import INITIAL_WEIGHT, SearchConv
from rfnext.structure import searched_convs


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(8, 8, 3, padding=4, dilation=4),
        nn.ReLU(),
        nn.Conv1d(8, 2, 1),
    )


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=5e-3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int, steps: int = 4) -> None:
    """Steps towards outputs that repeat the input of 6 positions before: a longer reach helps."""
    generator = torch.Generator().manual_seed(epoch)
    for _ in range(steps):
        x = torch.randn(4, 2, 40, generator=generator)
        optimizer.zero_grad()
        (model(x)[..., 6:] - x[..., :-6]).square().mean().backward()
        optimizer.step()


def set_weights(search: LocalSearch, weights: dict[str, list[float]]) -> None:
    for name, values in weights.items():
        conv = search.convs[name]
        with torch.no_grad():
            conv.branch_weight[: len(values)] = torch.tensor(values)


# Rounds


def test_rounds_run_at_their_steps_and_never_after_the_last() -> None:
    model = network()
    search = LocalSearch(model, LocalConfig(interval=3, rounds=2))
    optimizer = optimizer_of(model)
    ran = []
    for step in range(1, 12):
        train(model, optimizer, step, steps=1)
        branches = {name: conv.dilations for name, conv in searched_convs(model).items()}
        ran.append(search.after_step())
        if not ran[-1]:
            assert {name: conv.dilations for name, conv in searched_convs(model).items()} == branches
    assert [step for step, was in enumerate(ran, start=1) if was] == [3, 6]
    assert [r.step for r in search.history] == [3, 6]
    assert (search.step, search.round) == (11, 2)


def test_the_published_max_step_is_exclusive() -> None:
    """max_step 11 at interval 1 writes its last file at step 10; 64,001 at interval 8,000 at 64,000."""
    for max_step, interval, last in [(11, 1, 10), (12, 1, 11), (64_001, 8_000, 64_000)]:
        assert (max_step - 1) // interval * interval == last


def test_a_round_moves_the_centre_and_starts_the_weights_anew() -> None:
    search = LocalSearch(network(), LocalConfig(rounds=1, spread=0.5, branches=3))
    convs = search.convs
    assert {name: conv.dilations for name, conv in convs.items()} == {
        "0": ((1,), (2,)),
        "2": ((2,), (4,), (6,)),
    }
    set_weights(search, {"0": [0.01, 0.11], "2": [0.11, 0.01, 0.01]})  # ten times 0.01 apart: e^10 to 1
    assert search.after_step()
    assert dict(search.structure()) == {"0": (2,), "2": (2,)}
    assert {name: conv.dilations for name, conv in convs.items()} == {
        "0": ((1,), (2,), (3,)),
        "2": ((1,), (2,), (3,)),
    }
    assert all((weight == INITIAL_WEIGHT).all() for weight in search.branch_weights())
    (round_,) = search.history
    assert round_.dilations == {"0": [(1,), (2,)], "2": [(2,), (4,), (6,)]}
    assert round_.structure == {"0": (2,), "2": (2,)}
    assert round_.probability["2"][0] > 0.999
    assert dict(search.initial) == {"0": (1,), "2": (4,)}
    assert Structure.read(search.model) == search.structure()


@pytest.mark.defect(13)
def test_what_is_learnt_after_the_last_round_counts() -> None:
    for rule, expected in [("default", (6,)), ("paper", (4,))]:
        model = network()
        search = LocalSearch(model, LocalConfig(rounds=0, branches=3, rule=rule))  # type: ignore[arg-type]
        set_weights(search, {"2": [0.0, 0.0, 0.9]})
        assert not search.after_step()
        assert search.structure()["2"] == expected
        assert Structure.read(model)["2"] == (4,)  # asking changes nothing


@pytest.mark.defect(14)
def test_a_hand_designed_dilation_outside_the_bounds_is_brought_inside() -> None:
    for rule, centre in [("default", (3,)), ("paper", (4,))]:
        search = LocalSearch(network(), LocalConfig(bounds=Bounds(1, 3), rule=rule))  # type: ignore[arg-type]
        assert Structure.read(search.model)["2"] == centre
        assert search.initial["2"] == (4,)
    # An axis with an even kernel is not searched, and not moved either.
    mixed = nn.Sequential(nn.Conv2d(1, 1, (2, 3), dilation=(9, 9)))
    search = LocalSearch(mixed, LocalConfig(bounds=Bounds(1, 3)))
    assert dict(search.structure()) == {"0": (9, 3)}


@pytest.mark.parametrize("rule", ["default", "paper"])
def test_dilations_outside_the_bounds_are_named(caplog: pytest.LogCaptureFixture, rule: rfnext.Rule) -> None:
    """The powers of two of a TCN: nobody expects (1, 24), the default, to make a third of them alike."""
    model = nn.Sequential(*(nn.Conv1d(1, 1, 3, padding=2**i, dilation=2**i) for i in range(10)))
    search = LocalSearch(model, LocalConfig(rule=rule))
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    message = warning.getMessage()
    assert "5 of 10 searched layers have a dilation outside Bounds(min=1, max=24)" in message
    branches = {"default": ["(12,), (24,)"] * 3, "paper": ["(16,), (24,)", "(24,)", "(24,)"]}[rule]
    first = "; ".join(f"{i}: ({2**i},) to branches {at}" for i, at in enumerate(branches, start=5))
    assert message.endswith(f"and are brought inside: {first}; ...")
    search.after_step()
    assert all(d <= 24 for (d,) in search.structure().values())
    caplog.clear()
    LocalSearch(network(), LocalConfig(rule=rule))
    # What the bounds have no say in: an axis with an even kernel is not searched.
    LocalSearch(nn.Conv2d(1, 1, (2, 3), padding=(9, 2), dilation=(99, 2)), LocalConfig(rule=rule))
    assert not caplog.text


@pytest.mark.defect(15)
def test_negative_and_zero_weights() -> None:
    """By "default" -0.09 is weak evidence and all zeros are no evidence; by "paper" strong, and an error."""
    search = LocalSearch(network(), LocalConfig(spread=0.5))
    set_weights(search, {"2": [0.01, -0.09]})
    assert search.structure()["2"] == (2,)
    set_weights(search, {"2": [0.0, 0.0]})
    assert search.structure()["2"] == (4,)
    paper = LocalSearch(network(), LocalConfig(spread=0.5, rule="paper"))
    set_weights(paper, {"0": [0.01, 0.02], "2": [0.01, -0.09]})
    assert paper.after_step()
    assert paper.structure()["2"] == (6,)  # 0.1 x 2 + 0.9 x 6 = 5.6
    set_weights(paper, {"0": [0.01, 0.02], "2": [0.0, 0.0]})
    with pytest.raises(ValueError, match="layer '2': probabilities must be finite"):
        paper.after_step()


@pytest.mark.defect(12)
def test_untouched_probabilities_leave_the_structure_alone() -> None:
    for rule in ("paper", "default"):
        search = LocalSearch(network(), LocalConfig(rounds=5, rule=rule))
        for _ in range(5):
            search.after_step()
        assert dict(search.structure()) == {"0": (1,), "2": (4,)}


@pytest.mark.defect(16)
def test_a_collapsed_conv_goes_on_being_searched() -> None:
    """At dilation 1 with spread 0.1 "paper" has one branch and is stuck; its weight has a gradient all the same."""
    model = nn.Sequential(nn.Conv1d(2, 2, 3, padding=1))
    search = LocalSearch(model, LocalConfig(spread=0.1, branches=3, rule="paper", rounds=3))
    assert search.convs["0"].dilations == ((1,),)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        train(model, optimizer, epoch)
        assert all(p.grad is not None for p in model.parameters())
        search.after_step()
    assert search.structure()["0"] == (1,)
    # By bounds rather than by rounding, where "default" has one branch as well.
    narrow = LocalSearch(nn.Sequential(nn.Conv1d(2, 2, 3)), LocalConfig(bounds=Bounds(1, 1)))
    assert narrow.structure()["0"] == (1,)
    assert narrow.after_step()


def test_bounds_that_leave_one_branch_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="rfnext")
    LocalSearch(nn.Sequential(nn.Conv1d(2, 2, 3)), LocalConfig(bounds=Bounds(1, 1)))
    assert "0: the bounds leave only dilation (1,)" in caplog.text


@pytest.mark.parametrize("rule", ["default", "paper"])
def test_training_finds_the_reach_that_the_data_need(rule: rfnext.Rule) -> None:
    """The target lies 6 positions back. The hand-designed dilations 1 and 4 reach 5 and learn nothing; the search gets
    there in a few rounds, and what it found, as plain convs, learns the task from scratch."""

    def fit(model: nn.Module, search: LocalSearch | None = None, epochs: int = 6) -> float:
        weights = search.branch_weights() if search else []
        others = [p for name, p in model.named_parameters() if "branch_weight" not in name]
        optimizer = torch.optim.Adam([{"params": others, "lr": 1e-2}, {"params": weights, "lr": 3e-3}])
        for epoch in range(epochs):
            train(model, optimizer, epoch, steps=20)
            if search:
                search.after_step()
        x = torch.randn(16, 2, 40, generator=torch.Generator().manual_seed(99))
        with torch.no_grad():
            return (model(x)[..., 6:] - x[..., :-6]).square().mean().item()

    searched = network()
    search = LocalSearch(searched, LocalConfig(rounds=4, branches=3, rule=rule))
    assert fit(searched, search) < 0.3
    found = network()
    search.structure().apply(found)
    assert fit(found) < 0.1
    assert fit(network()) > 0.8


# Which convs


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1))
        self.layer10 = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1))
        self.head = nn.Conv2d(2, 2, 1)


@pytest.mark.defect(27)
def test_where_sees_exact_names() -> None:
    seen: list[tuple[str, type]] = []

    def where(name: str, conv: rfnext.Conv) -> bool:
        seen.append((name, type(conv)))
        return not name.startswith("layer1.")

    search = LocalSearch(Stages(), LocalConfig(), where=where)
    assert set(search.structure()) == {"layer10.0"}
    assert seen == [("layer1.0", nn.Conv2d), ("layer10.0", nn.Conv2d), ("head", nn.Conv2d)]


def test_names_are_those_of_the_plain_model_when_it_is_compiled() -> None:
    search = LocalSearch(torch.compile(Stages(), backend="eager"), LocalConfig())  # type: ignore[arg-type]
    assert set(search.structure()) == {"layer1.0", "layer10.0"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("record", [torch.jit.script, lambda model: torch.jit.trace(model, torch.randn(1, 1, 9))])
def test_torchscript_is_not_said_to_have_no_convs(record: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(ValueError, match="the model is TorchScript, whose convs are fixed; search the model that it"):
        LocalSearch(record(nn.Sequential(nn.Conv1d(1, 1, 3))), LocalConfig())


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (lambda: nn.LazyConv1d(2, 3), "its weight is not initialised yet"),
        (lambda: nn.Conv1d(1, 2, 3, dtype=torch.complex64), "its weight is torch.complex64"),
    ],
)
def test_a_conv_that_is_passed_over_beside_others_is_named(
    odd: Callable[[], nn.Module], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    LocalSearch(nn.Sequential(odd(), nn.Conv1d(2, 2, 3), nn.Conv1d(2, 2, 1)), LocalConfig())
    warnings = [one.getMessage() for one in caplog.records if "is not searched" in one.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"0 is not searched: {reason}")


def test_nothing_to_search_says_why() -> None:
    for nothing in (nn.Linear(1, 1), nn.ConvTranspose1d(1, 1, 3)):
        with pytest.raises(ValueError, match=r"no Conv1d, Conv2d or Conv3d .transposed ones are not searched.$"):
            LocalSearch(nn.Sequential(nothing), LocalConfig())
    with pytest.raises(ValueError, match=r"among the model's 1\. The model itself: its kernel \(1,\) has no odd axis"):
        LocalSearch(nn.Conv1d(1, 1, 1), LocalConfig())
    with pytest.raises(ValueError, match=r"0: its kernel \(1,\) has no odd axis above 1"):
        LocalSearch(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 3)), LocalConfig(), where=lambda n, c: n == "0")
    with pytest.raises(ValueError, match=r"1: not picked by `where`"):
        LocalSearch(nn.Sequential(nn.Conv1d(1, 1, 1), nn.Conv1d(1, 1, 3)), LocalConfig(), where=lambda n, c: n == "0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": 0}, "interval must be >= 1"),
        ({"rounds": -1}, "rounds >= 0"),
        ({"branches": 1}, "at least 2 branches"),
        ({"spread": 0.0}, r"spread must be in \(0, 1\]"),
        ({"rule": "ours"}, "unknown rule 'ours'"),
        ({"interval": 1.5}, r"interval is 1\.5, not an integer"),
        ({"rounds": "3"}, "rounds is '3', not an integer"),
        ({"branches": 2.0}, r"branches is 2\.0, not an integer"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalConfig(**settings)


def test_what_is_no_such_thing_at_all_is_named() -> None:
    with pytest.raises(TypeError, match=r"bounds is \(1, 24\); give Bounds\(1, 24\)"):
        LocalConfig(bounds=(1, 24))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="LocalSearch takes a LocalConfig, got a OneShotConfig"):
        LocalSearch(network(), OneShotConfig())  # type: ignore[arg-type]
    model = network()
    for where in (3, [3], None):
        with pytest.raises(TypeError, match="where is .*, neither a function of a layer's name and conv nor a glob"):
            LocalSearch(model, LocalConfig(), where=where)  # type: ignore[arg-type]
    assert not searched_convs(model)


def test_numpy_integers_are_integers() -> None:
    config = LocalConfig(interval=np.int64(2), rounds=np.int32(3), branches=np.int64(3), bounds=Bounds(1, np.int64(9)))  # type: ignore[arg-type]
    assert config == LocalConfig(interval=2, rounds=3, branches=3, bounds=Bounds(1, 9))
    json.dumps(LocalSearch(network(), config).state_dict())


@pytest.mark.defect(26)
def test_a_config_is_shared_and_never_changed() -> None:
    config = LocalConfig(rounds=2)
    before = copy.deepcopy(config)
    first, second = LocalSearch(network(), config), LocalSearch(network(), config)
    set_weights(first, {"0": [0.0, 0.9], "2": [0.0, 0.9]})
    first.after_step()
    assert config == before
    assert second.round == 0
    assert second.structure() != first.structure()
    with pytest.raises(AttributeError):
        config.rounds = 3  # type: ignore[misc]


# Faults


def test_an_optimizer_built_too_early_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    optimizer = optimizer_of(model)
    search = LocalSearch(model, LocalConfig(rounds=3))
    train(model, optimizer, 0)
    caplog.clear()
    search.after_step()
    assert "was the optimizer built before LocalSearch" in caplog.text
    optimizer = optimizer_of(model)
    train(model, optimizer, 1)
    caplog.clear()
    search.after_step()
    assert not caplog.text


@pytest.mark.parametrize("rule", ["default", "paper"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_diverged_training_names_the_layer(rule: rfnext.Rule, value: float) -> None:
    search = LocalSearch(network(), LocalConfig(rule=rule))
    set_weights(search, {"0": [0.01, 0.02], "2": [0.01, value]})
    before = {name: conv.dilations for name, conv in search.convs.items()}
    with pytest.raises(ValueError, match=r"layer '2': probabilities must be finite.*did the training diverge\?"):
        search.after_step()
    assert {name: conv.dilations for name, conv in search.convs.items()} == before
    assert search.round == 0


def test_a_loss_of_nan_ends_in_that_error() -> None:
    model = network()
    search = LocalSearch(model, LocalConfig())
    optimizer = optimizer_of(model)
    (model(torch.randn(1, 2, 20)).sum() * float("nan")).backward()
    optimizer.step()
    with pytest.raises(ValueError, match=r"layer '0': .*did the training diverge\?"):
        search.after_step()


# Resuming


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer, search: LocalSearch) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "search": search.state_dict()}


@pytest.mark.parametrize("rule", ["default", "paper"])
@pytest.mark.parametrize("stop", [1, 4, 6, 9])
@pytest.mark.defect(22)
def test_a_resumed_search_equals_the_uninterrupted_one_bit_for_bit(
    stop: int, rule: rfnext.Rule, tmp_path: Path
) -> None:
    """Rounds at 2, 4, 6; stopped before the first, right after one, and after the last; through a file."""
    config = LocalConfig(interval=2, rounds=3, branches=3, rule=rule)

    def start() -> tuple[nn.Module, LocalSearch, torch.optim.Optimizer]:
        model = network()
        search = LocalSearch(model, config)
        return model, search, optimizer_of(model)

    model, search, optimizer = start()
    for epoch in range(10):
        if epoch == stop:
            torch.save(snapshot(model, optimizer, search), tmp_path / "checkpoint.pt")
        train(model, optimizer, epoch)
        search.after_step()

    resumed, resumed_search, resumed_optimizer = start()
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    resumed.load_state_dict(checkpoint["model"])
    resumed_optimizer.load_state_dict(checkpoint["optimizer"])
    resumed_search.load_state_dict(checkpoint["search"])
    for epoch in range(resumed_search.step, 10):
        train(resumed, resumed_optimizer, epoch)
        resumed_search.after_step()

    assert resumed_search.history == search.history
    assert resumed_search.state_dict() == search.state_dict()
    assert resumed_search.structure() == search.structure()
    assert len({tuple(r.structure.values()) for r in search.history}) > 1
    states = [resumed.state_dict(), model.state_dict()]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_state_is_plain_json() -> None:
    search = LocalSearch(network(), LocalConfig())
    set_weights(search, {"0": [0.01, 0.02], "2": [0.01, 0.02]})
    search.after_step()
    state = search.state_dict()
    assert json.loads(json.dumps(state)) == state
    other = LocalSearch(network(), LocalConfig())
    other.load_state_dict(json.loads(json.dumps(state)))
    assert other.state_dict() == state
    assert other.history == search.history


def test_states_that_do_not_fit_are_refused_and_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    search = LocalSearch(network(), LocalConfig())
    before = search.state_dict()
    with pytest.raises(ValueError, match="not the state of a LocalSearch"):
        search.load_state_dict({"step": 3})
    with pytest.raises(ValueError, match="not the state of a LocalSearch"):
        search.load_state_dict(before | {"version": 3})
    other = LocalSearch(Stages(), LocalConfig()).state_dict()
    with pytest.raises(ValueError, match="a search over other layers; 4 differ, '0' first"):
        search.load_state_dict(other)
    wider = LocalSearch(network(), LocalConfig(branches=3, bounds=Bounds(1, 9)))
    with pytest.raises(ValueError, match="layer '2': 3 branches for 2 branch weights"):
        search.load_state_dict(wider.state_dict())
    with pytest.raises(ValueError, match="layer '2': not the branches of a conv"):
        search.load_state_dict(before | {"branches": before["branches"] | {"2": [[1, 1], [2, 2]]}})
    assert search.state_dict() == before
    caplog.clear()
    search.load_state_dict(LocalSearch(network(), LocalConfig(rounds=4)).state_dict())
    assert "it began with" in caplog.text
    assert search.config == LocalConfig()


# Copies


@pytest.mark.defect(28)
def test_an_ema_copy_gets_the_new_branches() -> None:
    model = network()
    search = LocalSearch(model, LocalConfig(rounds=2))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = optimizer_of(model)
    for epoch in range(4):
        train(model, optimizer, epoch)
        average.update_parameters(model)
        if search.after_step():
            stale = [conv.dilations for conv in searched_convs(average).values()]
            search.copy_to(average)
            copies = searched_convs(average)
            assert [conv.dilations for conv in copies.values()] == [c.dilations for c in search.convs.values()]
            assert [conv.dilations for conv in copies.values()] != stale or search.round > 1
            assert Structure.read(average) == Structure.read(model)
            # What was averaged over the old branches is no evidence about the new ones.
            assert all((conv.branch_weight == INITIAL_WEIGHT).all() for conv in copies.values())
            assert all(
                copy.branch_weight is not conv.branch_weight
                for copy, conv in zip(copies.values(), search.convs.values(), strict=True)
            )
    assert search.history[0].structure != dict(search.initial)
    x = torch.randn(1, 2, 40)
    assert average(x).shape == model(x).shape
    average.module.load_state_dict(model.state_dict())
    assert torch.equal(average(x), model(x))


def test_a_copy_that_is_not_searched_is_named() -> None:
    plain = network()
    search = LocalSearch(network(), LocalConfig())
    with pytest.raises(ValueError, match="layer '0' is not a searched conv of the copy"):
        search.copy_to(plain)
    with pytest.raises(ValueError, match="layer '0' is not a searched conv of the copy"):
        search.copy_to(nn.Sequential())


def test_a_second_search_starts_where_the_first_one_ended() -> None:
    model = network()
    first = LocalSearch(model, LocalConfig(branches=2))
    set_weights(first, {"0": [0.01, 0.09], "2": [0.01, 0.09]})
    first.after_step()
    second = LocalSearch(model, LocalConfig(branches=3, spread=0.1))
    assert second.initial == first.structure()
    assert second.convs["2"].dilations == ((5,), (6,), (7,))
    assert len(second.branch_weights()[0]) == 3


def test_a_search_never_begins_by_forgetting_what_another_has_learnt() -> None:
    """A local search after a one-shot search on the same model would start from the designed dilations."""
    model = network()
    one_shot = OneShotSearch(model, OneShotConfig((1, 2, 4, 8)))
    with torch.no_grad():
        for weight in one_shot.branch_weights():
            weight.copy_(torch.tensor([0.0, 0.0, 0.0, 0.2]))
    found = one_shot.structure("argmax")
    assert dict(found) == {"0": (8,), "2": (8,)}
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"layer '0' is searched already.*read that search.s structure\(\) and apply it"
    ):
        LocalSearch(model, LocalConfig())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="layer '0' is searched already"):
        LocalSearch(copy.deepcopy(model), LocalConfig())
    found.apply(model)
    assert LocalSearch(model, LocalConfig()).initial == found
    # As well what a local search has learnt since its last round, by the rule whose structure() counts it.
    for rule in ("default", "paper"):
        model = network()
        local = LocalSearch(model, LocalConfig(rule=rule))  # type: ignore[arg-type]
        set_weights(local, {"2": [0.01, 0.09]})
        if rule == "paper":
            assert LocalSearch(model, LocalConfig(rule=rule)).initial == local.structure()
            continue
        with pytest.raises(ValueError, match="layer '2' is searched already"):
            OneShotSearch(model, OneShotConfig((1, 2, 4, 8)))


@pytest.mark.parametrize("end", ["merge", "apply", "apply in part"])
@pytest.mark.parametrize("kind", ["local", "one-shot"])
def test_a_search_that_has_ended_says_so(end: str, kind: str) -> None:
    model = network()
    local = kind == "local"
    search = LocalSearch(model, LocalConfig()) if local else OneShotSearch(model, OneShotConfig((1, 2, 4, 8)))
    state, average = search.state_dict(), copy.deepcopy(model)
    if end == "merge":
        rfnext.merge(model)
    else:
        Structure({"2": (3,)} if end == "apply in part" else {"0": (3,), "2": (3,)}).apply(model)
    uses: list[Callable[[], Any]] = [
        search.structure,
        search.probability,
        search.branch_weights,
        search.after_step,
        search.state_dict,
        lambda: search.load_state_dict(state),
        lambda: search.copy_to(average),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match=r"this search has ended: layer '[02]' is a plain Conv1d now"):
            use()
    assert search.history == []
    assert search.initial == Structure({"0": (1,), "2": (4,)})


@pytest.fixture
def dynamo() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("dynamo")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_compiled_search_survives_more_rounds_than_torch_keeps_graphs() -> None:
    """Each round makes new graphs; torch gives up compiling after 8, which fullgraph=True turns into an error."""
    model = network()
    search = LocalSearch(model, LocalConfig(rounds=10, bounds=Bounds(1, 200)))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    x = torch.randn(1, 2, 40)
    for _ in range(10):
        torch.testing.assert_close(compiled(x), model(x))
        set_weights(search, {"0": [0.0, 0.09], "2": [0.0, 0.09]})
        search.after_step()
    assert len({r.structure["0"] for r in search.history}) == 10


def test_probabilities_of_all_layers_come_as_plain_numbers() -> None:
    search = LocalSearch(network(), LocalConfig(branches=3))
    set_weights(search, {"0": [0.01, 0.01], "2": [0.01, 0.01, 0.02]})
    probability = search.probability()
    assert probability["0"] == [0.5, 0.5]
    shares = torch.softmax(torch.tensor([1.0, 1.0, 2.0]), 0)
    assert probability["2"] == pytest.approx(shares.tolist())


def test_the_search_holds_the_convs_of_the_model_themselves() -> None:
    model = network()
    search = LocalSearch(model, LocalConfig())
    weights: list[Tensor] = [cast(SearchConv, model[i]).branch_weight for i in (0, 2)]
    assert [id(w) for w in search.branch_weights()] == [id(w) for w in weights]
