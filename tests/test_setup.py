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
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
# Variables that say which environment is active.
SURROUNDINGS = [(), ("VIRTUAL_ENV",), ("CONDA_PREFIX",)]


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


def start(clone: Path, shelf: Path, *, folder: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """Starts setup.sh from another folder with no variables but `variables`, this Python being first on the PATH."""
    surroundings = {
        "HOME": str(shelf.parent / "home"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(shelf),
    }
    return subprocess.Popen(
        ["bash", str(clone / "setup.sh")],
        cwd=folder or shelf,
        env=surroundings | variables,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def run(clone: Path, shelf: Path, **other: Any) -> tuple[int, str, str]:
    """Exit status, output and log of setup.sh."""
    process = start(clone, shelf, **other)
    out, log = process.communicate(timeout=120)
    return process.returncode, out, log


BACKEND = """
import zipfile


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    info = "rfnext-1.0.dist-info/"
    with zipfile.ZipFile(wheel_directory + "/rfnext-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rfnext.pth", HERE)
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: rfnext\\nVersion: 1.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "RECORD", "")
    return "rfnext-1.0-py3-none-any.whl"
"""


def add_package(clone: Path) -> None:
    """A package rfnext, built by a backend of its own: setuptools would come over the network."""
    (clone / "rfnext").mkdir()
    (clone / "rfnext" / "__init__.py").write_text("")
    (clone / "backend.py").write_text(f"HERE = {str(clone)!r}\n{BACKEND}")
    build = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (clone / "pyproject.toml").write_text(f'{build}[project]\nname = "rfnext"\nversion = "1.0"\n')


def finds(python: str, clone: Path) -> bool:
    """Whether a Python imports the package of this clone from another folder."""
    show = "import rfnext; print(rfnext.__file__)"
    done = subprocess.run([python, "-I", "-c", show], cwd="/", text=True, capture_output=True)
    return done.stdout.strip() == str(clone / "rfnext" / "__init__.py")


def has_planted(python: str) -> bool:
    return subprocess.run([python, "-c", "import planted"], stderr=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("variables", SURROUNDINGS, ids=lambda names: "-".join(names) or "none")
def test_an_environment_that_has_the_packages_is_used_as_it_is(variables: tuple[str, ...], clone: Path, shelf: Path):
    (clone / "requirements.txt").write_text(f"pytest=={version('pytest')}\n")
    status, out, log = run(clone, shelf, **dict.fromkeys(variables, sys.prefix))
    prefix = subprocess.run([out.strip(), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert (status, prefix.stdout.strip(), log) == (0, sys.prefix, "")
    assert not (clone / ".venv").exists()


def test_conda_variables_of_an_environment_below_the_active_one_do_not_matter(clone: Path, shelf: Path):
    (clone / "requirements.txt").write_text(f"pytest=={version('pytest')}\n")
    status, out, log = run(clone, shelf, VIRTUAL_ENV=sys.prefix, CONDA_PREFIX=str(shelf), CONDA_DEFAULT_ENV="base")
    assert (status, Path(out.strip()).parent, log) == (0, Path(sys.executable).parent, "")


@pytest.mark.parametrize("there", [".", "/", "shelf"])
def test_the_working_directory_does_not_matter(there: str, clone: Path, shelf: Path):
    (clone / "requirements.txt").write_text(f"pytest=={version('pytest')}\n")
    folder = clone if there == "." else clone.parent / there
    relative = Path(os.path.relpath(clone, folder))
    # CDPATH makes cd search other folders, and print where it went.
    status, out, log = run(relative, shelf, folder=folder, CDPATH=str(clone.parent))
    assert (status, Path(out.strip()).parent, log) == (0, Path(sys.executable).parent, "")


def test_tests_run_from_any_folder_and_count_paths_from_the_root(clone: Path, shelf: Path):
    (clone / "requirements.txt").write_text(f"pytest=={version('pytest')}\n")
    (clone / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "run_all.sh", clone / "tests")
    (clone / "tests" / "test_one.py").write_text("def test_one():\n    pass\n\n\ndef test_two():\n    assert False\n")
    command = ["bash", clone / "tests" / "run_all.sh", "tests/test_one.py", "-k", "one and not two"]
    surroundings = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    done = subprocess.run(command, cwd=shelf, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_without_a_python_one_line_says_what_to_install(clone: Path, shelf: Path):
    bare = clone.parent / "bare"
    bare.mkdir()
    for tool in ("bash", "dirname"):
        (bare / tool).symlink_to(shutil.which(tool) or tool)
    status, out, log = run(clone, shelf, PATH=str(bare))
    assert (status, out) == (1, "")
    assert log.count("\n") == 1
    assert "Python >= 3.11" in log


@pytest.mark.slow
@pytest.mark.parametrize("variables", SURROUNDINGS[1:], ids=lambda names: "-".join(names) or "none")
def test_an_active_environment_that_lacks_a_package_is_named_and_left_alone(
    variables: tuple[str, ...], clone: Path, shelf: Path
):
    plant(shelf)
    status, out, log = run(clone, shelf, **dict.fromkeys(variables, sys.prefix))
    assert (status, out) == (0, f"{clone}/.venv/bin/python\n")
    assert f"{sys.prefix}: planted missing (wanted 1.0)" in log
    assert not has_planted(sys.executable)
    assert has_planted(out.strip())


@pytest.mark.slow
def test_an_active_environment_that_is_its_own_is_brought_up_to_date(clone: Path, shelf: Path):
    own = clone / ".venv"
    subprocess.run([sys.executable, "-m", "venv", own], check=True)
    plant(shelf)
    path = os.pathsep.join([str(own / "bin"), os.environ["PATH"]])
    status, out, log = run(clone, shelf, VIRTUAL_ENV=str(own), PATH=path)
    assert (status, out) == (0, f"{own}/bin/python\n")
    assert "Not using" not in log
    assert has_planted(out.strip())


@pytest.mark.slow
def test_packages_and_options_from_outside_do_not_pass_for_its_own(clone: Path, shelf: Path):
    plant(shelf)
    outside = shelf.parent / "outside"
    (wheel,) = shelf.iterdir()
    zipfile.ZipFile(wheel).extractall(outside)
    (clone / "requirements.txt").write_text("planted==1.0\nabsent==1.0\n")
    status, out, log = run(clone, shelf, PYTHONPATH=str(outside), PIP_TARGET=str(shelf), PIP_USER="1")
    assert (status, out) == (1, "")
    assert "No matching distribution found for absent==1.0" in log
    (clone / "requirements.txt").write_text("planted==1.0\n")
    status, out, log = run(clone, shelf, PIP_TARGET=str(shelf), PIP_USER="1", PIP_REQUIRE_VIRTUALENV="1")
    assert (status, out) == (0, f"{clone}/.venv/bin/python\n")
    assert has_planted(out.strip())


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


@pytest.mark.slow
def test_its_own_environment_imports_the_package_from_any_folder(clone: Path, shelf: Path):
    plant(shelf)
    add_package(clone)
    status, out, _ = run(clone, shelf)
    assert (status, out) == (0, f"{clone}/.venv/bin/python\n")
    assert finds(out.strip(), clone)
    assert run(clone, shelf) == (0, out, "")
    # An environment of before has all packages but this one.
    uninstall = [out.strip(), "-m", "pip", "uninstall", "--yes", "rfnext"]
    subprocess.run(uninstall, check=True, capture_output=True)
    assert not finds(out.strip(), clone)
    status, again, log = run(clone, shelf)
    assert (status, again) == (0, out)
    assert "3 GB" not in log
    assert finds(out.strip(), clone)


@pytest.mark.slow
def test_an_environment_that_is_not_its_own_stays_as_it_is_and_what_to_type_is_said(clone: Path, shelf: Path):
    (clone / "requirements.txt").write_text(f"pytest=={version('pytest')}\n")
    add_package(clone)
    other = clone.parent / "other"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", other], check=True)
    packages = str(Path(pytest.__file__).parents[1])
    next((other / "lib").glob("python*/site-packages")).joinpath("pytest.pth").write_text(packages)
    before = sorted(path for path in other.rglob("*") if "__pycache__" not in path.parts)
    path = os.pathsep.join([str(other / "bin"), os.environ["PATH"]])
    status, out, log = run(clone, shelf, VIRTUAL_ENV=str(other), PATH=path)
    assert (status, Path(out.strip()).parent) == (0, other / "bin")
    assert sorted(path for path in other.rglob("*") if "__pycache__" not in path.parts) == before
    (said,) = log.splitlines()
    command = said.partition(": ")[2].replace("--editable", "--no-build-isolation --no-index --editable")
    subprocess.run(["bash", "-c", command], check=True, capture_output=True, cwd="/")
    assert finds(out.strip(), clone)
    assert run(clone, shelf, VIRTUAL_ENV=str(other), PATH=path) == (0, out, "")


@pytest.mark.slow
def test_a_linked_environment_of_another_folder_gets_no_package(clone: Path, shelf: Path):
    plant(shelf)
    add_package(clone)
    _, out, _ = run(clone, shelf)
    second = clone.parent / "second"
    shutil.copytree(clone, second, ignore=shutil.ignore_patterns(".venv"))
    (second / ".venv").symlink_to(clone / ".venv")
    status, linked, _ = run(second, shelf)
    assert (status, linked) == (0, f"{second}/.venv/bin/python\n")
    assert finds(out.strip(), clone)
