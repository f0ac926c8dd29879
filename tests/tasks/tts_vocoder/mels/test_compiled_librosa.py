"""librosa compiled by several processes at once: each of them, and every later one, computes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.tts_vocoder.mels import compiled_librosa

ROOT = Path(__file__).parents[4]

PITCH = """
import numpy as np
from tasks.tts_vocoder.metrics import f0
t = np.arange(8000) / 16000
print(round(float(np.nanmedian(f0(np.sin(2 * np.pi * 200 * t).astype(np.float32), 16000))), -1), end="")
"""


def start(cache: Path) -> "subprocess.Popen[str]":
    surroundings = os.environ | {"RFNEXT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    surroundings.pop("NUMBA_CACHE_DIR", None)
    return subprocess.Popen(
        [sys.executable, "-c", PITCH], cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_first_uses_at_once_leave_code_that_works(tmp_path: Path) -> None:
    both = [start(tmp_path), start(tmp_path)]
    assert [process.communicate(timeout=250)[0] for process in both] == ["200.0", "200.0"]
    compiled = {path: path.stat().st_mtime_ns for path in (tmp_path / "numba").rglob("*.nb?")}
    assert len(compiled) > 10
    assert start(tmp_path).communicate(timeout=120)[0] == "200.0"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "numba").rglob("*.nb?")} == compiled


def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    monkeypatch.setattr(compiled_librosa, "_compile", used.append)
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    folder = tmp_path / "numba"
    for mode in (0o700, 0o777):
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
        compiled_librosa.compiled.__wrapped__()
    assert used[0] == str(folder)
    assert Path(used[1]).is_dir()
    assert tmp_path not in Path(used[1]).parents


def test_the_folder_that_a_user_named_for_numba_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    monkeypatch.setattr(compiled_librosa, "_compile", used.append)
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "own"))
    compiled_librosa.compiled.__wrapped__()
    assert used == [str(tmp_path / "own")]
