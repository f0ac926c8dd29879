"""Compiling the kernels for CPUs: once per machine, with other processors' flags, and where it is impossible."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rfnext import mixed_dilation_conv, reproducible
from rfnext.ops import choice, native, native_build
from tests import python_processes
from tests.rfnext.ops.native_cases import DEPTHWISE, SHAPES, arguments, assert_as_branches, needs_compiler, results


@pytest.fixture
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that has compiled and measured nothing yet, with folders of its own."""
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    native.forget()
    choice.forget_measurements(kept=False)  # nothing is kept in the new folders yet
    yield
    choice.forget_measurements(kept=False)
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


@pytest.fixture
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile in a fraction of the time, what is slower to run."""
    monkeypatch.setattr(native_build, "FLAGS_TRIED", (("-O0",),))


def new_process(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Use the kernels as a new process does, and return what it logs, without the places."""
    native.forget()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="rfnext.ops"):
        assert_as_branches(arguments(1, (8, 8), (40,), [1, 2]), [1, 2])
    return caplog.messages


def in_folder(folder: Path) -> list[str]:
    """Kinds of files in a folder."""
    return sorted(path.suffix or path.name for path in folder.iterdir())


@needs_compiler
@pytest.mark.usefixtures("_fresh", "_quickly")
def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder beside temporary files then keeps the library."""
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "file"))
    assert any("no place for compiled kernels" in message for message in new_process(caplog))
    assert in_folder(tmp_path / "tmp" / f"rfnext-{os.geteuid()}") == [".so", "lock"]
    assert not any("compiled by" in message for message in new_process(caplog))


@needs_compiler
@pytest.mark.usefixtures("_fresh", "_quickly")
def test_a_cache_folder_that_others_can_write_is_named_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

    new_process(caplog)
    assert not warnings()
    cache = tmp_path / "cache"
    cache.chmod(0o777)
    for library in (cache / "native").glob("*.so"):
        library.write_bytes(b"another one")
    assert any("compiled by" in message for message in new_process(caplog))
    (warning,) = warnings()
    assert f"other users can write {cache}" in warning
    assert "chmod go-w" in warning
    assert "RFNEXT_CACHE" in warning
    # It is kept elsewhere, unless others can write there, too.
    assert not any("compiled by" in message for message in new_process(caplog))
    (tmp_path / "tmp" / f"rfnext-{os.geteuid()}").chmod(0o777)
    assert any("compiled by" in message for message in new_process(caplog))
    assert len(warnings()) == 2
    assert in_folder(tmp_path / "tmp") == [f"rfnext-{os.geteuid()}"]


@needs_compiler
@pytest.mark.usefixtures("_fresh", "_quickly")
def test_what_is_not_whole_or_others_may_have_written_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    new_process(caplog)
    folder = tmp_path / "cache" / "native"
    (kept,) = folder.glob("*.so")
    whole = kept.read_bytes()
    # Of another version, processor, compiler or user.
    name, _, content = kept.stem.rpartition("-")
    older = kept.with_name(f"{name[:-4]}0000-{content}.so")
    older.write_bytes(b"old")
    assert not any("compiled by" in message for message in new_process(caplog))

    def cut() -> None:
        kept.write_bytes(whole[: len(whole) // 2])

    def foreign() -> None:
        kept.write_bytes(Path(sys.executable).resolve().read_bytes())

    for spoil in (cut, foreign, lambda: kept.chmod(0o666)):
        spoil()
        assert any("compiled by" in message for message in new_process(caplog))
        assert kept.read_bytes() == whole
        assert kept.stat().st_mode & 0o777 == 0o600
    assert older.read_bytes() == b"old"


FIRST_USES = """
import json, logging, os, sys
import torch
import rfnext
from rfnext.ops import native_build

native_build.SECONDS, processes = float(sys.argv[1]), int(sys.argv[2])
logging.basicConfig(format="%(levelname)s", stream=sys.stdout)


def use():
    x, w = torch.ones(1, 8, 40), torch.ones(8, 8, 3)
    with rfnext.reproducible(x.device):
        y = rfnext.mixed_dilation_conv(x, w, None, torch.ones(2), [(1,), (2,)])
    return y.sum().item(), native_build.failure()


parts = []
start, begin = os.pipe()
for _ in range(processes):
    read, write = os.pipe()
    if not os.fork():
        os.close(begin)
        os.read(start, 1)  # until all are there
        os.write(write, json.dumps(use()).encode())
        os._exit(0)
    os.close(write)
    parts.append(read)
os.close(begin)
for read in parts:
    print(open(read).read())
"""
"""So many processes use the kernels for the first time at the same moment."""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Make gcc log its starts and, if there is a file `hang`, not come to an end; the function returns what it started.

    The processes of these numbers are those that a hanging gcc has started itself.
    """
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    script, log = tmp_path / "compiler", tmp_path / "log"
    hang = f'echo half >"$TMPDIR/half.s"; sleep 600 & echo $! >>"{log}"; wait; exit 1'
    script.write_text(f'#!/bin/sh\n[ -e "{tmp_path}/hang" ] && {{ {hang}; }}\necho 0 >>"{log}"\nexec gcc "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return lambda: [int(line) for line in log.read_text().split()] if log.exists() else []


def is_alive(process: int) -> bool:
    """Whether a process runs: neither gone, nor only not yet collected."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def first_uses(number: int, seconds: float) -> tuple[list[tuple[float, str | None]], list[str]]:
    """Results and failures of so many processes at once, and the levels of what they log."""
    command = [sys.executable, "-c", FIRST_USES, str(seconds), str(number)]
    lines = python_processes.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    logged = [line for line in lines if line.isupper()]
    return [tuple(json.loads(line)) for line in lines if line and line not in logged], logged


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("_fresh")
def test_of_twenty_first_uses_one_compiles(compiler: Callable[[], list[int]], tmp_path: Path) -> None:
    found, logged = first_uses(20, 120)
    assert found == [(14976.0, None)] * 20
    assert not logged
    assert compiler() == [0]
    assert in_folder(tmp_path / "cache" / "native") == [".so", "lock"]


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("_fresh")
def test_a_compiler_that_hangs_is_waited_for_once(
    compiler: Callable[[], list[int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hang").touch()
    found, logged = first_uses(8, 4)
    (started,) = compiler()
    assert not is_alive(started)
    assert [result for result, _ in found] == [14976.0] * 8
    assert all(reason and "took more than 4 seconds" in reason for _, reason in found)
    assert logged == ["WARNING"] * 8
    # Nobody tries again for a while, and says how to.
    assert (native_build.failure() or "").endswith(".txt is gone")
    assert len(compiler()) == 1
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "slower, and rounded otherwise" in warning.getMessage()
    (note,) = (tmp_path / "cache" / "native").glob("*.txt")
    (tmp_path / "hang").unlink()
    os.utime(note, (time.time() - 3600,) * 2)
    native.forget()
    assert native_build.failure() is None
    assert in_folder(note.parent) == [".so", ".txt", "lock"]


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("_fresh", "_quickly")
def test_after_a_killed_compilation_the_next_process_compiles_and_sweeps(
    compiler: Callable[[], list[int]], tmp_path: Path
) -> None:
    (tmp_path / "hang").touch()
    code = "from rfnext.ops import native_build; native_build.failure()"
    with python_processes.Popen([sys.executable, "-c", code]) as process:
        end = time.monotonic() + 60
        while not compiler() and time.monotonic() < end:
            time.sleep(0.05)
        process.kill()
    (started,) = compiler()
    os.kill(started, signal.SIGKILL)  # nobody else ends it
    folder = tmp_path / "cache" / "native"
    assert [path.name for path in folder.glob("building-*/*.s")] == ["half.s"]
    (tmp_path / "hang").unlink()
    start = time.monotonic()
    assert native_build.failure() is None
    assert time.monotonic() - start < 60
    assert in_folder(folder) == [".so", "lock"]


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.usefixtures("_fresh")
def test_a_full_disk_is_no_obstacle(compiler: Callable[[], list[int]], tmp_path: Path) -> None:
    """A file system of a few pages that this process alone sees holds the lock, and no library."""
    cache = tmp_path / "cache"
    cache.mkdir()
    code = f"{sys.executable} -c 'from rfnext.ops import native_build; print(native_build.failure())'"
    mounted = f"mount -t tmpfs -o size=32k,mode=700 none {cache} && echo mounted && {code} && ls {cache}/native"
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", mounted]
    if shutil.which("unshare") is None:
        pytest.skip("nothing can be mounted here")
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout
    if "mounted" not in out:
        pytest.skip("nothing can be mounted here")
    assert out.split() == ["mounted", "None", "lock"]
    assert compiler() == [0, 0]
    assert in_folder(tmp_path / "tmp" / f"rfnext-{os.geteuid()}") == [".so", "lock"]


@needs_compiler
@pytest.mark.usefixtures("_fresh", "_quickly")
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
