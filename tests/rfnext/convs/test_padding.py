"""Convs that are anchored at the last tap, in every way of padding: against the definition."""

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import rfnext
from rfnext import Conv, SearchConv
from rfnext.convs.padding import anchor_of, set_anchor
from rfnext.convs.set_dilation import set_dilation
from rfnext.convs.take_over import release, take_over
from tests.rfnext.convs.test_conv import FUNCTION, INPUT, SETTINGS, make, same_with_even_kernel, settings_id
from tests.rfnext.ops.cases import pad_by_index

LATER = [(axes, {"kernel_size": 2, "padding": 0, "dilation": 2}) for axes in (1, 2)]
LATER += [(1, {"kernel_size": 4, "padding": 3, "stride": 2, "padding_mode": "replicate"})]
CASES = [(axes, settings) for axes, settings in [*SETTINGS, *LATER] if settings.get("padding_mode") != "circular"]
every_setting = pytest.mark.parametrize(("axes", "settings"), CASES, ids=settings_id)


def defined(conv: Conv, x: Tensor, dilation: rfnext.Dilation) -> Tensor:
    """What a designed conv that is anchored at its last tap on its last axis gives at another dilation.

    There the side before grows by (d' - d)(k - 1); on other axes both sides by half of it.
    """
    sides = []
    for axis, (k, new, old) in enumerate(zip(conv.kernel_size, dilation, conv.dilation, strict=True)):
        growth, last = (new - old) * (k - 1), axis == len(dilation) - 1
        if conv.padding == "same":
            before, after = old * (k - 1) // 2, old * (k - 1) - old * (k - 1) // 2
            if not last:
                before, after, growth = new * (k - 1) // 2, new * (k - 1) - new * (k - 1) // 2, 0
        else:
            before = after = 0 if conv.padding == "valid" else int(conv.padding[axis])
        sides.append((before + growth, after) if last else (before + growth // 2, after + growth // 2))
    x = pad_by_index(x, tuple(sides), conv.padding_mode)
    return FUNCTION[len(dilation)](x, conv.weight, conv.bias, conv.stride, 0, dilation, conv.groups)


def moved(conv: Conv, steps: tuple[int, ...]) -> list[rfnext.Dilation]:
    """Dilations that are further by some steps, where their axis is searched: odd kernels, and the last axis."""
    last = len(conv.kernel_size) - 1
    free = [k > 1 and (k % 2 == 1 or axis == last) for axis, k in enumerate(conv.kernel_size)]
    return [tuple(max(1, d + step * f) for f, d in zip(free, conv.dilation, strict=True)) for step in steps]


def anchored(axes: int, settings: dict[str, Any]) -> tuple[Conv, Conv, Tensor]:
    """The conv as designed, a copy that is anchored at the last tap on its last axis, and an input."""
    designed = make(axes, settings)
    conv = copy.deepcopy(designed)
    set_anchor(conv, ("centre",) * (axes - 1) + ("last",))
    return designed, conv, torch.randn(INPUT[axes], dtype=torch.float64)


@same_with_even_kernel
@every_setting
def test_branches_and_the_merged_kernel_are_as_defined(axes: int, settings: dict[str, Any]) -> None:
    designed, conv, x = anchored(axes, settings)
    dilations = moved(conv, (0, 1, 2))
    take_over(conv, dilations)
    search = cast(SearchConv, conv)
    with torch.no_grad():
        search.branch_weight.copy_(torch.tensor([0.02, 0.005, 0.01]))
    shares = search.probability.detach()
    expected = sum(p * defined(designed, x, d) for p, d in zip(shares, dilations, strict=True))
    torch.testing.assert_close(conv(x), expected, rtol=1e-10, atol=1e-10)
    set_dilation(conv, dilations[2])  # a round moves the centre; the branches stay where they are
    torch.testing.assert_close(conv(x), expected, rtol=1e-10, atol=1e-10)
    model = nn.Sequential(conv)
    rfnext.merge(model)
    assert type(conv) is type(designed)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


@same_with_even_kernel
@every_setting
def test_plain_convs_are_as_defined_and_come_back(axes: int, settings: dict[str, Any]) -> None:
    designed, conv, x = anchored(axes, settings)
    take_over(conv, [conv.dilation])
    for dilation in (*moved(designed, (2, 1)), designed.dilation):
        set_dilation(conv, dilation)
        plain = copy.deepcopy(conv)
        release(cast(SearchConv, plain))
        torch.testing.assert_close(plain(x), defined(designed, x, dilation), rtol=1e-12, atol=1e-12)
    assert anchor_of(plain) == ("centre",) * (axes - 1) + ("last",)
    assert plain.padding_mode == designed.padding_mode or designed.padding == "same"


def test_formulas_of_the_output_size_that_read_the_padding_stay_right() -> None:
    conv = nn.Conv1d(1, 1, 3, stride=2, padding=2, dilation=2)
    set_anchor(conv, "last")
    for d in (1, 2, 5):
        set_dilation(conv, (d,))
        assert conv(torch.zeros(1, 1, 30)).shape[-1] == (30 + 2 * int(conv.padding[0]) - d * 2 - 1) // 2 + 1


def test_convs_at_the_centre_carry_no_anchor() -> None:
    conv = nn.Conv1d(1, 1, 3, padding=1)
    before = dict(vars(conv))
    take_over(conv, [(1,), (2,)])
    release(cast(SearchConv, conv))
    assert vars(conv).keys() == before.keys()
    assert anchor_of(conv) == ("centre",)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_a_searched_conv_compiles_into_one_graph() -> None:
    conv = nn.Conv1d(4, 4, 3, padding=2, dilation=2)
    take_over(conv, [(1,), (3,)], anchor="last")
    x = torch.randn(1, 4, 20)
    torch.compiler.reset()
    compiled = torch.compile(conv, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), conv(x))


def test_a_dilation_longer_than_any_input_is_refused() -> None:
    conv = nn.Conv1d(1, 1, 3, padding=1)
    for refused in (lambda: set_dilation(conv, (2**20 + 1,)), lambda: take_over(conv, [(1,), (2**20 + 1,)])):
        with pytest.raises(ValueError, match="above 1048576, more than any input is long"):
            refused()
    assert type(conv) is nn.Conv1d
    set_dilation(conv, (2**20,))
