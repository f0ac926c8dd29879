"""`bash tests/gpu.sh` without a GPU: every section runs with torch, numpy and timm alone, and failures are reported."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.report import markdown

ROOT = Path(__file__).parents[1]

ABSENT = (
    *("mmdet", "mmcv", "mmengine", "mmpretrain", "librosa", "hypothesis", "pytest", "scipy", "pydantic"),
    *("tyro", "rich", "matplotlib", "rapidfuzz", "seglearn", "pycocotools", "wandb", "ray", "onnx", "soundfile"),
)
"""Packages that a machine with a GPU may lack."""


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this is what happens without a GPU")
def test_it_runs_on_a_cpu_with_the_core_alone(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        f"import sys\nfor name in {ABSENT!r}:\n    sys.modules[name] = None\n", encoding="utf-8"
    )
    (blocked / "python3").symlink_to(sys.executable)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    surroundings = os.environ | {
        "PYTHONPATH": str(blocked),
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "PATH": path,
    }
    before = set((ROOT / "results").iterdir())
    done = subprocess.run(
        ["bash", "tests/gpu.sh"], cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set((ROOT / "results").iterdir()) == before
    (page,) = tmp_path.glob("rfnext-gpu-*/*.md")
    text = page.read_text(encoding="utf-8")
    assert "Nothing failed." in text
    for title in ("Operator against float64", "torch.compile and CUDA graphs", "A whole search, twice"):
        assert f"## {title}" in text
    assert "| MS-TCN | values |" in text
    assert "triton" in text.partition("## Operator against float64")[2].partition("\n## ")[0]


def test_each_failure_is_two_lines() -> None:
    found: list[dict[str, Any]] = [
        {"what": {"layer": "1-d", "precision": "float32"}, "outcome": "failed", "why": "Wrong: 3e-1", "found": {}},
        {"what": {"layer": "2-d", "precision": "float32"}, "outcome": "passed", "why": "", "found": {"error": 1e-7}},
    ]
    page = markdown("H100", {"Operator": found}, 3.0)
    assert "- Operator: 1-d, float32\n  Wrong: 3e-1\n" in page
    assert "| Operator | 1 | 1 | 0 |" in page
    assert "| 2-d | float32 | 1e-07 |" in page
