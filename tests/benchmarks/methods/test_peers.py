"""Convs that take the searched ones' place: what they compute, what they cost, what is left alone."""

import copy
import itertools
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.cell import Cell
from benchmarks.methods.method import Outcome
from benchmarks.methods.peers import enlarge_kernels, learn_spacings, spacings
from rfnext import Structure, everything, is_causal
from rfnext.description import describe, restore


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def conv1d(channels: int, dilation: int, **other: Any) -> nn.Conv1d:
    return nn.Conv1d(channels, channels, 3, padding=dilation, dilation=dilation, **other)


class TestLargerKernels:
    # Kernel 11 in 4 groups has 11 / 4 <= 3 weights per pair of channels; reaches of 16, 32, 1024 in steps of 10.
    @pytest.mark.parametrize(("dilation", "fewer"), [(5, 1), (8, 2), (16, 3), (512, 102)])
    def test_the_field_stays_and_the_parameters_do_not_grow(self, dilation: int, fewer: int) -> None:
        network = nn.Sequential(conv1d(8, dilation))
        x, before = torch.randn(2, 8, 1100), parameters(network)
        size = network(x).shape
        enlarge_kernels(network, everything, groups=4)
        conv = cast(nn.Conv1d, network[0])
        assert (conv.kernel_size, conv.dilation, conv.groups) == ((11,), (fewer,), 4)
        assert before - 8 * 8 * 0.25 == parameters(network)  # 3 - 11 / 4 weights per pair
        assert network(x).shape == size
        network(x).sum().backward()
        assert conv.weight.grad is not None
        assert conv.weight.grad.shape == (8, 2, 11)

    @pytest.mark.parametrize("other", [{"padding_mode": "reflect"}, {"stride": 2}, {"groups": 2}])
    def test_other_settings_of_the_conv_stay(self, other: dict[str, Any]) -> None:
        network = nn.Sequential(conv1d(8, 5, **other))
        size = network(torch.randn(2, 8, 60)).shape
        enlarge_kernels(network, everything, groups=4)
        assert network[0].groups == 4 * other.get("groups", 1)
        assert network(torch.randn(2, 8, 60)).shape == size

    @pytest.mark.parametrize("dilation", [6, 8])  # reaches of 12 and 16 become 10 and 20
    @pytest.mark.parametrize("conv_pads", [True, False])
    def test_causal_convs_read_no_future(self, dilation: int, conv_pads: bool) -> None:
        reach = 2 * dilation
        conv = nn.Conv1d(8, 8, 3, dilation=dilation, padding=reach if conv_pads else 0)
        past = nn.ConstantPad1d((0, -reach) if conv_pads else (reach, 0), 0.0)
        network = nn.Sequential(conv, past) if conv_pads else nn.Sequential(past, conv)
        Structure.read(network, anchor="last").apply(network)
        enlarge_kernels(network, everything, groups=4)
        assert conv.kernel_size == (11,)
        assert is_causal(network, torch.randn(1, 8, 100))

    @pytest.mark.parametrize("wrap", [weight_norm, lambda conv: conv])
    def test_they_come_back_from_a_description(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        network, again = (nn.Sequential(wrap(conv1d(8, 5)), nn.ReLU(), conv1d(8, 8)) for _ in range(2))
        enlarge_kernels(network, everything, groups=4)
        restore(again, describe(network), network.state_dict())
        x = torch.randn(2, 8, 60)
        assert torch.equal(again(x), network(x))
        assert describe(again) == describe(network)

    def test_two_axes_grow_where_they_reach(self) -> None:
        kinds = {"2, 2": (3, 3), "8, 1": (3, 3), "4, 1": (3, 1)}
        network = nn.Sequential()
        for text, kernel in kinds.items():
            dilation = tuple(map(int, text.split(", ")))
            padding = tuple((k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True))
            network.append(nn.Conv2d(8, 8, kernel, padding=padding, dilation=dilation))  # type: ignore[arg-type]
        x = torch.randn(1, 8, 20, 20)
        size = network(x).shape
        network[2].dilation, network[2].padding = (8, 1), (8, 0)
        enlarge_kernels(network, everything, groups=4)
        assert [conv.kernel_size for conv in network] == [(5, 5), (5, 3), (11, 1)]
        assert dict(Structure.read(network)) == {"0": (1, 1), "1": (4, 1), "2": (2, 1)}
        assert network(x).shape == size

    def test_weight_norm_goes_on(self) -> None:
        network = nn.Sequential(weight_norm(conv1d(8, 8)))
        enlarge_kernels(network, everything, groups=4)
        network(torch.randn(1, 8, 30)).sum().backward()
        norm, direction = network[0].parametrizations.weight.parameters()
        assert (norm.grad.shape, direction.grad.shape) == ((8, 1, 1), (8, 2, 11))

    def test_weights_depend_on_the_seed_alone(self) -> None:
        made = []
        for _ in range(2):
            torch.manual_seed(3)
            network = nn.Sequential(conv1d(8, 8), conv1d(8, 16))
            enlarge_kernels(network, everything, groups=4)
            made.append(torch.cat([p.flatten() for p in network.parameters()]))
        assert torch.equal(*made)
        assert made[0].std() > 0.05

    def test_what_cannot_grow_is_left_alone_and_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        network = nn.Sequential(conv1d(8, 1), conv1d(8, 8, groups=8), conv1d(8, 8), nn.Conv1d(8, 8, 3, dilation=6))
        weights = [network[i].weight.clone() for i in (0, 1)]
        enlarge_kernels(network, everything, groups=4)
        assert [conv.kernel_size for conv in network] == [(3,), (3,), (11,), (3,)]
        assert all(torch.equal(network[i].weight, weight) for i, weight in enumerate(weights))
        assert "0 is left as it is: kernel (3,) at dilation (1,) covers fewer inputs" in caplog.text
        assert "1 is left as it is: 8 and 8 channels in 8 groups do not divide into 4 times as many" in caplog.text

    def test_a_network_without_room_is_an_error(self) -> None:
        network = nn.Sequential(conv1d(8, 1), conv1d(8, 8, groups=8))
        with pytest.raises(ValueError, match="none of the 2 searched convs .* larger kernel. 0: kernel .*; 1: 8 and 8"):
            enlarge_kernels(network, everything, groups=4)


class TestSpacings:
    @pytest.mark.parametrize(
        "conv",
        [
            conv1d(4, 5),
            conv1d(4, 5, groups=2, padding_mode="replicate", bias=False),
            conv1d(4, 5, stride=2),
            nn.Conv1d(4, 2, 5, padding="same", dilation=3),
            nn.Conv2d(4, 2, 3, padding=(2, 4), dilation=(2, 4), stride=(1, 2)),
            nn.Conv2d(4, 2, (3, 1), padding=(4, 0), dilation=(4, 1)),
        ],
    )
    def test_it_starts_as_the_same_function(self, conv: nn.Conv1d | nn.Conv2d) -> None:
        network = nn.Sequential(conv, nn.ReLU())
        x = torch.randn(2, 4, *[23, 17][: len(conv.kernel_size)])
        expected, before = network(x), parameters(conv)
        learn_spacings(network, everything, reach=8, factor=10)
        torch.testing.assert_close(network(x), expected)
        # A position per tap and axis comes on top.
        assert parameters(network) == before + len(conv.kernel_size) * conv.weight.numel()
        assert spacings(network) == {
            "0": [d if k > 1 else 1 for k, d in zip(conv.kernel_size, conv.dilation, strict=True)]
        }
        copy.deepcopy(network)(x)

    @pytest.mark.parametrize("factor", [1, 10, 100])
    def test_adam_moves_positions_by_the_factor(self, factor: float) -> None:
        network = nn.Sequential(conv1d(4, 5))
        learn_spacings(network, everything, reach=8, factor=factor)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        before = network[0].P.detach().clone()
        network(torch.randn(2, 4, 40)).square().mean().backward()
        optimizer.step()
        moved = (network[0].P - before).abs()
        torch.testing.assert_close(moved.max(), torch.tensor(1e-3 * factor), rtol=1e-3, atol=0)
        assert (moved > 0.5e-3 * factor).float().mean() > 0.9

    def test_positions_find_a_lag(self) -> None:
        """The output repeats the input of four positions before and after; the taps start at 2."""
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv1d(1, 1, 3, padding=2, dilation=2))
        nn.init.constant_(network[0].weight, 0.5)
        learn_spacings(network, everything, reach=8, factor=10)
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(150):
            x = nn.functional.avg_pool1d(torch.randn(16, 1, 72), 7, stride=1)  # smooth: neighbours show the way
            y = x.roll(4, -1) + x.roll(-4, -1)
            optimizer.zero_grad()
            (network(x) - y)[..., 8:-8].square().mean().backward()
            optimizer.step()
        positions = sorted(network[0].P.detach().flatten().tolist())
        assert positions[0] == pytest.approx(-4, abs=0.5)
        assert positions[-1] == pytest.approx(4, abs=0.5)

    def test_positions_stay_within_the_reach(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        network = nn.Sequential(conv1d(4, 16))
        x = torch.randn(2, 4, 40)
        size = network(x).shape
        learn_spacings(network, everything, reach=6, factor=10)
        assert "0: taps at [16] from the centre start at 6" in caplog.text
        with torch.no_grad():
            network[0].parametrizations.P.original += 1
        assert network(x).shape == size
        assert network[0].P.abs().max() == 6

    def test_all_names_of_a_conv_and_frozen_weights(self) -> None:
        conv = conv1d(4, 2)
        conv.weight.requires_grad_(False)
        network = nn.Sequential(conv, nn.ReLU(), conv)
        learn_spacings(network, everything, reach=6, factor=10)
        assert network[0] is network[2]
        assert network[0] is not conv
        assert not any(p.requires_grad for p in network.parameters())

    def test_what_dcls_has_no_module_for_is_left_alone_and_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        others = [weight_norm(conv1d(4, 2)), nn.Conv2d(4, 4, (3, 2)), nn.Conv1d(4, 4, 3, dilation=9)]
        kinds = [type(module) for module in others]
        network = nn.Sequential(*others, conv1d(4, 2))
        learn_spacings(network, everything, reach=6, factor=10)
        assert [type(module) for module in network][:3] == kinds
        assert list(spacings(network)) == ["3"]
        for reason in ("parametrised (weight_norm)", "has an even axis", "is less than taps up to 6"):
            assert reason in caplog.text
        with pytest.raises(ValueError, match="none of the 3 searched convs can have learnable spacings. 0: its weight"):
            learn_spacings(nn.Sequential(*others), everything, reach=6, factor=10)

    def test_causal_convs_are_left_alone(self) -> None:
        network = nn.Sequential(nn.ConstantPad1d((4, 0), 0.0), nn.Conv1d(4, 4, 3, dilation=2))
        Structure.read(network, anchor="last").apply(network)
        with pytest.raises(ValueError, match="it is anchored at its last tap, and taps would move past it"):
            learn_spacings(network, everything, reach=16, factor=1)

    def test_without_dcls_the_error_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("DCLS", "DCLS.construct"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModuleNotFoundError, match="pip install DCLS"):
            learn_spacings(nn.Sequential(conv1d(4, 2)), everything, reach=6, factor=10)

    def test_the_dense_kernel_holds_the_taps(self) -> None:
        """By an independent construction: every tap's weight is divided between the two nearest whole positions."""
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv1d(2, 3, 3, padding=4, dilation=4, bias=False))
        learn_spacings(network, everything, reach=6, factor=1)
        layer = network[0]
        with torch.no_grad():
            layer.parametrizations.P.original += torch.rand_like(layer.P) - 0.5
        kernel = torch.zeros(3, 2, 13)
        for o, i, tap in itertools.product(range(3), range(2), range(3)):
            position, weight = layer.P[0, o, i, tap].item() + 6, layer.weight[o, i, tap].item()
            kernel[o, i, int(position)] += weight * (1 - position % 1)
            kernel[o, i, int(position) + 1] += weight * (position % 1)
        x: Tensor = torch.randn(2, 2, 30)
        torch.testing.assert_close(network(x), nn.functional.conv1d(x, kernel, padding=6))


def test_learnable_spacings_choose_their_rate_on_validation(
    cell: Callable[..., Cell], run: Callable[..., Outcome], toy: ModuleType
) -> None:
    outcome = run(cell("learnable_spacings", config=toy.Config(epochs=9)))
    assert (outcome.search.epochs, outcome.training.epochs) == (9, 9)
    designed, *tried, found = outcome.history
    assert designed == {"step": 0, "structure": {"0": [2], "2": [4]}}
    assert [entry["factor"] for entry in tried] == [1, 10, 100]
    best = max(tried, key=lambda entry: entry["validation"]["accuracy"])
    model = cast(Any, outcome.model)
    assert model[0].parametrizations.P[0].factor == best["factor"]
    assert found["structure"] == spacings(outcome.model)
    assert (model[0].P.abs() - 2).abs().mean() > 0.05
