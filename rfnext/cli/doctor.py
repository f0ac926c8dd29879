"""The command `doctor`: what of this machine and environment rfnext can use."""

import importlib.util
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from rfnext._version import __version__
from rfnext.files import cache_folder
from rfnext.ops import native_build
from rfnext.table import aligned

PARTS = {
    "numpy": "genetic search",
    "matplotlib": "plots",
    "lightning": "rfnext.integrations.lightning",
    "transformers": "Hugging Face's Trainer",
    "mmengine": "rfnext.integrations.mmengine",
    "mmdet": "detectors",
    "wandb": "rfnext.integrations.wandb",
    "onnxscript": "export to ONNX",
    "triton": "kernels for GPUs",
}
"""Optional packages, and what they are for."""


def run_doctor(given: object) -> str:
    """A table of parts, what was found, and what follows from it."""
    failure = native_build.failure()
    kernels = "compiled" if failure is None else f"missing: {failure}"
    pinned = os.environ.get("RFNEXT_IMPLEMENTATION")
    rows = [
        ["rfnext", __version__, str(Path(__file__).parents[1])],
        ["Python", platform.python_version(), sys.executable],
        ["torch", torch.__version__, f"{torch.get_num_threads()} threads"],
        ["kernels for CPUs", kernels, "" if failure is None else "searches work, at 1.2 to 1.7 times the time"],
        ["cache", str(cache_folder()), "RFNEXT_CACHE names another folder"],
        ["implementation", pinned or "the fastest by measurement", "RFNEXT_IMPLEMENTATION pins one"],
        ["GPU", *_gpu()],
    ]
    rows += [[name, _version(name), use] for name, use in PARTS.items()]
    return aligned(["part", "found", ""], rows)


def _gpu() -> tuple[str, str]:
    if not torch.cuda.is_available():
        return "none that torch can use", "" if torch.version.cuda else "this torch is built without CUDA"
    return torch.cuda.get_device_name(), f"CUDA {torch.version.cuda}"


def _version(name: str) -> str:
    if importlib.util.find_spec(name) is None:
        return "not installed"
    try:
        return version(name)
    except PackageNotFoundError:
        return "installed"
