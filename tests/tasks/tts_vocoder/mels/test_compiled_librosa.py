"""librosa compiled by several processes at once: each of them, and every later one, computes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.tts_vocoder.mels import compiled_librosa
from tests import python_processes
from tests.faults.processes import wait_for

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


FUNCTIONS = 24

COMPILE = """
import os
from tasks.tts_vocoder.mels import compiled_librosa

def compile_all(folder):
    os.environ["NUMBA_CACHE_DIR"] = folder
    import kernels
    for index in range(kernels.FUNCTIONS):
        assert getattr(kernels, f"f{index}")(2.0) == 6 + index
    return kernels

compiled_librosa._compile = compile_all
compiled_librosa.compiled()
print("right", end="")
"""
"""All but librosa, which takes half a minute: the turn, the folder, and numba's own files."""


@pytest.mark.fault
def test_a_process_killed_while_it_compiles_leaves_code_that_works(tmp_path: Path) -> None:
    """It ends with half of the functions kept and its turn not given back, twice."""
    source = ["import numba", f"FUNCTIONS = {FUNCTIONS}"]
    for index in range(FUNCTIONS):
        body = f"    total = 0.0\n    for _ in range(3):\n        total += x\n    return total + {index}"
        source.append(f"@numba.njit(cache=True)\ndef f{index}(x):\n{body}")
    (tmp_path / "kernels.py").write_text("\n\n\n".join(source))
    surroundings = os.environ | {
        "RFNEXT_CACHE": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
    }
    surroundings.pop("NUMBA_CACHE_DIR", None)
    line = [sys.executable, "-c", COMPILE]

    def kept() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "numba").rglob("*.nb?")}

    for least in (1, FUNCTIONS):
        killed = python_processes.Popen(line, cwd=ROOT, env=surroundings)
        wait_for(lambda least=least: len(kept()) >= least)
        killed.kill()
        assert killed.wait() == -signal.SIGKILL
    found = []
    for _ in range(2):
        done = python_processes.run(line, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=100)
        assert done.stdout == "right", done.stderr
        found.append(kept())
    assert len(found[0]) == 2 * FUNCTIONS  # an index and the code of each
    assert found[1] == found[0]  # nothing is compiled again


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
