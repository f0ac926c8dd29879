"""The one-shot search: candidates, probabilities, read-outs, state, and a planted dilation that it must find."""

import copy
import io
import json
import logging
import math

import numpy as np
import pytest
import torch
from torch import nn

from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Structure, powers_of_two
from rfnext.convs.conv import SearchConv
from rfnext.receptive_field import multiply_adds

CANDIDATES = (1, 2, 4, 8)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 3, 3, padding=4, dilation=4))


def logits(search: OneShotSearch, *rows: list[float]) -> None:
    with torch.no_grad():
        for weight, row in zip(search.branch_weights(), rows, strict=True):
            weight.copy_(torch.tensor(row) * 0.01)


@pytest.mark.parametrize(
    ("longest", "expected"), [(3, (1, 2)), (4, (1, 2)), (5, (1, 2, 4)), (1024, powers_of_two(513)), (1025, 11)]
)
def test_candidates_are_shorter_than_the_longest_input(longest, expected):
    found = powers_of_two(longest)
    assert found[0] == 1
    assert found[-1] < longest <= 2 * found[-1] or longest == 3
    assert (len(found) if isinstance(expected, int) else found) == expected


@pytest.mark.parametrize("longest", [0, 2])
def test_input_too_short_for_any_choice(longest):
    with pytest.raises(ValueError, match="no dilation to choose from"):
        powers_of_two(longest)


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidates": (1,)},
        {"candidates": (2, 1)},
        {"candidates": (0, 1)},
        {"candidates": (1, 2.0)},
        {"readout": "mean"},
        {"learning_rate": 0.0},
        {"sharpen": 0.9},
        {"sharpen": math.nan},
        {"interval": 0},
        {"interval": 1.5},
        {"warmup": -1},
        {"warmup": 0.1},
    ],
)
def test_config_is_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OneShotConfig(**wrong)


def test_numpy_integers_are_integers():
    config = OneShotConfig(tuple(2 ** np.arange(4)), warmup=np.int64(1))
    assert config == OneShotConfig(CANDIDATES, warmup=1)
    json.dumps(OneShotSearch(network(), config).state_dict())


def test_takes_its_own_config_alone():
    with pytest.raises(TypeError, match="OneShotSearch takes a OneShotConfig, got a LocalConfig"):
        OneShotSearch(network(), LocalConfig())


class TestSearch:
    def test_every_conv_holds_all_candidates_equally(self):
        model = network()
        search = OneShotSearch(model, OneShotConfig(CANDIDATES))
        for conv in (model[0], model[2]):
            assert isinstance(conv, SearchConv)
            assert conv.dilations == ((1,), (2,), (4,), (8,))
        assert all(share == pytest.approx([0.25] * 4) for share in search.probability().values())
        assert search.entropy() == pytest.approx(2)
        assert search.initial == Structure({"0": (1,), "2": (4,)})
        assert model(torch.randn(1, 2, 20)).shape == (1, 3, 20)

    def test_is_the_mean_of_the_candidates_at_the_start(self):
        conv = nn.Conv1d(2, 3, 3, padding=1)
        x, plain = torch.randn(2, 2, 30), copy.deepcopy(conv)
        outputs = []
        for d in CANDIDATES:
            Structure({"": (d,)}).apply(plain)
            outputs.append(plain(x))
        OneShotSearch(conv, OneShotConfig(CANDIDATES))
        torch.testing.assert_close(conv(x), torch.stack(outputs).mean(0))

    def test_axes_without_a_choice_keep_their_dilation(self):
        conv = nn.Conv2d(1, 1, (3, 1), padding=(1, 0))
        search = OneShotSearch(conv, OneShotConfig(CANDIDATES))
        assert conv.dilations == ((1, 1), (2, 1), (4, 1), (8, 1))
        assert search.structure("argmax")[""][1] == search.structure("log2")[""][1] == 1
        assert conv(torch.randn(1, 1, 9, 5)).shape == (1, 1, 9, 5)

    def test_parameters_and_products_are_those_of_the_plain_network(self):
        model, plain = network(), network()
        OneShotSearch(model, OneShotConfig(CANDIDATES))
        extra = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in plain.parameters())
        assert extra == 2 * len(CANDIDATES)
        assert multiply_adds(plain, torch.zeros(1, 2, 20)) > 0

    def test_readouts(self):
        search = OneShotSearch(network(), OneShotConfig(CANDIDATES))
        assert search.structure("log2") == Structure({"0": (3,), "2": (3,)})  # 2 ** 1.5 = 2.83
        # p = 0.1, 0.2, 0.6, 0.1: 2 ** (0.2 + 1.2 + 0.3) = 3.25
        logits(search, [0, 0, 9, 0], [math.log(p) for p in (0.1, 0.2, 0.6, 0.1)])
        assert search.structure("argmax") == Structure({"0": (4,), "2": (4,)})
        assert search.structure() == search.structure("log2") == Structure({"0": (4,), "2": (3,)})

    def test_sharpening_keeps_the_order_and_lowers_the_entropy(self):
        search = OneShotSearch(network(), OneShotConfig(CANDIDATES, sharpen=2.0, interval=2))
        logits(search, [0, 1, 2, 3], [1, 0, 0, 0])
        before, best = search.entropy(), search.structure("argmax")
        assert not search.after_step()
        assert search.after_step()
        assert search.entropy() < before
        assert search.structure("argmax") == best
        share = search.probability()["0"]
        assert [math.log(p / share[0]) for p in share] == pytest.approx([0, 4, 8, 12], rel=1e-4)

    def test_without_sharpening_a_step_leaves_the_network_alone(self):
        model = network()
        search = OneShotSearch(model, OneShotConfig(CANDIDATES))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        search.after_step()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_branch_weights_have_their_own_learning_rate(self):
        model = network()
        search = OneShotSearch(model, OneShotConfig(CANDIDATES, learning_rate=0.5))
        others, own = search.parameter_groups()
        assert {*map(id, others["params"]), *map(id, own["params"])} == set(map(id, model.parameters()))
        assert list(map(id, own["params"])) == list(map(id, search.branch_weights()))
        optimizer = torch.optim.Adam([others, own], lr=1e-9)
        model(torch.randn(4, 2, 20)).square().mean().backward()
        before = search.probability()["0"]
        optimizer.step()
        steps = [math.log(a / b) for a, b in zip(search.probability()["0"], before, strict=True)]
        assert max(steps) - min(steps) == pytest.approx(1.0, rel=1e-3)  # one up and another down, by 0.5 each

    def test_probabilities_wait_for_the_warmup(self):
        search = OneShotSearch(network(), OneShotConfig(CANDIDATES, warmup=2))
        optimizer = torch.optim.Adam(search.parameter_groups(), lr=0.01)
        seen = []
        for _ in range(3):
            optimizer.zero_grad()
            search.model(torch.randn(4, 2, 20)).square().mean().backward()
            assert all(weight.grad is not None for weight in search.branch_weights())
            optimizer.step()
            search.after_step()
            seen.append(search.entropy())
        assert seen[:2] == pytest.approx([2, 2])
        assert seen[2] < 2

    @pytest.mark.parametrize("sharpen", [1.0, 1.3])
    def test_an_optimizer_built_too_early_is_noticed(self, sharpen, caplog):
        model = network()
        too_early = torch.optim.AdamW(model.parameters())
        search = OneShotSearch(model, OneShotConfig(CANDIDATES, warmup=2, sharpen=sharpen))
        in_time = torch.optim.AdamW(search.parameter_groups(), weight_decay=0.1)
        caplog.set_level(logging.WARNING, logger="rfnext")

        def step(optimizer: torch.optim.Optimizer) -> str:
            caplog.clear()
            optimizer.zero_grad()
            model(torch.randn(4, 2, 20)).square().mean().backward()
            optimizer.step()
            search.after_step()
            return caplog.text

        assert not step(too_early)  # the warmup: nothing is to change yet
        assert not step(in_time)  # but for the decay, which moves all alike
        assert "was the optimizer built before OneShotSearch" in step(too_early)
        assert not step(in_time)
        assert not step(in_time)

    def test_samples_follow_the_probabilities(self):
        search = OneShotSearch(network(), OneShotConfig(CANDIDATES))
        logits(search, [math.log(p) for p in (0.1, 0.2, 0.6, 0.1)], [0, 0, 50, 0])
        rng = np.random.default_rng(0)
        drawn = [search.sample(rng) for _ in range(2000)]
        assert {d["2"] for d in drawn} == {(4,)}
        counts = [sum(d["0"] == (c,) for d in drawn) / len(drawn) for c in CANDIDATES]
        assert counts == pytest.approx([0.1, 0.2, 0.6, 0.1], abs=0.03)

    def test_choose_computes_with_one_branch_and_the_state_brings_all_back(self):
        model, plain = network(), network()
        plain.load_state_dict(model.state_dict())
        search = OneShotSearch(model, OneShotConfig(CANDIDATES))
        kept, x = copy.deepcopy(model.state_dict()), torch.randn(1, 2, 20)
        mixed = model(x)
        structure = Structure({"0": (2,), "2": (8,)})
        search.choose(structure)
        structure.apply(plain)
        torch.testing.assert_close(model(x), plain(x))
        model.load_state_dict(kept)
        torch.testing.assert_close(model(x), mixed)

    def test_choose_refuses_another_network(self):
        search = OneShotSearch(network(), OneShotConfig(CANDIDATES))
        with pytest.raises(ValueError, match="differs in 1 layers, '2' first"):
            search.choose(Structure({"0": (2,)}))

    @pytest.mark.parametrize(
        ("structure", "message"),
        [
            (Structure({"0": (2,), "2": (8,)}, "last"), "layer '0' is searched with anchor"),
            (Structure({"0": (2,), "2": (8, 8)}), "layer '2': dilation"),
        ],
        ids=["anchor", "axes"],
    )
    def test_choose_refuses_what_does_not_fit_and_changes_nothing(self, structure, message):
        model = network()
        search, x = OneShotSearch(model, OneShotConfig(CANDIDATES)), torch.randn(1, 2, 20)
        before = model(x)
        with pytest.raises(ValueError, match=message):
            search.choose(structure)
        assert torch.equal(model(x), before)

    def test_nothing_to_search(self):
        with pytest.raises(ValueError, match="no conv to search"):
            OneShotSearch(nn.Conv1d(1, 1, 1), OneShotConfig(CANDIDATES))

    def test_diverged(self):
        search = OneShotSearch(network(), OneShotConfig(CANDIDATES))
        logits(search, [math.nan] * 4, [0] * 4)
        with pytest.raises(ValueError, match="layer '0'.*diverge"):
            search.structure()


class TestState:
    def searched(self) -> OneShotSearch:
        search = OneShotSearch(network(), OneShotConfig(CANDIDATES, interval=2))
        logits(search, [0, 1, 2, 3], [1, 0, 0, 0])
        for _ in range(5):
            search.after_step()
        return search

    def test_goes_on(self):
        search = self.searched()
        file = io.BytesIO()
        torch.save({"search": search.state_dict(), "model": search.model.state_dict()}, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        again = OneShotSearch(network(), OneShotConfig(CANDIDATES, interval=2))
        again.load_state_dict(state["search"])
        again.model.load_state_dict(state["model"])
        assert (again.step, again.round, again.history) == (5, 2, search.history)
        assert again.structure() == search.structure()
        assert again.initial == search.initial
        x = torch.randn(1, 2, 20)
        torch.testing.assert_close(again.model(x), search.model(x), rtol=0, atol=0)

    def test_refuses_the_state_of_other_searches(self):
        state = self.searched().state_dict()
        with pytest.raises(ValueError, match=r"over \[1, 2, 4, 8\], this one is over \[1, 2, 4, 16\]"):
            OneShotSearch(network(), OneShotConfig((1, 2, 4, 16))).load_state_dict(state)
        with pytest.raises(ValueError, match="other layers"):
            OneShotSearch(network()[:1], OneShotConfig(CANDIDATES)).load_state_dict(state)
        local = LocalSearch(network(), LocalConfig())
        with pytest.raises(ValueError, match="OneShotSearch"):
            self.searched().load_state_dict(local.state_dict())
        with pytest.raises(ValueError, match="LocalSearch"):
            local.load_state_dict(state)

    def test_copies_to_an_average(self):
        search = self.searched()
        average = copy.deepcopy(search.model)
        logits(search, [5, 1, 2, 3], [1, 0, 7, 0])
        search.copy_to(average)
        x = torch.randn(1, 2, 20)
        torch.testing.assert_close(average(x), search.model(x))


def test_finds_a_planted_dilation_and_local_search_goes_on_from_it():
    """The target is a conv of dilation 8: the search must prefer it among 1 .. 32, in one training."""
    torch.manual_seed(0)
    teacher, student = nn.Conv1d(2, 2, 3, padding=8, dilation=8), nn.Conv1d(2, 2, 3, padding=1)
    search = OneShotSearch(student, OneShotConfig(powers_of_two(64), learning_rate=0.03))
    optimizer = torch.optim.Adam(search.parameter_groups(), lr=0.01)
    for _ in range(150):
        x = torch.randn(8, 2, 64)
        loss = nn.functional.mse_loss(student(x), teacher(x).detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        search.after_step()
    assert search.structure("argmax") == Structure({"": (8,)})
    assert search.structure("log2")[""][0] in range(6, 11)
    fresh = nn.Conv1d(2, 2, 3, padding=1)
    search.structure("argmax").apply(fresh)
    assert LocalSearch(fresh, LocalConfig()).initial == Structure({"": (8,)})
