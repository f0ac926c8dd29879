"""Receptive fields against closed forms."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import rfnext
from rfnext.ops.native_build import failure
from rfnext.receptive_field import effective_receptive_field, multiply_adds, theoretical_receptive_field
from rfnext.structure import searched_convs


def chain(*dilations: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for dilation in dilations:
        layers += [nn.Conv1d(4, 4, 3, padding=dilation, dilation=dilation), nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4), (5, 3), (16, 1, 16)])
def test_theoretical_field_of_a_chain_is_the_sum_of_its_dilations(dilations: tuple[int, ...]) -> None:
    reach = sum(dilations)
    assert theoretical_receptive_field(chain(*dilations), torch.zeros(1, 4, 101)) == [(50 - reach, 50 + reach)]


def test_theoretical_field_per_axis_with_stride_and_asymmetric_kernels() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, (3, 5), padding=(1, 2)), nn.MaxPool2d(2), nn.Conv2d(2, 1, 3, padding=1))
    # Output (8, 8) of a 32 x 32 input sees pooled 7..9, i.e. 14..19, and one row or two columns more on each side.
    assert theoretical_receptive_field(model, torch.zeros(1, 1, 32, 32), (8, 8)) == [(13, 20), (12, 21)]


def test_theoretical_field_ends_at_the_input_and_is_all_of_it_after_global_pooling() -> None:
    assert theoretical_receptive_field(chain(40), torch.zeros(1, 4, 21)) == [(10, 10)]  # both outer taps see padding
    squeeze = nn.Sequential(nn.AdaptiveAvgPool1d(1), nn.Upsample(size=21))
    assert theoretical_receptive_field(squeeze, torch.zeros(1, 4, 21)) == [(0, 20)]


def test_theoretical_field_reports_what_it_cannot_find() -> None:
    with pytest.raises(ValueError, match="does not depend on axis 0"):
        theoretical_receptive_field(lambda x: torch.zeros(1, 1, 5), torch.zeros(1, 1, 5))
    with pytest.raises(ValueError, match="NaN"):
        theoretical_receptive_field(lambda x: x / 0, torch.zeros(1, 1, 5))


@pytest.mark.parametrize("field", [theoretical_receptive_field, effective_receptive_field])
def test_fields_name_what_does_not_fit(field: Callable[..., object]) -> None:
    x = torch.randn(1, 1, 5)
    with pytest.raises(
        TypeError, match=r"gives a dict with the keys 'out', 'aux', not one tensor; .*model\(x\)\['out'\]"
    ):
        field(lambda x: {"out": x, "aux": x}, x)
    with pytest.raises(TypeError, match="gives a tuple, not one tensor"):
        field(lambda x: (x, x), x)
    with pytest.raises(TypeError, match=r"the input is torch\.int64; .*floating-point"):
        field(chain(1), torch.zeros(1, 4, 5, dtype=torch.int64))
    for position in ((5,), (-6,), (2, 2)):
        with pytest.raises(ValueError, match=r"position .* does not fit an output of shape \(1, 1, 5\)"):
            field(lambda x: x, x, position)
    assert field(lambda x: x + 0, x, (-1,)) is not None


def test_a_partly_frozen_model_stays_as_it_is() -> None:
    model = nn.Sequential(chain(1), chain(1), nn.Dropout())
    model[1].eval()
    before = [module.training for module in model.modules()]
    x = torch.randn(1, 4, 9)
    theoretical_receptive_field(model, x)
    effective_receptive_field(model, x)
    multiply_adds(model, x)
    assert [module.training for module in model.modules()] == before


def test_effective_field_of_equal_weights_is_the_convolution_of_boxes() -> None:
    model = nn.Sequential(
        nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Conv1d(1, 1, 3, padding=2, dilation=2, bias=False)
    )
    for conv in model:
        nn.init.ones_(conv.weight)
    field = effective_receptive_field(model, torch.randn(2, 1, 11))
    expected = torch.tensor([0, 0, 1, 1, 2, 1, 2, 1, 1, 0, 0]) / 9
    torch.testing.assert_close(field, expected)
    with pytest.raises(ValueError, match="no gradient"):
        effective_receptive_field(nn.Sequential(chain(1), nn.Threshold(1e9, 0)), torch.randn(1, 4, 9))


def test_multiply_adds_of_a_conv() -> None:
    assert multiply_adds(nn.Conv2d(8, 16, 3, padding=1, groups=2), torch.randn(2, 8, 10, 10)) == 2 * 16 * 4 * 9 * 100


def by_hand() -> tuple[nn.Sequential, int]:
    """Three convs on 12 x 10 and a linear layer: output channels x input channels per group x kernel x positions."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 4, (3, 5), stride=2, padding=(1, 2)),
        nn.Flatten(),
        nn.Linear(4 * 6 * 5, 2),
    )
    return model, 8 * 3 * 9 * 120 + 8 * 1 * 9 * 120 + 4 * 8 * 15 * 30 + 2 * 120


@pytest.mark.parametrize("implementation", ["auto", "branches", "taps", "dense", "native"])
def test_multiply_adds_of_a_searched_network_are_those_of_its_centres(implementation: str) -> None:
    model, expected = by_hand()
    x = torch.randn(1, 3, 12, 10)
    with FlopCounterMode(display=False) as counter:
        model(x)
    assert counter.get_total_flops() == 2 * expected
    assert multiply_adds(model, x) == expected
    if implementation == "native" and failure() is not None:
        pytest.skip("no C compiler")
    rfnext.LocalSearch(model, rfnext.LocalConfig(branches=3))
    for conv in searched_convs(model).values():
        conv.implementation = implementation
    y = model.eval()(x)
    assert multiply_adds(model, x) == expected
    assert torch.equal(model(x), y)  # it computes with its branches again


def test_multiply_adds_of_a_merged_network_are_those_of_its_kernels() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1))
    rfnext.LocalSearch(model, rfnext.LocalConfig(branches=2))  # dilations 1 and 2: five taps
    rfnext.merge(model)
    assert multiply_adds(model, torch.randn(1, 2, 20)) == 4 * 2 * 5 * 20


def test_multiply_adds_count_searched_convs_that_crop() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3, dilation=4))
    rfnext.LocalSearch(model, rfnext.LocalConfig(bounds=rfnext.Bounds(1, 2)))  # at 2 it crops its input by 2
    assert multiply_adds(model, torch.randn(1, 2, 20)) == 4 * 2 * 3 * 12
