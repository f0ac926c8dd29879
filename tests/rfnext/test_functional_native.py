"""The kernels for CPUs: every path through them against the definition, and what happens where they cannot be made."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

from rfnext import mixed_dilation_conv, reproducible
from rfnext.ops import mixed_dilation_conv as functional
from rfnext.ops import native as functional_native
from rfnext.ops import native_build as native_library

needs_compiler = pytest.mark.skipif(native_library.failure() is not None, reason="needs a C compiler")


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that has compiled nothing yet, with a cache folder of its own."""
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(functional, "_chosen", {})
    native_library._library.cache_clear()
    functional_native._plan.cache_clear()
    yield
    native_library._library.cache_clear()
    functional_native._plan.cache_clear()


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def arguments(
    batch: int, channels: tuple[int, int], size: tuple[int, ...], dilations: list[int], groups: int = 1
) -> list[Tensor]:
    weight = torch.randn(channels[1] * groups, channels[0], *[3] * len(size), dtype=torch.float64)
    x = torch.randn(batch, channels[0] * groups, *size, dtype=torch.float64)
    p = torch.rand(len(dilations), dtype=torch.float64)
    return [t.requires_grad_() for t in (x, weight, torch.randn(len(weight), dtype=torch.float64), p)]


def results(tensors: list[Tensor], dilations: list[int], implementation: str, **options: int) -> list[Tensor]:
    """Output and gradients."""
    axes = tensors[0].dim() - 2
    y = mixed_dilation_conv(*tensors, [(d,) * axes for d in dilations], implementation=implementation, **options)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
    return [y, *torch.autograd.grad(y, tensors, g)]


def assert_as_branches(tensors: list[Tensor], dilations: list[int], **options: int) -> None:
    found = results(tensors, dilations, "native", **options)
    torch.testing.assert_close(found, results(tensors, dilations, "branches", **options), rtol=1e-10, atol=1e-10)


SHAPES = {
    # Tiles that end within a vector, several of them, and one that spans samples.
    "long": (2, (16, 24), (1003,), [1, 60, 400]),
    "short": (7, (9, 8), (13,), [1, 2, 9]),
    "one element": (1, (8, 8), (1,), [1, 2]),
    "small images": (5, (17, 33), (7, 7), [1, 2, 3]),
    "images": (2, (8, 40), (33, 20), [1, 4]),
    "flat": (3, (8, 8), (1, 70), [1, 3]),
    "volumes": (2, (8, 9), (5, 4, 11), [1, 2]),
    # More of a product's widths than fit in one go.
    "many channels": (1, (70, 140), (40,), [2, 3]),
}


@needs_compiler
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("threads", [1, 2, 7], indirect=True)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", list(SHAPES))
def test_equals_the_definition_however_it_is_cut(name: str, stride: int) -> None:
    batch, channels, size, dilations = SHAPES[name]
    assert_as_branches(arguments(batch, channels, size, dilations), dilations, stride=stride)


DEPTHWISE = {
    "long": (3, 5, (1003,), [1, 60, 400, 2000]),
    "short": (2, 9, (3,), [1, 2]),
    "images": (2, 4, (33, 20), [1, 4]),
    # Rows of half a vector and less, columns of fewer than are summed up at a time, frames that are all zeros.
    "small images": (3, 3, (7, 7), [1, 2, 9]),
    "flat": (2, 3, (2, 70), [1, 3]),
    "volumes": (2, 6, (5, 4, 11), [1, 2]),
    "wide": (1, 3, (9, 130), [1, 2]),
}


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
def test_groups_equal_the_definition(groups: int) -> None:
    assert_as_branches(arguments(2, (8, 9), (30, 9), [1, 3], groups), [1, 3], groups=groups)


@needs_compiler
def test_a_network_of_many_branches_is_no_limit() -> None:
    dilations = list(range(1, 101))
    assert_as_branches(arguments(1, (8, 8), (300,), dilations), dilations)


@needs_compiler
@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("flags", [("-mavx2", "-mfma", "-mno-avx512f"), ("-msse2", "-mno-avx"), ("-fopenmp",)])
def test_other_processors_and_no_openmp_give_the_same(flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers of other widths and numbers are other code; the flags leave out OpenMP, too, or nothing else."""
    monkeypatch.setattr(native_library, "_TRIED", (flags,))
    if native_library.failure() is not None:
        pytest.skip(f"no compiler here for {' '.join(flags)}")
    for name in ("long", "small images", "many channels"):
        batch, channels, size, dilations = SHAPES[name]
        assert_as_branches(arguments(batch, channels, size, dilations), dilations)
    for batch, groups, size, dilations in DEPTHWISE.values():
        assert_as_branches(arguments(batch, (1, 1), size, dilations, groups), dilations, groups=groups)


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


@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("no-such-compiler", "No such file"),
        ("false", "false .*: failed with status 1"),
        ("gcc '-O2", "No closing quotation"),
        (None, "install gcc"),
    ],
)
def test_without_a_compiler_auto_does_without(
    compiler: str | None, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if compiler is None:
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setenv("PATH", "/nowhere")
    else:
        monkeypatch.setenv("CC", compiler)
    tensors = arguments(2, (8, 8), (40,), [1, 2])
    with caplog.at_level(logging.INFO, logger="rfnext"):
        results(tensors, [1, 2], "auto")
        with reproducible(torch.device("cpu")):
            found = results(tensors, [1, 2], "auto")
    assert "native" not in functional._chosen.values()
    assert len([message for message in caplog.messages if "could not be compiled" in message]) == 1
    assert torch.equal(found[0], results(tensors, [1, 2], "taps")[0])
    with pytest.raises(ValueError, match=f'"native" cannot .*{reason}.*; "auto" takes what can'):
        results(tensors, [1, 2], "native")


@needs_compiler
@pytest.mark.usefixtures("_fresh")
@pytest.mark.slow
def test_torch_compile_does_not_look_at_how_the_kernels_come_about() -> None:
    tensors = arguments(1, (8, 8), (40,), [1, 2])
    x, weight, bias, p = tensors

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(x: Tensor) -> Tensor:
        return mixed_dilation_conv(x, weight, bias, p, [(1,), (2,)])

    torch.testing.assert_close(run(x), results(tensors, [1, 2], "native")[0])


@needs_compiler
@pytest.mark.usefixtures("_fresh")
def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, logger="rfnext.ops.native_build"):
        assert_as_branches(arguments(1, (8, 8), (40,), [1, 2]), [1, 2])
    assert any("not kept for the next process" in message for message in caplog.messages)


def start(cache: Path) -> subprocess.Popen[str]:
    """A process that computes a little with the kernels and says so, and whether it compiled them."""
    code = (
        "import logging, torch, rfnext\n"
        "logging.basicConfig(level=logging.INFO, format='%(message).11s')\n"
        "x, w = torch.ones(1, 8, 40), torch.ones(8, 8, 3)\n"
        "y = rfnext.mixed_dilation_conv(x, w, None, torch.ones(2), [(1,), (2,)], implementation='native')\n"
        "print(y.sum().item())"
    )
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "RFNEXT_CACHE": str(cache)}, **options)


@needs_compiler
def test_is_compiled_once_per_machine_by_however_many_processes(tmp_path: Path) -> None:
    together = [start(tmp_path) for _ in range(3)]
    printed = [process.communicate() for process in together]
    assert {out for out, _ in printed} == {"14976.0\n"}
    (kept,) = tmp_path.iterdir()
    assert start(tmp_path).communicate() == ("14976.0\n", "")
    # A disk may lose what it was given: what is not whole is made anew, as is what others may have written.
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    assert start(tmp_path).communicate() == ("14976.0\n", "compiled by\n")
    assert kept.read_bytes() == whole
    kept.chmod(0o666)
    assert start(tmp_path).communicate() == ("14976.0\n", "compiled by\n")
    assert kept.stat().st_mode & 0o777 == 0o600


@needs_compiler
@pytest.mark.usefixtures("_fresh")
def test_a_user_without_a_home_compiles_without_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("RFNEXT_CACHE")
    monkeypatch.setattr(Path, "home", fail)
    assert native_library.failure() is None
    assert_as_branches(arguments(1, (8, 8), (40,), [1, 2]), [1, 2])


class Wrapper(Tensor):
    """A tensor whose elements lie elsewhere."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Wrapper":
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)  # type: ignore[attr-defined]

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        def bare(tree: Any) -> Any:
            return tree_map(lambda t: t.inner if isinstance(t, Wrapper) else t, tree)

        return function(*bare(arguments), **bare(options or {}))


LAYER = {"dilations": [(1,), (2,)]}


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
    torch.testing.assert_close(run(torch._neg_view(-x), weight), expected)
    assert not run(torch._efficientzerotensor(x.shape), weight).any()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert run(mode.from_tensor(x), mode.from_tensor(weight)).shape == expected.shape


@needs_compiler
@pytest.mark.parametrize("implementation", ["native", "auto"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_weight_of_another_type_than_the_input_is_an_error(implementation: str, dtype: torch.dtype) -> None:
    x, weight, p = torch.randn(2, 8, 40), torch.randn(8, 8, 3, dtype=dtype), torch.rand(2)
    with reproducible(torch.device("cpu")), pytest.raises(RuntimeError):
        mixed_dilation_conv(x, weight, None, p, **LAYER, implementation=implementation)


@needs_compiler
def test_a_default_device_elsewhere_changes_nothing() -> None:
    functional_native._plan.cache_clear()
    tensors = arguments(2, (8, 8), (40,), [1, 2])
    expected = results(tensors, [1, 2], "branches")
    torch.set_default_device("meta")
    try:
        y = mixed_dilation_conv(*tensors, [(1,), (2,)], implementation="native")
        found = torch.autograd.grad(y.square().sum(), tensors)
    finally:
        torch.set_default_device(None)
    torch.testing.assert_close(y, expected[0], rtol=1e-10, atol=1e-10)
    again = torch.autograd.grad(
        mixed_dilation_conv(*tensors, [(1,), (2,)], implementation="branches").square().sum(), tensors
    )
    torch.testing.assert_close(found, again, rtol=1e-10, atol=1e-10)


@needs_compiler
def test_many_threads_do_not_each_hold_a_gradient_of_a_large_weight() -> None:
    geometry = functional._check(
        torch.empty(32, 256, 8, 8), torch.empty(256, 256, 3, 3), None, torch.ones(2), [(1, 1), (2, 2)], 1, None, 1,
        "zeros", "native",
    )  # fmt: skip
    weight = 256 * 256 * 9
    for threads in (1, 16, 64):
        plan = functional_native._plan(32, 256, 256, geometry, torch.float32, torch.float32, threads)
        assert plan.backward[0] < 3 * weight
