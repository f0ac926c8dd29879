"""The Triton kernels against the definition: on a GPU where there is one, and in Triton's interpreter on any machine.

The interpreter must be switched on before anything imports triton, so a test here runs this file once more, in a
process of its own with TRITON_INTERPRET=1.
"""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rfnext import mixed_dilation_conv, pin_implementation
from rfnext.ops import choice

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"

TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
"""Largest error allowed, relative to the norm of what is expected."""

on_device = (lambda test: test) if INTERPRETED else pytest.mark.gpu


@pytest.fixture(autouse=True)
def _in_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFloat-32 off, for the kernels as for torch."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    choice.forget_measurements(kept=False)  # those of the CPU are the user's


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
def test_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).resolve())],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (passed,) = re.findall(r"(\d+) passed", done.stdout)
    assert int(passed) > 20


def assert_equal(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    dilations: list[tuple[int, ...]],
    *,
    batch: int = 2,
    channels: tuple[int, int] = (5, 7),
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    bias: bool = True,
    **options: Any,
) -> None:
    """Outputs and all gradients agree with the reference in float64; a pair of equal channels is depthwise."""
    channel_in, channel_out = channels
    shapes = [(batch, channel_in, *size), (channel_out, channel_in // options.get("groups", 1), *kernel)]
    shapes += [(channel_out,)] if bias else []
    tensors = [torch.randn(shape).to(DEVICE, dtype) for shape in shapes]
    if channels_last:
        tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    # Probabilities stay in full precision, as in SearchConv.
    tensors.append(torch.rand(len(dilations)).to(DEVICE) + 0.1)
    tensors = [t.requires_grad_() for t in tensors]
    exact = [t.detach().double().requires_grad_() for t in tensors]

    def call(implementation: str, x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        *b, probability = rest
        return mixed_dilation_conv(
            x, weight, b[0] if b else None, probability, dilations, implementation=implementation, **options
        )

    found, expected = call("triton", *tensors), call("branches", *exact)
    assert found.dtype == dtype
    assert found.shape == expected.shape
    if channels_last:
        assert found.is_contiguous(memory_format=torch.channels_last)
    g = torch.randn(expected.shape).to(DEVICE, dtype)
    gradients = torch.autograd.grad(found, tensors, g)
    wanted = torch.autograd.grad(expected, exact, g.double())
    names = ["y", "x", "weight", *(["bias"] if bias else []), "probability"]
    for name, one, other in zip(names, (found, *gradients), (expected, *wanted), strict=True):
        assert (one.double() - other).norm() <= TOLERANCE[dtype] * other.norm() + 1e-7, name


DTYPES = [torch.float32, torch.float16] + ([] if INTERPRETED else [torch.bfloat16])


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [(1, 1), (20, 33)])
def test_dense_1d(channels: tuple[int, int], dtype: torch.dtype) -> None:
    assert_equal((30,), (3,), [(1,), (4,), (9,)], channels=channels, dtype=dtype)


@on_device
@pytest.mark.parametrize("channels", [(1, 1), (20, 33)])
def test_causal(channels: tuple[int, int]) -> None:
    """All of the padding before, by more than the input, and one branch that crops."""
    assert_equal((30,), (3,), [(1,), (4,), (19,)], channels=channels, padding=[[(2, 0)], [(8, 0)], [(38, 0)]])
    padding = [[(1, 1), (-1, 0)], [(2, 2), (1, 0)]]  # of (frequency, time)
    assert_equal((5, 9), (3, 2), [(1, 2), (2, 4)], channels=channels, padding=padding)


@on_device
def test_more_channels_than_a_tile_has() -> None:
    assert_equal((9,), (2,), [(1,), (4,)], channels=(70, 130), padding=[[(1, 0)], [(2, 2)]])


@on_device
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_2d(dtype: torch.dtype) -> None:
    assert_equal((5, 7), (3, 3), [(1, 1), (2, 3)], channels=(17, 18), dtype=dtype)


@on_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(150,), (7, 9)])
def test_depthwise(size: tuple[int, ...], dtype: torch.dtype) -> None:
    dilations = [(d,) * len(size) for d in (1, 2, 4)]
    assert_equal(size, (3,) * len(size), dilations, channels=(9, 9), groups=9, dtype=dtype)


@on_device
@pytest.mark.parametrize("groups", [1, 20])
def test_channels_last(groups: int) -> None:
    assert_equal((6, 7), (3, 3), [(1, 1), (3, 2)], channels=(20, 20), groups=groups, channels_last=True)


@on_device
@settings(max_examples=12)
@given(data=st.data())
def test_random_shapes(data: st.DataObject) -> None:
    """Stride, uneven and negative padding, dilations beyond the input, padding modes."""
    axes = data.draw(st.integers(1, 2))

    def per_axis(values: st.SearchStrategy[int]) -> tuple[int, ...]:
        return tuple(data.draw(values) for _ in range(axes))

    kernel, shift = per_axis(st.sampled_from([1, 2, 3])), data.draw(st.integers(-1, 1))
    dilations = data.draw(st.lists(st.tuples(*[st.sampled_from([1, 2, 3, 11])] * axes), min_size=2, max_size=4))
    padding = [
        [
            (d * (k - 1) // 2 + shift, d * (k - 1) - d * (k - 1) // 2 - shift)
            for d, k in zip(dilation, kernel, strict=True)
        ]
        for dilation in dilations
    ]
    channels, groups = data.draw(st.sampled_from([((5, 7), 1), ((16, 20), 1), ((6, 6), 6)]))
    assert_equal(
        per_axis(st.integers(2, 8)),
        kernel,
        dilations,
        batch=data.draw(st.integers(1, 3)),
        channels=channels,
        groups=groups,
        stride=per_axis(st.integers(1, 3)),
        padding=padding,
        bias=data.draw(st.booleans()),
        padding_mode=data.draw(st.sampled_from(["zeros", "zeros", "reflect", "circular"])),
    )


@on_device
def test_many_positions_are_summed_in_slices() -> None:
    assert_equal((280,), (2,), [(3,), (100,)], channels=(4, 4), padding=[[(1, 2)], [(50, 50)]], batch=2)
    assert_equal((520,), (2,), [(3,), (100,)], channels=(4, 4), padding=[[(1, 2)], [(50, 50)]], batch=2, groups=4)


@on_device
@pytest.mark.parametrize("wanted", range(4), ids=["x", "weight", "bias", "probability"])
@pytest.mark.parametrize("groups", [1, 4])
def test_each_gradient_alone(groups: int, wanted: int) -> None:
    shapes = [(2, 4, 20), (4, 4 // groups, 3), (4,), (2,)]
    tensors = [torch.randn(shape, device=DEVICE).requires_grad_(i == wanted) for i, shape in enumerate(shapes)]
    found, expected = (
        torch.autograd.grad(
            mixed_dilation_conv(
                *tensors, dilations=[(1,), (5,)], groups=groups, implementation=implementation
            ).square().sum(),
            tensors[wanted],
        )
        for implementation in ("triton", "branches")
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@on_device
def test_autocast() -> None:
    x, weight, p = torch.randn(2, 8, 30), torch.randn(8, 8, 3), torch.rand(2)
    tensors = [t.to(DEVICE).requires_grad_() for t in (x, weight, p)]
    with torch.autocast(DEVICE, torch.float16):
        y = mixed_dilation_conv(tensors[0], tensors[1], None, tensors[2], [(1,), (4,)], implementation="triton")
    assert y.dtype == torch.float16
    assert all(grad.dtype == torch.float32 for grad in torch.autograd.grad(y.float().square().sum(), tensors))


@on_device
def test_a_second_derivative_is_that_of_the_reference() -> None:
    shapes = [(1, 2, 9), (2, 2, 3), (2,), (2,)]
    tensors = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in shapes]

    def second(implementation: str) -> tuple[Tensor, ...]:
        y = mixed_dilation_conv(*tensors, dilations=[(1,), (2,)], implementation=implementation)
        first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in first), tensors)

    for one, other in zip(second("triton"), second("branches"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@on_device
def test_an_empty_batch_and_a_gradient_without_memory_of_its_own() -> None:
    weight, p = torch.randn(8, 8, 3, device=DEVICE, requires_grad=True), torch.rand(2, device=DEVICE)
    arguments: dict[str, Any] = {"dilations": [(1,), (2,)], "implementation": "triton"}
    for batch in (0, 2):
        x = torch.randn(batch, 8, 20, device=DEVICE)
        y = mixed_dilation_conv(x, weight, None, p, **arguments)
        (found,) = torch.autograd.grad(y.sum(), weight)
        y = mixed_dilation_conv(x, weight, None, p, **{**arguments, "implementation": "branches"})
        torch.testing.assert_close(found, torch.autograd.grad(y.sum(), weight)[0], rtol=1e-4, atol=1e-4)


@on_device
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiles_into_one_graph() -> None:
    def call(*tensors: Tensor) -> Tensor:
        return mixed_dilation_conv(*tensors, dilations=[(1,), (4,)], implementation="triton")

    tensors = [torch.randn(shape, device=DEVICE, requires_grad=True) for shape in [(2, 8, 30), (8, 8, 3), (8,), (2,)]]
    found = torch.compile(call, backend="aot_eager", fullgraph=True)(*tensors)
    expected = call(*tensors)
    torch.testing.assert_close(found, expected)
    for one, other in zip(*(torch.autograd.grad(y.sum(), tensors) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other)


@on_device
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x": torch.zeros(1, 4, 9).double(), "weight": torch.zeros(4, 4, 3).double()},
            "float32, bfloat16 or float16, not in torch.float64",
        ),
        ({"weight": torch.zeros(4, 2, 3), "groups": 2}, "groups=1 and depthwise convs, not groups=2"),
        (
            {
                "x": torch.zeros(1, 4, 9, 9, 9),
                "weight": torch.zeros(4, 4, 3, 3, 3),
                "dilations": [(1, 1, 1), (2, 2, 2)],
            },
            "one and two spatial axes",
        ),
    ],
    ids=["float64", "grouped", "3-d"],
)
def test_what_the_kernels_cannot_compute_is_refused(change: dict[str, Any], message: str) -> None:
    arguments = {"x": torch.zeros(1, 4, 9), "weight": torch.zeros(4, 4, 3), "bias": None, "probability": torch.ones(2)}
    arguments = {**arguments, "dilations": [(1,), (2,)], **change}
    arguments = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in arguments.items()}
    with pytest.raises(ValueError, match=message):
        mixed_dilation_conv(**arguments, implementation="triton")
    mixed_dilation_conv(**arguments)  # "auto" takes another one


@pytest.mark.gpu
def test_a_round_of_the_search_compiles_nothing() -> None:
    import triton

    x, weight, p = torch.randn(2, 32, 64).cuda(), torch.randn(32, 32, 3).cuda(), torch.rand(3).cuda()

    def step(*dilations: int) -> None:
        tensors = [t.requires_grad_() for t in (x, weight, p)]
        y = mixed_dilation_conv(x, weight, None, p, [(d,) for d in dilations], implementation="triton")
        torch.autograd.grad(y.sum(), tensors)

    step(1, 2, 3)
    compiled: list[str] = []
    hook, triton.knobs.runtime.jit_post_compile_hook = (
        triton.knobs.runtime.jit_post_compile_hook,
        lambda **k: compiled.append(k["repr"]),
    )
    try:
        for start in range(1, 40):
            step(start, start + 1, 2 * start + 1)
    finally:
        triton.knobs.runtime.jit_post_compile_hook = hook
    assert not compiled


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups", [1, 128])
def test_layers_of_real_size(groups: int, dtype: torch.dtype) -> None:
    assert_equal((2000,), (3,), [(90,), (100,), (110,)], batch=8, channels=(128, 128), groups=groups, dtype=dtype)
    assert_equal((56, 56), (3, 3), [(1, 1), (2, 2)], batch=4, channels=(128, 128), groups=groups, dtype=dtype)


@pytest.mark.gpu
def test_auto_measures_the_kernels_too(caplog: pytest.LogCaptureFixture) -> None:
    x, weight, p = torch.randn(2, 32, 64).cuda(), torch.randn(32, 32, 3).cuda(), torch.rand(2).cuda()
    with caplog.at_level(logging.INFO, logger="rfnext.ops.choice"), pin_implementation("auto"):
        mixed_dilation_conv(x, weight, None, p, [(1,), (3,)])
    assert "triton" in caplog.text


# Without a GPU.


@pytest.mark.skipif(INTERPRETED, reason="the interpreter computes on CPUs")
def test_a_cpu_is_refused_and_auto_does_not_consider_it(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("triton")
    x, weight, p = torch.randn(2, 8, 30), torch.randn(8, 8, 3), torch.rand(2)
    with pytest.raises(ValueError, match="it needs a CUDA device, x is on cpu"):
        mixed_dilation_conv(x, weight, None, p, [(1,), (3,)], implementation="triton")
    with caplog.at_level(logging.INFO, logger="rfnext.ops.choice"), pin_implementation("auto"):
        mixed_dilation_conv(x, weight, None, p, [(1,), (3,)])
    assert "triton" not in caplog.text


def test_without_the_package_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("triton", "triton_kernels"):
        monkeypatch.delitem(sys.modules, f"rfnext.ops.{name}", raising=False)
    monkeypatch.delattr("rfnext.ops.triton", raising=False)
    x, weight, p = torch.randn(2, 8, 30), torch.randn(8, 8, 3), torch.rand(2)
    with pytest.raises(ValueError, match="needs a CUDA device and the package triton, which is not installed"):
        mixed_dilation_conv(x, weight, None, p, [(1,), (3,)], implementation="triton")


@pytest.mark.skipif(INTERPRETED, reason="failing kernels are those of a GPU")
def test_auto_survives_kernels_that_fail(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As where there is no C compiler, which Triton needs to launch anything."""

    def fail(*arguments: Any) -> Tensor:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setitem(choice.IMPLEMENTATIONS, "triton", fail)
    monkeypatch.setattr(choice, "triton_is_for", lambda *arguments: True)
    monkeypatch.setattr(choice.kept_choices, "read", dict)  # what an earlier run has kept
    monkeypatch.setattr(choice.kept_choices, "keep", lambda *arguments: None)
    x, weight, p = torch.randn(2, 8, 30), torch.randn(8, 8, 3), torch.rand(2)
    with caplog.at_level(logging.INFO, logger="rfnext.ops.choice"), pin_implementation("auto"):
        found = mixed_dilation_conv(x, weight, None, p, [(1,), (3,)])
    assert caplog.text.count("auto works without triton") == 1
    torch.testing.assert_close(
        found, mixed_dilation_conv(x, weight, None, p, [(1,), (3,)], implementation="branches"), rtol=1e-4, atol=1e-4
    )


KERNELS = {
    "dense_kernel": "x_column y_column weight_in",
    "dense_weight_kernel": "x_column g_column",
    "dense_probability_kernel": "x_column g_column weight_in",
    "depthwise_kernel": "x_column y_column",
    "depthwise_gradient_kernel": "x_column g_column",
}
"""And the strides that are 1 in contiguous tensors."""


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", list(KERNELS))
def test_kernels_compile_for_gpus_that_are_not_here(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the interpreter lets pass, a compiler may not: to machine code for compute capability 8.0."""
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is unset
    pytest.importorskip("triton")
    if sys.platform != "linux":
        pytest.skip("Triton's compilers come for Linux")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from rfnext.ops import triton_kernels

    values = {"MUL_H": 1, "MUL_W": 2, "DIV_H": 1, "DIV_W": 2, "BRANCHES": 3, "HAS_BIAS": True, "PRECISION": "ieee"}
    values |= {"BLOCK_OUT": 32, "BLOCK_IN": 32, "BLOCK_POSITION": 32, "BLOCK_CHANNEL": 4, "BLOCK_BRANCH": 4}
    kernel = getattr(triton_kernels, name)
    types = dict.fromkeys(("x", "weight", "bias", "y", "g"), f"*{dtype}")
    types |= {"probability": "*fp32", "slices": "*fp32", "parts": "*fp32", "shifts": "*i32"}
    ones = KERNELS[name].split()
    fixed = {p.name: values[p.name] for p in kernel.params if p.is_constexpr} | dict.fromkeys(ones, 1)
    signature = {p.name: "constexpr" if p.name in fixed else types.get(p.name, "i32") for p in kernel.params}
    source = ASTSource(kernel, signature, fixed)
    compiled = compile(source, target=GPUTarget("cuda", 80, 32), options={"num_stages": 1})
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= 48 * 1024
