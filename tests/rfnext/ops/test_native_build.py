"""Compiling the kernels for CPUs: once per machine, with other processors' flags, and where it is impossible."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rfnext import mixed_dilation_conv, reproducible
from rfnext.ops import choice, native, native_build
from tests.rfnext.ops.native_cases import DEPTHWISE, SHAPES, arguments, assert_as_branches, needs_compiler, results


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that has compiled and measured nothing yet, with a cache folder of its own."""
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    choice.forget_measurements()
    native.forget()
    yield
    choice.forget_measurements()
    native.forget()


@needs_compiler
@pytest.mark.usefixtures("_fresh")
@pytest.mark.parametrize("flags", [("-mavx2", "-mfma", "-mno-avx512f"), ("-msse2", "-mno-avx"), ("-fopenmp",)])
def test_other_processors_and_no_openmp_give_the_same(flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers of other widths and numbers are other code; the flags leave out OpenMP, too, or nothing else."""
    monkeypatch.setattr(native_build, "FLAGS_TRIED", (flags,))
    if native_build.failure() is not None:
        pytest.skip(f"no compiler here for {' '.join(flags)}")
    for name in ("long", "small images", "many channels"):
        batch, channels, size, dilations = SHAPES[name]
        assert_as_branches(arguments(batch, channels, size, dilations), dilations)
    for batch, groups, size, dilations in DEPTHWISE.values():
        assert_as_branches(arguments(batch, (1, 1), size, dilations, groups), dilations, groups=groups)


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
    (chosen,) = [record.getMessage() for record in caplog.records if record.name == "rfnext.ops.choice"]
    assert "native" not in chosen
    assert len([message for message in caplog.messages if "could not be compiled" in message]) == 1
    assert torch.equal(found[0], results(tensors, [1, 2], "taps")[0])
    with pytest.raises(ValueError, match=f'"native" cannot .*{reason}.*; "auto" takes what can'):
        results(tensors, [1, 2], "native")


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
@pytest.mark.slow
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
    assert native_build.failure() is None
    assert_as_branches(arguments(1, (8, 8), (40,), [1, 2]), [1, 2])


@needs_compiler
@pytest.mark.usefixtures("_fresh")
def test_torch_compile_does_not_trace_the_compilation() -> None:
    tensors = arguments(1, (8, 8), (40,), [1, 2])
    x, weight, bias, p = tensors

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(x: Tensor) -> Tensor:
        return mixed_dilation_conv(x, weight, bias, p, [(1,), (2,)])

    torch.testing.assert_close(run(x), results(tensors, [1, 2], "native")[0])
