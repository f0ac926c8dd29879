"""mixed_dilation_conv: every implementation against the definition, and what surrounds them."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from rfnext.ops import mixed_dilation_conv as functional
from rfnext.ops import native_build as native_library
from rfnext.ops.geometry import dense_grid
from rfnext.ops.mixed_dilation_conv import mixed_dilation_conv, pin_implementation, reproducible

# The last one needs a C compiler; test_functional_native.py says so where there is none.
NATIVE = ("native",) if native_library.failure() is None else ()
IMPLEMENTATIONS = ("branches", "taps", "dense", *NATIVE)
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
NUMPY_MODE = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@pytest.fixture(autouse=True)
def _fresh_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "_chosen", {})
    monkeypatch.setattr(functional, "_pinned", None)


@dataclass(frozen=True)
class Case:
    """Arguments of one call, but for the tensors' values."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    dilations: tuple[tuple[int, ...], ...]
    padding: tuple[tuple[tuple[int, int], ...], ...]
    stride: tuple[int, ...] = (1, 1, 1)
    batch: int = 2
    groups: int = 1
    channels: tuple[int, int] = (2, 3)  # in and out, per group
    bias: bool = True
    mode: str = "zeros"

    def tensors(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        """x, weight, probability and, if the case has one, bias; all of them requiring gradients."""
        channel_in, channel_out = self.channels
        shapes = [
            (self.batch, self.groups * channel_in, *self.size),
            (self.groups * channel_out, channel_in, *self.kernel),
            (len(self.dilations),),
        ]
        shapes += [(self.groups * channel_out,)] if self.bias else []
        return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]

    def call(self, implementation: str, x: Tensor, weight: Tensor, probability: Tensor, bias: Any = None) -> Tensor:
        return mixed_dilation_conv(
            x,
            weight,
            bias,
            probability,
            self.dilations,
            stride=self.stride[: len(self.kernel)],
            padding=self.padding,
            groups=self.groups,
            padding_mode=self.mode,
            implementation=implementation,
        )

    def definition(self, x: Tensor, weight: Tensor, probability: Tensor, bias: Any = None) -> Tensor:
        """sum_i p_i conv(pad(x)), with the padding by numpy."""
        total = torch.zeros(())
        for p, dilation, padding in zip(probability, self.dilations, self.padding, strict=True):
            window = pad_by_index(x, padding, self.mode)
            stride = self.stride[: len(self.kernel)]
            total = total + p * CONV[len(dilation)](window, weight, bias, stride, 0, dilation, self.groups)
        return total


def pad_by_index(x: Tensor, padding: tuple[tuple[int, int], ...], mode: str) -> Tensor:
    """numpy.pad, differentiable: padded are the elements' numbers, which then pick the elements."""
    size = x.shape[2:]
    number = np.arange(1, np.prod(size) + 1).reshape(size)
    grown = [(max(before, 0), max(after, 0)) for before, after in padding]
    number = np.pad(number, grown, mode=NUMPY_MODE[mode])  # type: ignore[call-overload]
    cuts = [(max(-before, 0), max(-after, 0)) for before, after in padding]
    number = number[tuple(slice(b, n - a) for (b, a), n in zip(cuts, number.shape, strict=True))]
    with_zero = torch.cat([x.new_zeros(*x.shape[:2], 1), x.flatten(2)], dim=2)
    return with_zero[:, :, torch.from_numpy(number.copy())]


def kept(kernel: tuple[int, ...], dilation: tuple[int, ...], shift: int = 0) -> tuple[tuple[int, int], ...]:
    """Size-keeping padding, uneven where it must be, moved by `shift`."""
    totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    return tuple((total // 2 + shift, total - total // 2 - shift) for total in totals)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    axes = draw(st.integers(1, 3))

    def per_axis(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(draw(values) for _ in range(axes))

    kernel = per_axis(st.sampled_from([1, 2, 3, 5]))
    # Dilations beyond the input are as welcome as small ones.
    dilations = tuple(per_axis(st.sampled_from([1, 2, 3, 4, 11])) for _ in range(draw(st.integers(1, 4))))
    shift = draw(st.integers(-2, 2))
    return Case(
        size=per_axis(st.integers(1, 8)),
        kernel=kernel,
        dilations=dilations,
        padding=tuple(kept(kernel, dilation, shift) for dilation in dilations),
        stride=(*per_axis(st.integers(1, 3)), 1, 1),
        batch=draw(st.integers(1, 3)),
        groups=draw(st.sampled_from([1, 1, 2, 3])),
        # 1 and 1 per group is depthwise; 8 and more per group take another way through `taps`.
        channels=draw(st.sampled_from([(1, 1), (1, 2), (2, 3), (8, 8), (9, 8)])),
        bias=draw(st.booleans()),
        mode=draw(st.sampled_from(list(NUMPY_MODE))),
    )


def assert_equal(case: Case, implementation: str) -> None:
    """Outputs and all gradients agree with the definition in float64."""
    tensors = case.tensors()
    expected = case.definition(*tensors)
    found = case.call(implementation, *tensors)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    g = torch.randn_like(expected)
    for name, one, other in zip(
        ("x", "weight", "probability", "bias"),
        torch.autograd.grad(found, tensors, g),
        torch.autograd.grad(expected, tensors, g),
        strict=False,
    ):
        torch.testing.assert_close(
            one, other, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"gradient of {name}: {m}"
        )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@settings(max_examples=60)
@given(case=cases())
def test_equals_the_definition_on_random_shapes(implementation: str, case: Case) -> None:
    assert_equal(case, implementation)


def keeping_size(size: tuple[int, ...], kernel: tuple[int, ...], *dilations: tuple[int, ...], **more: Any) -> Case:
    return Case(size, kernel, dilations, tuple(kept(kernel, dilation) for dilation in dilations), **more)


LARGE = {
    "1-d": keeping_size((2000,), (3,), (90,), (100,), (110,), batch=5, channels=(9, 10)),
    "2-d": keeping_size((40, 33), (3, 3), (1, 2), (3, 3), batch=5, channels=(70, 9)),
    "grouped": keeping_size((30, 31), (3, 3), (1, 1), (2, 4), batch=5, groups=3, channels=(16, 8)),
    "depthwise": keeping_size((28, 28), (7, 7), (1, 1), (3, 3), batch=5, groups=20, channels=(1, 1)),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", list(LARGE))
def test_equals_the_definition_where_the_batch_is_cut_into_chunks(
    name: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rfnext.ops.taps._CHUNK_BYTES", 200_000)
    assert_equal(LARGE[name], implementation)


SMALL = {
    "wide": keeping_size((5,), (3,), (1,), (3,), batch=1, channels=(8, 8)),
    "wide, 2-d": keeping_size((3, 4), (3, 1), (1, 1), (2, 1), batch=1, channels=(8, 8)),
    "depthwise": keeping_size((4, 5), (3, 3), (1, 1), (2, 1), batch=1, groups=2, channels=(1, 1)),
}


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


def test_backward_inside_autocast_keeps_float32() -> None:
    case = SMALL["wide"]
    tensors = case.tensors(torch.float32)
    y = case.call("taps", *tensors)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(y.sum(), tensors)
    torch.testing.assert_close(found, torch.autograd.grad(case.definition(*tensors).sum(), tensors))


# What the implementations cost.


class Products(TorchDispatchMode):
    """Counts the multiply-adds of all matrix products and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        out = func(*args, **(kwargs or {}))
        if name in ("bmm", "baddbmm_"):
            one, other = args[-2:]
            self.count += one.numel() * other.shape[2]
        elif name == "convolution":
            self.count += out.numel() * args[1][0].numel()
        elif name == "convolution_backward":
            self.count += args[0].numel() * args[2][0].numel() * sum(args[-1][:2])
        return out


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


def test_the_dense_kernel_has_the_coarsest_grid() -> None:
    x, weight = torch.randn(1, 1, 100), torch.randn(1, 1, 3)

    def grid(*dilations: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        sizes = [(d,) for d in dilations]
        p = torch.ones(len(dilations))
        geometry = functional._check(x, weight, None, p, sizes, 1, None, 1, "zeros", "dense")
        return dense_grid(geometry).size, dense_grid(geometry).step

    assert grid(16, 32) == ((5,), (16,))
    assert grid(1, 2, 3) == ((7,), (1,))
    assert grid(90, 100, 110) == ((23,), (10,))
    assert grid(7) == ((3,), (7,))


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


# Choosing.


def layer(channels: int = 8, length: int = 60) -> dict[str, Any]:
    return {
        "x": torch.randn(2, channels, length, requires_grad=True),
        "weight": torch.randn(channels, channels, 3, requires_grad=True),
        "bias": None,
        "probability": torch.rand(2, requires_grad=True),
        "dilations": [(1,), (4,)],
    }


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "rfnext.ops.mixed_dilation_conv"]


def slow(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one implementation slower."""
    plain = functional._IMPLEMENTATIONS[name]

    def slowed(*arguments: Any) -> Tensor:
        time.sleep(0.1)
        return plain(*arguments)

    monkeypatch.setitem(functional._IMPLEMENTATIONS, name, slowed)


@pytest.mark.parametrize("fastest", IMPLEMENTATIONS)
def test_auto_picks_the_fastest_and_says_so_once(
    fastest: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in IMPLEMENTATIONS:
        if name != fastest:
            slow(name, monkeypatch)
    with caplog.at_level(logging.INFO, logger="rfnext.ops.mixed_dilation_conv"):
        for _ in range(3):
            mixed_dilation_conv(**layer())
        mixed_dilation_conv(**layer(length=62))  # between the same powers of two
        (message,) = messages(caplog)
        assert f": {fastest} (" in message
        assert "(2, 8, 60)" in message
        mixed_dilation_conv(**layer(channels=9))
        assert len(messages(caplog)) == 2


def test_auto_keeps_its_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("branches", "dense", *NATIVE):
        slow(name, monkeypatch)
    mixed_dilation_conv(**layer())
    slow("taps", monkeypatch)
    slow("taps", monkeypatch)
    start = time.perf_counter()
    mixed_dilation_conv(**layer())
    assert list(functional._chosen.values()) == ["taps"]
    assert time.perf_counter() - start < 8 * 0.1  # it was not measured again


def test_measuring_leaves_random_numbers_and_gradients_alone() -> None:
    arguments = layer()
    state = torch.get_rng_state()
    y = mixed_dilation_conv(**arguments)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(functional._chosen) == 1
    assert all(arguments[name].grad is None for name in ("x", "weight", "probability"))
    y.sum().backward()
    assert all(arguments[name].grad is not None for name in ("x", "weight", "probability"))


def test_measuring_happens_where_checkpoints_and_modes_do_not_see_it() -> None:
    """A checkpoint compares what the forward pass saved with what its repetition saves."""
    arguments = layer()
    with Products() as products:
        y = checkpoint(lambda x: mixed_dilation_conv(**{**arguments, "x": x}), arguments["x"], use_reentrant=False)
    assert len(functional._chosen) == 1
    assert products.count <= 2 * 60 * 8 * 8 * 12  # one forward pass, of at most 12 taps; measuring takes 20
    y.sum().backward()
    assert arguments["x"].grad is not None


def test_auto_works_without_gradients() -> None:
    arguments = layer()
    with torch.inference_mode():
        found = mixed_dilation_conv(**{**arguments, "x": arguments["x"].detach().clone()})
    with torch.no_grad():
        torch.testing.assert_close(found, mixed_dilation_conv(**arguments, implementation="branches"))


def test_auto_measures_nothing_when_results_must_not_depend_on_time(caplog: pytest.LogCaptureFixture) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with caplog.at_level(logging.INFO, logger="rfnext.ops.mixed_dilation_conv"):
            mixed_dilation_conv(**layer())
    finally:
        torch.use_deterministic_algorithms(False)
    assert not messages(caplog)
    assert not functional._chosen


def test_auto_works_in_function_transforms() -> None:
    arguments = layer()

    def loss(weight: Tensor) -> Tensor:
        return mixed_dilation_conv(**{**arguments, "weight": weight}).square().sum()

    found = torch.func.grad(loss)(arguments["weight"])
    (expected,) = torch.autograd.grad(loss(arguments["weight"]), arguments["weight"])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the implementations that run from now on."""
    names: list[str] = []

    def noting(name: str, plain: Any) -> Any:
        return lambda *arguments: (names.append(name), plain(*arguments))[1]

    for name in IMPLEMENTATIONS:
        monkeypatch.setitem(functional._IMPLEMENTATIONS, name, noting(name, functional._IMPLEMENTATIONS[name]))
    return names


def test_auto_can_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    names = used(monkeypatch)
    with pin_implementation("dense"):
        mixed_dilation_conv(**layer())
        with pin_implementation("branches"):
            mixed_dilation_conv(**layer())
        mixed_dilation_conv(**layer())
        mixed_dilation_conv(**layer(), implementation="taps")
    assert names == ["dense", "branches", "dense", "taps"]
    pin_implementation("taps")
    mixed_dilation_conv(**layer())
    assert names[4:] == ["taps"]
    pin_implementation(None)
    mixed_dilation_conv(**layer())
    assert len(names) > 10  # measured


def test_equal_runs_on_a_cpu_do_not_measure_unless_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "_chosen", {})
    names = used(monkeypatch)
    with reproducible(torch.device("cpu")):
        mixed_dilation_conv(**layer())
    with pin_implementation("branches"), reproducible(torch.device("cpu")):
        mixed_dilation_conv(**layer())
    assert names == [*(NATIVE or ["taps"]), "branches"]
    with pin_implementation("auto"), reproducible(torch.device("cpu")):
        mixed_dilation_conv(**layer())
    assert len(names) > 3  # measured


def test_a_pin_must_be_known() -> None:
    with pytest.raises(ValueError, match="unknown implementation 'fast'; known are auto, branches, taps, dense"):
        pin_implementation("fast")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("dense", "ok {}"), ("", "ok {(device"), ("fast", "RFNEXT_IMPLEMENTATION")],  # an empty one is as none: measured
)
def test_the_environment_can_pin(value: str, expected: str) -> None:
    code = (
        "import torch, rfnext.ops.mixed_dilation_conv as f\n"
        "f.mixed_dilation_conv(torch.ones(1, 1, 9), torch.ones(1, 1, 3), None, torch.ones(2), [(1,), (2,)])\n"
        "print('ok', f._chosen)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RFNEXT_IMPLEMENTATION": value},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in done.stdout + done.stderr


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
