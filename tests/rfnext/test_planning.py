"""What a plan says of a network, by counts of its own and by the search that follows; and that it touches nothing."""

import copy

import pytest
import torch
from torch import nn

import rfnext
from rfnext.receptive_field import multiply_adds
from rfnext.structure import named_convs
from tests.rfnext.networks import CONFIG, network

EXAMPLE = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(0))


def convs_alone() -> nn.Sequential:
    """Kernels and padding by which all sizes are known: 12 x 20, then 6 x 10 by a stride of 2."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, (1, 5), padding=(0, 4), dilation=(1, 2), groups=8, stride=2),
        nn.Conv2d(8, 2, 1),
    )


def test_sizes_and_multiply_adds_are_those_worked_out_by_hand() -> None:
    planned = rfnext.plan(convs_alone(), config=rfnext.LocalConfig(bounds=rfnext.Bounds(1, 30)), example_input=EXAMPLE)
    first, second, third = planned.layers
    assert (first.size, second.size, third.size) == ((12, 20), (12, 20), (6, 10))
    # batch x outputs x channels in per group x taps
    assert first.multiply_adds == 2 * 8 * 12 * 20 * 3 * 9
    assert second.multiply_adds == 2 * 8 * 6 * 10 * 1 * 5
    assert third.multiply_adds == 2 * 2 * 6 * 10 * 8
    assert sum(layer.multiply_adds or 0 for layer in planned.layers) == multiply_adds(convs_alone(), EXAMPLE)
    # One less than the input's shortest axis that has a dilation: the first tap beside the centre still reads a value.
    assert (first.largest, second.largest, third.largest) == (11, 19, None)
    assert list(second.branches) == [(1, 1), (1, 3)]
    assert third.passed_over is not None
    assert "no odd axis" in third.passed_over


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (7, 3), (5, 0)])
def test_the_largest_useful_dilation_is_one_that_the_plain_conv_computes(mode: str, kernel: int, padding: int) -> None:
    """And by reflect and circular, which torch bounds by the input's size, the next one is refused by torch."""
    example = torch.randn(1, 2, 19)
    conv = nn.Conv1d(2, 2, kernel, padding=padding, padding_mode=mode)
    planned = rfnext.plan(nn.Sequential(conv), example_input=example)
    largest = planned.layers[0].largest
    assert largest is not None
    pads = [padding + (d - 1) * (kernel - 1) // 2 for d in (largest, largest + 1)]
    plain = [nn.Conv1d(2, 2, kernel, padding=p, padding_mode=mode, dilation=largest + i) for i, p in enumerate(pads)]
    plain[0](example)
    if mode == "zeros" or largest == 18:
        assert largest == 18
    else:
        with pytest.raises(RuntimeError, match="(?i)pad"):
            plain[1](example)


@pytest.mark.parametrize("config", [CONFIG, rfnext.OneShotConfig((1, 2, 4))])
def test_the_search_does_what_the_plan_says(config: rfnext.LocalConfig | rfnext.OneShotConfig) -> None:
    model = network()
    planned = rfnext.plan(model, ["*", "!0"], config, EXAMPLE, anchor="last")
    search = (
        rfnext.LocalSearch(model, config, ["*", "!0"], anchor="last")
        if isinstance(config, rfnext.LocalConfig)
        else rfnext.OneShotSearch(model, config, ["*", "!0"], anchor="last")
    )
    assert {layer.layer: list(layer.branches) for layer in planned.searched} == {
        name: list(conv.dilations) for name, conv in search.convs.items()
    }
    assert {layer.layer for layer in planned.layers} == set(named_convs(model))
    assert planned.step
    assert planned.searched_step


def test_nothing_is_touched() -> None:
    model = network().train()
    before, described = copy.deepcopy(model.state_dict()), repr(model)
    rfnext.plan(model, config=CONFIG, example_input=EXAMPLE)
    assert repr(model) == described
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_table_names_layers_reasons_and_useless_dilations() -> None:
    shown = str(rfnext.plan(network(), config=rfnext.OneShotConfig((1, 2, 64)), example_input=EXAMPLE))
    assert "2 of 3 convs" in shown
    assert "1x1 1x2 1x64" not in shown
    assert "no odd axis above 1" in shown
    assert "2 layers have branches above their largest useful dilation: 0, 3" in shown
    assert "times" in shown
    without = str(rfnext.plan(network()))
    assert "times" not in without
    assert "padding" not in without


def test_inputs_may_be_several_or_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 1, 3, padding=1)

        def forward(self, x: torch.Tensor, scale: float) -> dict[str, torch.Tensor]:
            return {"y": self.conv(x) * scale, "again": self.conv(x[..., :5])}

    x = torch.randn(1, 1, 9)
    for example in ((x, 2.0), {"scale": 2.0, "x": x}):
        (layer,) = rfnext.plan(Two(), example_input=example).layers
        assert (layer.size, layer.multiply_adds) == ((9,), (9 + 5) * 3)


def test_what_cannot_be_planned_is_refused_by_one_error() -> None:
    with pytest.raises(ValueError, match=r"no conv to search among the model's 1"):
        rfnext.plan(nn.Conv1d(1, 1, 1))
    with pytest.raises(TypeError, match="LocalConfig or a OneShotConfig, got a dict"):
        rfnext.plan(network(), config={})  # type: ignore[arg-type]
    model = network()
    rfnext.LocalSearch(model, CONFIG)
    with pytest.raises(ValueError, match="searched already"):
        rfnext.plan(model)
