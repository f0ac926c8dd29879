"""setup.sh with real pip and virtual environments, on a package of our own, without a network."""

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with setup.sh that wants the package `planted`, in a path with a space."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    shutil.copy(ROOT / "setup.sh", folder)
    (folder / "requirements.txt").write_text("# wanted\n\nplanted==1.0  # ours\n")
    return folder


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Where pip finds the package, once it lies there."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


def plant(shelf: Path) -> None:
    with zipfile.ZipFile(shelf / "planted-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("planted.py", "")
        wheel.writestr("planted-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
        wheel.writestr("planted-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("planted-1.0.dist-info/RECORD", "")


def start(clone: Path, shelf: Path) -> subprocess.Popen[str]:
    """setup.sh from another folder, with this Python first on the PATH."""
    surroundings = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(shelf),
    }
    return subprocess.Popen(
        ["bash", str(clone / "setup.sh")],
        cwd=shelf,
        env=surroundings,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run(clone: Path, shelf: Path) -> tuple[int, str, str]:
    process = start(clone, shelf)
    out, log = process.communicate(timeout=120)
    return process.returncode, out, log


def has_planted(python: str) -> bool:
    return subprocess.run([python, "-c", "import planted"], stderr=subprocess.DEVNULL).returncode == 0


def test_an_environment_that_has_the_packages_is_used_as_it_is(clone: Path, shelf: Path):
    (clone / "requirements.txt").write_text(f"pytest=={version('pytest')}\n")
    status, out, _ = run(clone, shelf)
    prefix = subprocess.run([out.strip(), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert (status, prefix.stdout.strip()) == (0, sys.prefix)
    assert not (clone / ".venv").exists()


@pytest.mark.slow
def test_otherwise_it_makes_its_own_once_even_if_started_twice(clone: Path, shelf: Path):
    plant(shelf)
    both = [start(clone, shelf), start(clone, shelf)]
    ended = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert ended[0][0] == ended[1][0] == f"{clone}/.venv/bin/python\n"
    assert has_planted(ended[0][0].strip())
    if shutil.which("flock"):  # macOS lacks it
        (said,) = [line for _, log in ended for line in log.splitlines() if line.startswith("Setting up .venv")]
        assert str(clone) in said
        assert "3 GB to download, 7 GB of disk, 3 to 10 minutes" in said
        assert sum("waiting for it" in log for _, log in ended) == 1
    assert run(clone, shelf) == (0, ended[0][0], "")


@pytest.mark.slow
def test_what_was_interrupted_or_failed_is_completed_by_the_next_start(clone: Path, shelf: Path):
    process = start(clone, shelf)
    unfinished = clone / ".venv" / "unfinished"
    deadline = time.monotonic() + 60
    while not (unfinished.exists() and (clone / ".venv" / "bin" / "python").exists()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out == ""
    assert unfinished.exists()

    status, out, log = run(clone, shelf)
    assert (status, out) == (1, "")
    assert "No matching distribution found for planted==1.0" in log

    plant(shelf)
    status, out, _ = run(clone, shelf)
    assert status == 0
    assert has_planted(out.strip())
    assert not unfinished.exists()
