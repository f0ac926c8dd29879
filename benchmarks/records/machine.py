"""The machine: what computes here, in which versions, at which commit, and how much memory it takes."""

import contextlib
import ctypes
import functools
import gc
import hashlib
import importlib.metadata
import logging
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import benchmarks
import rfnext
import tasks
from benchmarks.records.places import ROOT
from rfnext.ops import native_build

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

DECIDING = (
    *("torch", "lightning", "numpy", "scipy", "seglearn"),
    *("mmdet", "mmengine", "mmcv-lite", "mmcv", "mmpretrain", "pycocotools", "torchvision", "timm"),
    *("librosa", "soundfile", "auraloss", "pystoi", "G722", "espeakng-loader", "DCLS"),
)
"""Packages whose version may change a result of some task."""

SHIPPED_COMMIT = "RFNEXT_COMMIT"
"""Environment variable: the commit of code that was sent to another machine without its git history."""


def count_gpus() -> int:
    """GPUs that torch can use. Where there is no driver it is not imported to say that there are none."""
    if "torch" not in sys.modules and sys.platform == "linux" and not _has_driver():
        return 0
    import torch

    return torch.cuda.device_count()


DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Of NVIDIA, of AMD, and of either in WSL."""


def _has_driver() -> bool:
    """Whether Linux has a driver that torch's builds for GPUs ask. Its library may be where only torch looks."""
    if any(Path(driver).exists() for driver in DRIVERS):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def device_name() -> str:
    """The name of the device "auto": of the first GPU, or of the CPU."""
    if count_gpus():
        import torch

        return torch.cuda.get_device_name(0)
    return _cpu_name()


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


def describe_device(device: "torch.device") -> dict[str, Any]:
    """Type and name of the device that computes, torch's threads on the host, and what computes searched convs.

    That is what implementation="auto" means in this process, and whether there are native kernels (on CPUs). Threads
    and implementation decide how sums are rounded, and so the digits of a result.
    """
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {"type": device.type, "name": name, "threads": torch.get_num_threads(), **implementation(device)}


def implementation(device: "torch.device") -> dict[str, Any]:
    """The part of `describe_device` that says what computes searched convs; a training continues only by the same."""
    native = device.type == "cpu" and native_build.failure() is None
    return {"native_kernels": native, "implementation": os.environ.get("RFNEXT_IMPLEMENTATION") or "auto"}


def versions() -> dict[str, str | None]:
    """Versions of the packages that decide a result; None where one is not installed as a package."""
    found: dict[str, str | None] = {"python": platform.python_version(), "rfnext": rfnext.__version__}
    for name in DECIDING:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """This repository's commit, "+dirty" if tracked files outside results/ differ; None outside of git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    if shipped := os.environ.get(SHIPPED_COMMIT):
        return shipped
    try:
        head = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+dirty" if changed else "")


@functools.cache
def sources() -> dict[str, str]:
    """Digest of each source file of the library, the tasks and the runner, as this process first found it."""
    packages = (Path(module.__file__ or "").parent for module in (rfnext, tasks, benchmarks))  # Ray unpacks each alone
    return {
        f"{package.name}/{path.relative_to(package).as_posix()}": hashlib.sha256(path.read_bytes()).hexdigest()
        for package in packages
        for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".c"))
    }


def code(folder: str = "") -> str:
    """16 hex digits of all sources, or of those in one folder, such as "tasks/tts_vocoder".

    They tell what a commit does not: changes that are not committed, files that git does not know, no git at all. Times
    of files tell less: a clone, a checkout and a worker of a cluster have new ones.
    """
    found = sources().items()
    lines = "".join(f"{name} {content}\n" for name, content in found if not folder or name.startswith(f"{folder}/"))
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


class PeakMemory:
    """Peak memory from construction to `read`, in MiB: of the GPU if it computes there, else of this process.

    The process's figure is the resident set as Linux counts it (VmHWM), interpreter and libraries included.
    """

    def __init__(self, device: str) -> None:
        import torch

        self.measure: Literal["cuda", "resident"] | None = None
        if torch.cuda.is_available() and device != "cpu":
            gc.collect()  # what earlier trainings left in reference cycles is not this one's
            self.device = torch.device("cuda" if device == "auto" else device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.measure = "cuda"
        elif sys.platform == "linux":
            try:
                with open("/proc/self/clear_refs", "w") as file:
                    file.write("5")  # resets VmHWM, see proc(5)
                self.measure = "resident"
            except OSError:
                log.info("peak memory is not measured: the system does not allow resetting its counter")

    def read(self) -> float | None:
        """The peak so far; None where it cannot be measured."""
        if self.measure == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self.measure == "resident":
            status = Path(f"/proc/{os.getpid()}/status").read_text()
            return int(status.split("VmHWM:")[1].split()[0]) / 2**10
        return None
