"""The implementation `taps`: what it costs in products and memory, and its operator under torch.compile."""

import numpy as np
import pytest
import torch
from torch import Tensor

from rfnext import mixed_dilation_conv
from tests.rfnext.ops.cases import CONV, LARGE, SMALL, Case, Products


@pytest.mark.parametrize("name", ["1-d", "2-d", "grouped"])
def test_taps_take_the_products_of_one_plain_conv(name: str) -> None:
    case = LARGE[name]
    x, weight, p, bias = case.tensors(torch.float32)
    with Products() as plain:
        y = CONV[len(case.kernel)](x, weight, bias, 1, "same", case.dilations[0], case.groups)
        y.sum().backward()
    with Products() as taps:
        case.call("taps", x, weight, p, bias).sum().backward()
    with Products() as branches:
        case.call("branches", x, weight, p, bias).sum().backward()
    # Up to taps that meet nothing but padding, and what the dense kernel of one branch sees of it.
    assert 0.99 * plain.count <= taps.count <= plain.count
    assert branches.count == len(case.dilations) * plain.count


@pytest.mark.parametrize("frozen", [0, 1], ids=["x", "weight"])
def test_products_for_gradients_that_nobody_needs_are_left_out(frozen: int) -> None:
    case = LARGE["1-d"]
    tensors = case.tensors(torch.float32)
    tensors[2].requires_grad_(False)
    with Products() as all_three:
        case.call("taps", *tensors).sum().backward()
    tensors[frozen].requires_grad_(False)
    with Products() as two:
        case.call("taps", *tensors).sum().backward()
    assert two.count == pytest.approx(all_three.count * 2 / 3, rel=0.01)


def saved_bytes(implementation: str, case: Case) -> int:
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    tensors = case.tensors(torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        case.call(implementation, *tensors)
    for t in tensors:
        storages.pop(t.untyped_storage().data_ptr(), None)
    return sum(storages.values())


@pytest.mark.parametrize("name", list(LARGE))
def test_taps_save_nothing_but_their_arguments(name: str) -> None:
    case = LARGE[name]
    y = case.batch * case.groups * case.channels[1] * int(np.prod(case.size)) * 4
    assert saved_bytes("taps", case) == 0
    assert saved_bytes("branches", case) >= len(case.dilations) * y


def test_equal_branches_are_computed_once() -> None:
    """Along an axis where the kernel has one tap every dilation is the same."""
    x, weight = torch.randn(1, 8, 6, 30), torch.randn(8, 8, 1, 3)
    p = torch.tensor([0.5, 0.25, 1.0], requires_grad=True)
    dilations = [(1, 2), (5, 2), (9, 2)]
    with Products() as products:
        found = mixed_dilation_conv(x, weight, None, p, dilations, implementation="taps")
    assert products.count == weight.numel() * 6 * 30
    expected = mixed_dilation_conv(x, weight, None, p, dilations, implementation="branches")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        *(torch.autograd.grad(y.square().sum(), p)[0] for y in (found, expected)), rtol=1e-4, atol=1e-3
    )


def test_backward_inside_autocast_keeps_float32() -> None:
    case = SMALL["wide"]
    tensors = case.tensors(torch.float32)
    y = case.call("taps", *tensors)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(y.sum(), tensors)
    torch.testing.assert_close(found, torch.autograd.grad(case.definition(*tensors).sum(), tensors))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch", "ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("channel_last", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 16])
def test_the_compiled_operators_are_what_torch_is_told(groups: int, channel_last: bool) -> None:
    x = torch.randn(2, 16, 6, 5)
    x = x.to(memory_format=torch.channels_last) if channel_last else x
    weight, bias, p = torch.randn(16, 16 // groups, 3, 3), torch.randn(16), torch.rand(2)
    arguments = [t.requires_grad_() for t in (x, weight, bias, p)]
    lists = ([1, 1, 2, 3], [1, 1, 1, 1, 2, 2, 3, 3], [1, 1], groups)
    torch.library.opcheck(
        torch.ops.rfnext.taps.default,
        (*arguments, *lists),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static"),
    )
