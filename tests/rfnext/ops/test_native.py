"""The kernels for CPUs: every path through them against the definition."""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from rfnext import mixed_dilation_conv, reproducible
from rfnext.ops import native
from rfnext.ops.layout import channels_are_last
from rfnext.ops.mixed_dilation_conv import Given, geometry_of
from tests.rfnext.ops.native_cases import DEPTHWISE, SHAPES, arguments, assert_as_branches, needs_compiler, results


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2, 7], indirect=True)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", list(SHAPES))
def test_equals_the_definition_however_it_is_cut(name: str, stride: int) -> None:
    batch, channels, size, dilations = SHAPES[name]
    assert_as_branches(arguments(batch, channels, size, dilations), dilations, stride=stride)


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", list(DEPTHWISE))
def test_depthwise_convs_equal_the_definition(name: str, stride: int) -> None:
    batch, groups, size, dilations = DEPTHWISE[name]
    assert_as_branches(arguments(batch, (1, 1), size, dilations, groups), dilations, groups=groups, stride=stride)


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
@pytest.mark.parametrize("groups", [2, 5])
@pytest.mark.parametrize("size", [(30, 9), (6, 5)])
def test_groups_equal_the_definition(size: tuple[int, ...], groups: int) -> None:
    assert_as_branches(arguments(2, (8, 9), size, [1, 3], groups), [1, 3], groups=groups)


@needs_compiler
@pytest.mark.parametrize("size", [(9, 8), (20, 20), (5, 9, 8)])  # from 3600 elements on, torch would copy them slowly
def test_channels_last_equals_the_definition(size: tuple[int, ...]) -> None:
    tensors = arguments(2, (17, 9), size, [1, 2])
    last = [t.detach().movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 1 else t.detach() for t in tensors]
    found = results([t.requires_grad_() for t in last], [1, 2], "native")
    torch.testing.assert_close(found, results(tensors, [1, 2], "branches"), rtol=1e-10, atol=1e-10)
    assert all(channels_are_last(t) for t in found[:2])


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.detach().movedim(1, -1).contiguous().movedim(-1, 1).requires_grad_()


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 3, 7], indirect=True)
@pytest.mark.parametrize("groups", [8, 17, 48])  # a part of a vector, vectors and a part, whole vectors
@pytest.mark.parametrize("name", list(DEPTHWISE))
def test_depthwise_convs_in_channels_last_equal_the_definition(name: str, groups: int) -> None:
    batch, _, size, dilations = DEPTHWISE[name]
    tensors = arguments(batch, (1, 1), size, dilations, groups)
    last = [channels_last(tensors[0]), *tensors[1:]]
    found = results(last, dilations, "native", groups=groups)
    expected = results(tensors, dilations, "branches", groups=groups)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert all(channels_are_last(t) for t in found[:2])


@needs_compiler
@pytest.mark.parametrize("asked", [[0], [1], [2], [3], [0, 3]])
def test_single_gradients_in_channels_last_equal_the_definition(asked: list[int]) -> None:
    x, weight, bias, p = arguments(3, (1, 1), (6, 11), [1, 2], groups=9)
    padding, g = [[(2, 0), (-1, 3)], [(1, 3), (5, -1)]], torch.randn(3, 9, 6, 11, dtype=torch.float64)

    def gradients(x: Tensor, implementation: str) -> tuple[Tensor, ...]:
        options: dict[str, Any] = {"padding": padding, "groups": 9, "implementation": implementation}
        y = mixed_dilation_conv(x, weight, bias, p, [(1, 1), (2, 2)], **options)
        inputs = x, weight, bias, p
        return torch.autograd.grad(y, [inputs[i] for i in asked], g)  # which has its channels first

    expected = gradients(x, "branches")
    torch.testing.assert_close(gradients(channels_last(x), "native"), expected, rtol=1e-10, atol=1e-10)


@needs_compiler
@pytest.mark.parametrize("asked", [[0], [1], [2], [3], [0, 3], [1, 3], [0, 1]])
def test_single_gradients_of_small_images_equal_the_definition(asked: list[int]) -> None:
    tensors, g = arguments(3, (24, 17), (6, 5), [1, 2]), torch.randn(3, 17, 6, 5, dtype=torch.float64)

    def gradients(implementation: str) -> tuple[Tensor, ...]:
        y = mixed_dilation_conv(*tensors, [(1, 1), (2, 2)], implementation=implementation)
        return torch.autograd.grad(y, [tensors[i] for i in asked], g)

    torch.testing.assert_close(gradients("native"), gradients("branches"), rtol=1e-10, atol=1e-10)


@needs_compiler
def test_slices_and_expanded_gradients_in_channels_last_equal_the_definition() -> None:
    x, weight, bias, p = arguments(3, (1, 1), (6, 11), [1, 2], groups=17)
    sliced = x.detach().movedim(1, -1).contiguous()[1:2].movedim(-1, 1)  # not at the start of its memory

    def gradients(part: Tensor, implementation: str) -> tuple[Tensor, ...]:
        inputs = part.requires_grad_(), weight, bias, p
        y = mixed_dilation_conv(*inputs, [(1, 1), (2, 2)], groups=17, implementation=implementation)
        return torch.autograd.grad(y.sum(), inputs)  # of a gradient that is one number, expanded

    expected = gradients(x.detach()[1:2].contiguous(), "branches")
    torch.testing.assert_close(gradients(sliced, "native"), expected, rtol=1e-10, atol=1e-10)


@needs_compiler
def test_threads_without_work_take_no_memory_in_channels_last() -> None:
    shapes = (1, 8, 40, 40), (8, 1, 3, 3), None, (2,)
    geometry = geometry_of(Given(*shapes, ((1, 1), (2, 2)), 1, None, 8, "zeros"))
    few, many = (native._plan((1, 1, 1), geometry, True, torch.float64, threads) for threads in (8, 64))
    assert (few.forward.size, few.backward.size) == (many.forward.size, many.backward.size)


@needs_compiler
@pytest.mark.parametrize("channels", [16, 64])
def test_large_strides_take_little_scratch_space(channels: int) -> None:
    """Their few outputs of many samples fit into a tile, and the samples' inputs are stored whole."""
    x = (64, channels, 32, 32)
    geometry = geometry_of(Given(x, (channels, channels, 3, 3), None, (2,), ((1, 1), (2, 2)), 16, None, 1, "zeros"))
    plan = native._plan((64, channels, channels), geometry, False, torch.float32, 1)
    assert max(plan.forward.size, plan.backward.size) < 0.5 * math.prod(x)
    assert_as_branches(arguments(9, (channels, channels), (32, 32), [1, 2]), [1, 2], stride=16)


@needs_compiler
def test_depthwise_float32_in_channels_last_is_as_precise_as_the_reference() -> None:
    exact = arguments(8, (1, 1), (80, 80), [1, 3], groups=16)
    with torch.no_grad():
        exact[0].abs_()  # sums that grow
    rough = [channels_last(exact[0].float()), *(t.detach().float().requires_grad_() for t in exact[1:])]
    expected = results(exact, [1, 3], "branches", groups=16)
    found, reference = (results(rough, [1, 3], name, groups=16) for name in ("native", "branches"))
    for one, other, right in zip(found, reference, expected, strict=True):
        assert (one - right).norm() < 3 * (other - right).norm() + 1e-6 * right.norm()


@needs_compiler
@pytest.mark.parametrize("size", [(9, 13), (3, 5, 6), (40,)])
def test_what_is_no_number_spreads_no_further_in_channels_last(size: tuple[int, ...]) -> None:
    tensors = arguments(2, (1, 1), size, [1, 2], groups=17)
    with torch.no_grad():
        tensors[0][0, 3].view(-1)[[0, 17, -1]] = torch.tensor([torch.nan, torch.inf, torch.nan], dtype=torch.float64)
    expected = results(tensors, [1, 2], "branches", groups=17)
    last = [channels_last(tensors[0]), *tensors[1:]]
    for found, right in zip(results(last, [1, 2], "native", groups=17)[:3], expected[:3], strict=True):
        assert torch.equal(found.isfinite(), right.isfinite())


@needs_compiler
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(9, 13), (3, 5, 6), (40,)])
def test_what_is_no_number_spreads_no_further_than_by_the_definition(size: tuple[int, ...], stride: int) -> None:
    tensors = arguments(2, (70, 9), size, [1, 2])
    with torch.no_grad():
        tensors[0][0, 3].view(-1)[[0, 17, -1]] = torch.tensor([torch.nan, torch.inf, torch.nan], dtype=torch.float64)
    expected = results(tensors, [1, 2], "branches", stride=stride)
    for found, right in zip(results(tensors, [1, 2], "native", stride=stride)[:3], expected[:3], strict=True):
        assert torch.equal(found.isfinite(), right.isfinite())
        torch.testing.assert_close(found[right.isfinite()], right[right.isfinite()], rtol=1e-10, atol=1e-10)


@needs_compiler
def test_a_network_of_many_branches_is_no_limit() -> None:
    dilations = list(range(1, 101))
    assert_as_branches(arguments(1, (8, 8), (300,), dilations), dilations)


@needs_compiler
def test_equal_runs_give_equal_bits() -> None:
    tensors = arguments(5, (16, 24), (333,), [1, 4])
    first = results(tensors, [1, 4], "native")
    assert all(map(torch.equal, first, results(tensors, [1, 4], "native")))


@needs_compiler
def test_float32_is_as_precise_as_the_reference() -> None:
    exact = arguments(4, (64, 64), (1500,), [3, 50, 700])
    rough = [t.detach().float().requires_grad_() for t in exact]
    expected = results(exact, [3, 50, 700], "branches")
    for found, reference, right in zip(
        results(rough, [3, 50, 700], "native"), results(rough, [3, 50, 700], "branches"), expected, strict=True
    ):
        # The gradient of y is drawn in another precision, but from the same numbers.
        assert (found - right).norm() < 3 * (reference - right).norm() + 1e-6 * right.norm()


@needs_compiler
def test_equal_searches_use_it_and_thin_convs_go_as_in_taps() -> None:
    wide, thin = arguments(2, (8, 8), (40,), [1, 2]), arguments(2, (2, 1), (40,), [1, 2], groups=8)
    with reproducible(torch.device("cpu")):
        assert torch.equal(results(wide, [1, 2], "auto")[0], results(wide, [1, 2], "native")[0])
        assert torch.equal(results(thin, [1, 2], "auto", groups=8)[0], results(thin, [1, 2], "taps", groups=8)[0])
    assert torch.equal(results(thin, [1, 2], "native", groups=8)[0], results(thin, [1, 2], "taps", groups=8)[0])


def test_a_device_that_is_no_cpu_is_refused() -> None:
    x = torch.empty(1, 8, 20, device="meta")
    with pytest.raises(ValueError, match='"native" cannot compute this layer: it computes on CPUs, x is on meta'):
        mixed_dilation_conv(x, x.new_empty(8, 8, 3), None, x.new_empty(2), [(1,), (2,)], implementation="native")


class Wrapper(Tensor):
    """A tensor whose elements lie elsewhere."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Wrapper":
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner  # type: ignore[method-assign]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        def bare(tree: Any) -> Any:
            return tree_map(lambda t: t.inner if isinstance(t, Wrapper) else t, tree)

        return function(*bare(arguments), **bare(options or {}))


LAYER: dict[str, Any] = {"dilations": [(1,), (2,)]}


@needs_compiler
@pytest.mark.parametrize("implementation", ["native", "auto"])
def test_elements_that_lie_elsewhere_are_left_to_torch(implementation: str) -> None:
    x, weight, p = torch.randn(2, 8, 40), torch.randn(8, 8, 3), torch.rand(2)
    expected = mixed_dilation_conv(x, weight, None, p, **LAYER, implementation="taps")

    def run(x: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad(), reproducible(torch.device("cpu")):
            return mixed_dilation_conv(x, weight, None, p, **LAYER, implementation=implementation)

    torch.testing.assert_close(run(Wrapper(x), weight), expected)
    torch.testing.assert_close(run(x, Wrapper(weight)), expected)
    torch.testing.assert_close(run(torch._neg_view(-x), weight), expected)  # type: ignore[attr-defined]
    assert not run(torch._efficientzerotensor(x.shape), weight).any()  # type: ignore[attr-defined]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert run(mode.from_tensor(x), mode.from_tensor(weight)).shape == expected.shape
        assert run(x, weight).shape == expected.shape


@needs_compiler
@pytest.mark.parametrize("implementation", ["native", "auto"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_weight_of_another_type_than_the_input_is_an_error(implementation: str, dtype: torch.dtype) -> None:
    x, weight, p = torch.randn(2, 8, 40), torch.randn(8, 8, 3, dtype=dtype), torch.rand(2)
    with reproducible(torch.device("cpu")), pytest.raises(RuntimeError):
        mixed_dilation_conv(x, weight, None, p, **LAYER, implementation=implementation)


@needs_compiler
def test_hooks_that_return_other_tensors_than_were_saved_are_an_error() -> None:
    x, weight, p = torch.randn(2, 8, 40, requires_grad=True), torch.randn(8, 8, 3), torch.rand(2)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.half()):
        y = mixed_dilation_conv(x, weight, None, p, **LAYER, implementation="native")
    with pytest.raises(ValueError, match="saved tensors as they were, not of torch.float16 on cpu"):
        y.sum().backward()


@needs_compiler
@pytest.mark.parametrize("implementation", ["native", "taps"])
@pytest.mark.parametrize(
    "other",
    [
        lambda t: t[..., :1] if t.dim() == 3 else t,  # input and kernel
        lambda t: t[:1] if t.shape == (2, 8, 40) else t,  # the batch
        lambda t: t[:4] if t.shape == (8,) else t,  # the bias
        lambda t: t[:1] if t.shape == (2,) else t,  # the probabilities
    ],
)
def test_hooks_that_return_tensors_of_other_shapes_are_an_error(
    implementation: str, other: Callable[[Tensor], Tensor]
) -> None:
    x, weight, bias, p = torch.randn(2, 8, 40, requires_grad=True), torch.randn(8, 8, 3), torch.randn(8), torch.rand(2)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, other):
        y = mixed_dilation_conv(x, weight, bias, p, **LAYER, implementation=implementation)
    with pytest.raises(ValueError, match="saved tensors in their shapes"):
        y.sum().backward()


@needs_compiler
def test_the_compiled_backward_operator_refuses_a_gradient_of_another_shape() -> None:
    x, weight, p = torch.randn(2, 8, 40), torch.randn(8, 8, 3), torch.rand(2)
    lists = [1, 2], [1, 1, 2, 2], [1], 1
    with pytest.raises(ValueError, match="saved tensors in their shapes"):
        torch.ops.rfnext.native_backward(torch.randn(2, 8, 3), x, weight, None, p, *lists, [True] * 4)


@needs_compiler
@pytest.mark.parametrize(("shape", "groups"), [((8, 16, 3), 1), ((8, 8, 3), 2), ((9, 4, 3), 2)])
def test_the_compiled_operator_refuses_tensors_that_do_not_fit(shape: tuple[int, ...], groups: int) -> None:
    lists = [1, 2], [1, 1, 2, 2], [1], groups
    with pytest.raises(ValueError, match=r"do not fit each other: \(2, 8, 40\)"):
        torch.ops.rfnext.native(torch.randn(2, 8, 40), torch.randn(shape), None, torch.rand(2), *lists)


@needs_compiler
def test_a_default_device_elsewhere_changes_nothing() -> None:
    native.forget()
    tensors = arguments(2, (8, 8), (40,), [1, 2])
    expected = results(tensors, [1, 2], "branches")
    torch.set_default_device("meta")
    try:
        y = mixed_dilation_conv(*tensors, [(1,), (2,)], implementation="native")  # type: ignore[call-arg]
        found = torch.autograd.grad(y.square().sum(), tensors)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(y, expected[0], rtol=1e-10, atol=1e-10)
    again = torch.autograd.grad(
        mixed_dilation_conv(*tensors, [(1,), (2,)], implementation="branches").square().sum(),  # type: ignore[call-arg]
        tensors,  # type: ignore[call-arg]
    )
    torch.testing.assert_close(found, again, rtol=1e-10, atol=1e-10)


class Allocations(TorchDispatchMode):
    """Notes how many bytes new tensors have."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("new_empty", "empty", "empty_like"):
            self.bytes.append(out.nbytes)
        return out


@needs_compiler
@pytest.mark.parametrize("threads", [1, 16, 64], indirect=True)
def test_many_threads_do_not_each_hold_a_gradient_of_a_large_weight(threads: int) -> None:
    x, weight = torch.randn(2, 256, 8, 8), torch.randn(256, 256, 3, 3, requires_grad=True)

    def allocated() -> list[int]:
        y = mixed_dilation_conv(x, weight, None, torch.ones(2), [(1, 1), (2, 2)], implementation="native")
        with Allocations() as allocations:
            torch.autograd.grad(y, weight, torch.ones_like(y))
        return allocations.bytes

    with ThreadPoolExecutor(1) as fresh:  # a thread keeps its scratch space for the next call
        found = fresh.submit(allocated).result()
    assert weight.nbytes <= max(found) < (3 + threads / 2) * weight.nbytes


@needs_compiler
def test_a_thread_keeps_its_scratch_space_for_the_next_call() -> None:
    x = torch.randn(2, 8, 16, 16)

    def twice() -> list[list[int]]:
        found = []
        for _ in range(2):
            with Allocations() as allocations:
                mixed_dilation_conv(
                    x, torch.ones(8, 8, 3, 3), None, torch.ones(2), [(1, 1), (2, 2)], implementation="native"
                )
            found.append(allocations.bytes)
        return found

    with ThreadPoolExecutor(1) as fresh:
        first, second = fresh.submit(twice).result()
    assert len(first) == len(second) + 1
