"""What a record says of the machine: what computes, in which versions, at which commit."""

import gc
import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tasks
from benchmarks.records import machine
from benchmarks.records.machine import (
    PeakMemory,
    code,
    commit,
    count_gpus,
    describe_device,
    device_name,
    implementation,
    sources,
    versions,
)
from benchmarks.records.places import ROOT
from rfnext.ops import native_build
from tasks.spec import device_of


def test_what_a_plan_says_of_the_device_is_what_records_say() -> None:
    """A plan asks without torch, where that is possible."""
    ask = "from benchmarks.records import machine; print(machine.count_gpus(), machine.device_name())"
    asked = subprocess.run([sys.executable, "-c", ask], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    here = describe_device(device_of("auto"))["name"]
    assert asked == f"{torch.cuda.device_count()} {here}\n"
    assert (count_gpus(), device_name()) == (torch.cuda.device_count(), here)


def test_the_device_is_named_with_what_decides_the_digits() -> None:
    device = describe_device(device_of("cpu"))
    assert device["type"] == "cpu"
    assert device["name"]
    assert device["threads"] == torch.get_num_threads()
    assert device["native_kernels"] is (native_build.failure() is None)
    assert device["implementation"] == "auto"


def test_searched_convs_that_are_computed_otherwise_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert implementation(cpu)["native_kernels"] is (native_build.failure() is None)
    monkeypatch.setenv("RFNEXT_IMPLEMENTATION", "branches")
    assert implementation(cpu)["implementation"] == "branches"
    monkeypatch.delenv("RFNEXT_IMPLEMENTATION")
    monkeypatch.setattr(native_build, "failure", lambda: "no C compiler")
    assert implementation(cpu) == {"native_kernels": False, "implementation": "auto"}
    assert implementation(gpu) == implementation(cpu)  # there the kernels play no part


def test_versions_are_those_that_are_installed() -> None:
    found = versions()
    assert {"python", "torch", "rfnext", "lightning", "numpy", "mmdet", "librosa"} <= set(found)
    assert found["torch"] == importlib.metadata.version("torch")
    assert found["python"] == platform.python_version()


def test_code_that_was_shipped_without_git_knows_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RFNEXT_COMMIT", "abc+dirty")
    assert commit() == "abc+dirty"


def test_code_is_told_apart_by_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tasks, "__file__", str(tmp_path / "tasks" / "__init__.py"))
    task = tmp_path / "tasks" / "mine" / "task.py"  # which git does not know
    task.parent.mkdir(parents=True)
    task.parent.with_name("mine_too").mkdir()
    seen = []
    for source in ("x = 1", "x = 2", "x = 1"):  # a file that is written again is newer, and the same
        task.write_text(source)
        sources.cache_clear()
        seen.append((code(), code("tasks/mine"), code("rfnext")))
    sources.cache_clear()
    assert seen[0] == seen[2]
    assert [one == other for one, other in zip(*seen[:2], strict=True)] == [False, False, True]
    task.with_suffix(".md").write_text("no code")
    (task.parent.with_name("mine_too") / "task.py").write_text("x = 3")
    assert code("tasks/mine") == seen[0][1]
    assert code() != seen[0][0]
    before = code()
    task.write_text("x = 2")
    assert code() == before  # of this process, which has loaded it
    sources.cache_clear()


def test_peak_memory_is_that_since_the_start() -> None:
    gc.collect()  # what earlier tests left would hide the block if it were freed between the readings
    memory = PeakMemory("cpu")
    if memory.measure is None:
        pytest.skip("the system does not allow resetting its counter")
    before = memory.read()
    block = torch.ones(2**26)  # 256 MiB
    after = memory.read()
    assert before is not None
    assert after is not None
    assert after > before + 200
    del block
    fresh = PeakMemory("cpu").read()
    assert fresh is not None
    assert fresh < after - 200


def test_a_driver_is_found_where_its_library_is_not(tmp_path: Path) -> None:
    """Some distributions give torch a path of its own to the library."""
    script = "from benchmarks.records import machine; machine.DRIVERS = sys.argv[1:]; machine.count_gpus()"
    for driver, asked in ((tmp_path, "True"), (tmp_path / "none", str(machine._has_driver()))):
        line = [sys.executable, "-c", f"import sys; {script}; print('torch' in sys.modules)", str(driver)]
        assert subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout == f"{asked}\n"
