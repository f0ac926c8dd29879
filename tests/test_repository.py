"""Rules that hold for the repository as a whole: pins, file names and sizes, what the package carries."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from rfnext.files import UNFINISHED, unfinished

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
KB, MB = 10**3, 10**6


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files() -> list[Path]:
    """Every file that git tracks or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def results() -> list[str]:
    """The files of results/ that git tracks; what a run adds there is its own affair."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    command = ["git", "ls-files", "-z", "results"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def pins() -> dict[str, Requirement]:
    """requirements.txt by package name."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return {pin.name: pin for pin in map(Requirement, filter(None, lines))}


def test_every_pin_is_exact():
    assert all(str(pin.specifier).startswith("==") for pin in pins().values())
    assert len(pins()) > 10


def test_conda_environment_has_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert sorted(pip) == sorted(map(str, pins().values()))


def test_pins_lie_within_the_ranges_of_the_package():
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(entry for extra in extras.values() for entry in extra)]
    # Neither job needs these, so an active environment without them is as good.
    unpinned = {"pre-commit", "accelerate", "transformers", "darts"}
    unpinned |= {"mkdocs", "mkdocs-material", "mkdocstrings-python"}
    assert {Requirement(entry).name for entry in wanted} - unpinned == set(pins())
    for requirement in map(Requirement, wanted):
        if pin := pins().get(requirement.name):
            (version,) = (specifier.version for specifier in pin.specifier)
            assert version in requirement.specifier, f"{pin} is outside {requirement}"


def test_core_depends_on_torch_alone():
    assert [Requirement(entry).name for entry in PROJECT["dependencies"]] == ["torch"]


def test_no_file_without_a_concept():
    nameless = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
    assert not [name_of(path) for path in files() if path.stem.lower() in nameless]


def test_file_names_need_no_quotes():
    assert not [name for path in files() if not re.fullmatch(r"[A-Za-z0-9_.\-/]+", name := name_of(path))]
    assert not [name for name in results() if not re.fullmatch(r"([a-z0-9_.\-]+/)+([a-z0-9_.\-]+|README.md)", name)]


def test_no_large_file():
    assert not {name_of(path): path.stat().st_size for path in files() if path.stat().st_size > 300 * KB}


def test_results_are_few_and_small():
    kept = results()
    assert len(kept) <= 140  # up to six a table
    assert sum((ROOT / name).stat().st_size for name in kept) <= 3 * MB


@pytest.mark.parametrize("folder", ["", "results/does_search_pay/", "tasks/action_segmentation/"])
def test_git_ignores_what_a_dead_process_leaves(folder: str):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    left = f"{folder}{unfinished('table.md')}abcd_123{UNFINISHED}"
    command = ["git", "check-ignore", "-q", "--no-index", left]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert subprocess.run([*command[:-1], f"{folder}table.md"], cwd=ROOT, check=False).returncode == 1


def test_no_path_of_this_machine():
    """Neither of the folder that the clone lies in nor of anybody's home; in results/ no temporary one either."""
    homes = re.compile(r"(?<![\w.})/])/(?:home|Users)/\w|(?<![\w.})/])/root/")
    here = re.compile(r"(?<![\w.})/])" + re.escape(str(ROOT.parent)) + r"[/\"'\s]")
    found = []
    for path in files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        is_result = path.is_relative_to(ROOT / "results")
        for i, line in enumerate(lines, 1):
            if homes.search(line) or here.search(line) or (is_result and "/tmp/" in line):
                found.append(f"{name_of(path)}:{i}")
    assert not found


def test_the_wheel_carries_the_library_alone(tmp_path: Path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    source = tmp_path / "source"
    for path in files():
        copy = source / path.relative_to(ROOT)
        if path.is_relative_to(ROOT / "results"):
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "rfnext/py.typed" in names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"rfnext"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
