"""mixed_dilation_conv: every implementation against the definition, and bad arguments."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F

from rfnext import mixed_dilation_conv, pin_implementation, reproducible
from tests.rfnext.ops.cases import CONV, IMPLEMENTATIONS, LARGE, SMALL, Case, assert_equal
from tests.rfnext.ops.drawn_cases import cases


@pytest.fixture(autouse=True)
def _fresh_choices() -> Iterator[None]:
    with pin_implementation(None):
        yield


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=60)
@given(case=cases())
def test_equals_the_definition_on_random_shapes(implementation: str, case: Case) -> None:
    assert_equal(case, implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", list(LARGE))
def test_equals_the_definition_where_the_batch_is_cut_into_chunks(
    name: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfnext.ops.taps.CHUNK_BYTES", 200_000)
    assert_equal(LARGE[name], implementation)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", list(SMALL))
def test_passes_gradcheck(name: str, implementation: str) -> None:
    case = SMALL[name]
    assert torch.autograd.gradcheck(lambda *t: case.call(implementation, *t), case.tensors(), fast_mode=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", list(SMALL))
def test_can_be_differentiated_twice(name: str, implementation: str) -> None:
    case = SMALL[name]
    assert torch.autograd.gradgradcheck(lambda *t: case.call(implementation, *t), case.tensors(), fast_mode=True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", list(SMALL))
@pytest.mark.parametrize("wanted", range(4), ids=["x", "weight", "probability", "bias"])
def test_gives_each_gradient_alone(name: str, implementation: str, wanted: int) -> None:
    case = SMALL[name]
    tensors = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(case.tensors())]
    found = torch.autograd.grad(case.call(implementation, *tensors).square().sum(), tensors[wanted])
    expected = torch.autograd.grad(case.definition(*tensors).square().sum(), tensors[wanted])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "auto"])
@pytest.mark.parametrize("channels", [1, 8])
def test_a_single_branch_is_the_plain_conv_times_its_probability(implementation: str, channels: int) -> None:
    x, weight, bias = torch.randn(2, channels, 9, 9), torch.randn(4, channels, 3, 3), torch.randn(4)
    found = mixed_dilation_conv(x, weight, bias, torch.tensor([0.3]), [(2, 1)], implementation=implementation)
    torch.testing.assert_close(found, 0.3 * F.conv2d(x, weight, bias, padding=(2, 1), dilation=(2, 1)))


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "auto"])
@pytest.mark.parametrize("channels", [2, 8])
def test_an_input_without_a_batch_gives_an_output_without_one(implementation: str, channels: int) -> None:
    x, weight, p = torch.randn(channels, 20), torch.randn(8, channels, 3), torch.rand(2)
    found = mixed_dilation_conv(x, weight, None, p, [(1,), (2,)], implementation=implementation)
    batched = mixed_dilation_conv(x[None], weight, None, p, [(1,), (2,)], implementation="branches")
    torch.testing.assert_close(found, batched[0])


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "auto"])
def test_an_empty_batch_gives_an_empty_output(implementation: str) -> None:
    x = torch.randn(0, 8, 20, requires_grad=True)
    weight = torch.randn(8, 8, 3, requires_grad=True)
    y = mixed_dilation_conv(x, weight, None, torch.rand(2), [(1,), (2,)], implementation=implementation)
    assert y.shape == (0, 8, 20)
    y.sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "auto"])
def test_a_gradient_without_memory_of_its_own_is_fine(implementation: str) -> None:
    """sum().backward() hands down one number, expanded."""
    case = SMALL["wide"]
    tensors = case.tensors()
    found = torch.autograd.grad(case.call(implementation, *tensors).sum(), tensors)
    torch.testing.assert_close(found, torch.autograd.grad(case.definition(*tensors).sum(), tensors))


@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "auto"])
@pytest.mark.parametrize("groups", [1, 2, 16], ids=["dense", "grouped", "depthwise"])
def test_channels_last_stays_channels_last(implementation: str, groups: int) -> None:
    x = torch.randn(3, 16, 9, 8).to(memory_format=torch.channels_last).requires_grad_()
    weight, p = torch.randn(16, 16 // groups, 3, 3), torch.rand(2)
    options: dict[str, Any] = {"dilations": [(1, 1), (2, 3)], "groups": groups}
    found = mixed_dilation_conv(x, weight, None, p, implementation=implementation, **options)
    assert found.is_contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(found.square().sum(), x)
    plain = x.detach().contiguous().requires_grad_()
    expected = mixed_dilation_conv(plain, weight, None, p, implementation="branches", **options)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), plain)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(SMALL))
def test_autocast_gives_the_dtype_and_precision_of_the_plain_conv(
    name: str, dtype: torch.dtype, implementation: str
) -> None:
    case = SMALL[name]
    tensors = case.tensors(torch.float32)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    with torch.autocast("cpu", dtype):
        found = case.call(implementation, *tensors)
        plain = CONV[len(case.kernel)](tensors[0], tensors[1], groups=case.groups)
    assert found.dtype == plain.dtype == dtype
    expected = case.definition(*exact)
    g = torch.randn_like(expected)
    gradients = torch.autograd.grad(found, tensors, g.to(dtype))
    expected_gradients = torch.autograd.grad(expected, exact, g)
    for one, other in zip((found, *gradients), (expected, *expected_gradients), strict=True):
        assert (one.double() - other).norm() < 4 * torch.finfo(dtype).eps * other.norm()
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", list(SMALL))
def test_autocast_leaves_float64_as_it_is(name: str, implementation: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert_equal(SMALL[name], implementation)


@pytest.mark.parametrize("implementation", ["auto", *IMPLEMENTATIONS])
@pytest.mark.parametrize("name", list(SMALL))
def test_a_bias_of_another_type_than_the_input_is_an_error(name: str, implementation: str) -> None:
    *tensors, bias = SMALL[name].tensors(torch.float32)
    with reproducible(torch.device("cpu")), pytest.raises(RuntimeError, match="bias type"):
        SMALL[name].call(implementation, *tensors, bias.double())


# torch.compile.


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("implementation", [*IMPLEMENTATIONS, "auto"])
@pytest.mark.parametrize("name", list(SMALL))
def test_compiles_into_one_graph(name: str, implementation: str) -> None:
    case = SMALL[name]
    torch.compiler.reset()
    compiled = torch.compile(lambda *t: case.call(implementation, *t), backend="aot_eager", fullgraph=True)
    tensors = case.tensors()
    expected = case.definition(*tensors)
    for _ in range(2):
        found = compiled(*tensors)
        torch.testing.assert_close(found, expected)
    g = torch.randn_like(expected)
    torch.testing.assert_close(torch.autograd.grad(found, tensors, g), torch.autograd.grad(expected, tensors, g))


# Bad arguments: one clear error each.


GOOD: dict[str, Any] = {
    "x": torch.zeros(1, 4, 8, 8),
    "weight": torch.zeros(6, 2, 3, 3),
    "bias": torch.zeros(6),
    "probability": torch.ones(2),
    "dilations": [(1, 1), (2, 2)],
    "groups": 2,
}
WIDE: dict[str, Any] = {"weight": torch.zeros(6, 2, 3, 2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"implementation": "magic"}, "unknown implementation 'magic'; known are auto, branches, taps, dense"),
        ({"padding_mode": "mirror"}, "unknown padding_mode 'mirror'; known are zeros, reflect, replicate, circular"),
        ({"weight": torch.zeros(6, 2)}, "weight must be .* got shape"),
        ({"x": torch.zeros(4, 8)}, "x must be .* 2 spatial axes .* got shape"),
        ({"x": torch.zeros(1, 1, 4, 8, 8)}, "x must be .* 2 spatial axes .* got shape"),
        ({"x": torch.zeros(1, 5, 8, 8)}, "x has 5 channels; .* needs 4"),
        ({"groups": 0}, "groups=0"),
        ({"groups": 4}, "groups=4 needs 8"),
        ({"bias": torch.zeros(4)}, r"bias must have shape \(6,\), got \(4,\)"),
        ({"dilations": []}, "dilations is empty"),
        ({"probability": torch.ones(3)}, r"one entry per branch, shape \(2,\), got \(3,\)"),
        ({"dilations": [(1, 1), (2,)]}, r"dilation of branch 1 must be 2 positive integers, .* got \(2,\)"),
        ({"dilations": [(1, 0), (2, 2)]}, "dilation of branch 0 must be 2 positive integers"),
        ({"stride": 0}, "stride must be a positive integer or 2 of them, got 0"),
        ({"stride": (1, 1, 1)}, "stride must be a positive integer or 2 of them"),
        # What equals an integer must not be kept as one: the right call after it would get it.
        ({"groups": 2.0}, "groups must be an integer; got 2.0"),
        ({"stride": 1.0}, "stride must be an integer"),
        ({"stride": "1"}, "stride must be an integer"),
        ({"dilations": [1, 2]}, r"dilations must hold a tuple per branch, .* got \[1, 2\]"),
        ({"dilations": [(1.0, 1.0), (2.0, 2.0)]}, "dilations must hold a tuple per branch, of one integer"),
        ({"padding": 1}, "padding must hold a tuple per branch, .* got 1"),
        ({"padding": "same"}, "padding must hold a tuple per branch, .* got 'same'"),
        ({"padding": [((1, 1, 1), 1), (2, 2)]}, "padding must hold a tuple per branch"),
        ({"padding": [(1, 1)]}, "padding must hold 2 branches of 2 axes each"),
        ({"padding": [(1, 1), (2,)]}, "padding must hold 2 branches of 2 axes each"),
        ({"padding": [(1, 1), (1, 1)]}, r"one output size, got \[\(8, 8\), \(6, 6\)\] for dilations"),
        ({"padding": [(-3, -3), (-2, -2)]}, "does not fit the padded input"),
        ({**WIDE}, r"no symmetric padding keeps the size on axis 1 of branch 0: dilation 1 x \(kernel 2 - 1\) is odd"),
    ],
)
def test_a_wrong_argument_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixed_dilation_conv(**{**GOOD, **change})
    mixed_dilation_conv(**GOOD)


def test_a_searched_layer_trains_alike_by_every_implementation() -> None:
    """A few steps of SGD on a small net, in float64: the same loss to rounding."""

    def losses(implementation: str) -> Iterator[float]:
        torch.manual_seed(0)
        conv = nn.Conv1d(8, 8, 3, dtype=torch.float64)
        a = nn.Parameter(torch.full((3,), 0.5, dtype=torch.float64))
        optimizer = torch.optim.SGD([*conv.parameters(), a], lr=0.01)
        x, target = torch.randn(4, 8, 50, dtype=torch.float64), torch.randn(4, 8, 50, dtype=torch.float64)
        for _ in range(5):
            p, dilations = a.abs() / a.abs().sum(), [(2,), (4,), (6,)]
            y = mixed_dilation_conv(x, conv.weight, conv.bias, p, dilations, implementation=implementation)
            loss = F.mse_loss(y.relu(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    reference = list(losses("branches"))
    assert reference[-1] < reference[0]
    for implementation in ("taps", "dense", "auto"):
        assert list(losses(implementation)) == pytest.approx(reference, rel=1e-10)
