"""Rules that hold for the repository as a whole: pins, imports, names, files."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("rfnext", "tasks", "benchmarks")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
DISTRIBUTIONS = packages_distributions()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MIB = 2**20


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def files() -> list[Path]:
    """Every file that git tracks or would add."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git repository")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def pins() -> dict[str, Requirement]:
    """requirements.txt by package name."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines())
    return {pin.name: pin for pin in map(Requirement, filter(None, lines))}


def imports(path: Path) -> Iterator[str]:
    """Absolute dotted names of everything that a file imports, wherever in the file it does."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            # "from tasks import x" may import the module tasks.x.
            yield from (f"{module}.{alias.name}" for alias in node.names)


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
    # Neither job needs pre-commit, so an active environment without it is as good.
    assert {Requirement(entry).name for entry in wanted} - {"pre-commit"} == set(pins())
    for requirement in map(Requirement, wanted):
        if pin := pins().get(requirement.name):
            (version,) = (specifier.version for specifier in pin.specifier)
            assert version in requirement.specifier, f"{pin} is outside {requirement}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_import_is_declared(path: Path):
    extras = PROJECT["optional-dependencies"].values()
    entries = [*PROJECT["dependencies"], *(entry for extra in extras for entry in extra)]
    declared = {canonicalize_name(Requirement(entry).name) for entry in entries}
    for imported in imports(path):
        module = imported.partition(".")[0]
        if module not in PACKAGES and module not in sys.stdlib_module_names:
            distributions = {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [module])}
            assert distributions & declared, f"{name_of(path)} imports {module}; add it to pyproject.toml"


def test_core_depends_on_torch_alone():
    assert [Requirement(entry).name for entry in PROJECT["dependencies"]] == ["torch"]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way(path: Path):
    """rfnext <- tasks <- benchmarks, and no task knows another one."""
    owner, *inside = path.relative_to(ROOT).parts
    later = PACKAGES[PACKAGES.index(owner) + 1 :]
    for imported in imports(path):
        first, *rest = imported.split(".")
        assert first not in (*later, "tests"), f"{name_of(path)} imports {imported}"
        if owner == "tasks" and len(inside) > 1 and first == "tasks" and rest:
            other_tasks = {folder.parent.name for folder in (ROOT / "tasks").glob("*/task.py")} - {inside[0]}
            assert rest[0] not in other_tasks, f"{name_of(path)} imports {imported}"


def test_importing_the_library_needs_torch_alone():
    script = """
import sys, torch
before = set(sys.modules)
import rfnext
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(loaded - sys.stdlib_module_names - {"rfnext", "torch"}))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("path", [path for path in SOURCES if path.is_relative_to(ROOT / "rfnext")], ids=name_of)
def test_the_library_does_not_print(path: Path):
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    printing = [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]
    assert not printing, f"{name_of(path)} prints on lines {printing}; log instead"


def test_no_file_without_a_concept():
    nameless = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
    assert not [name_of(path) for path in files() if path.stem.lower() in nameless]


def test_no_large_file():
    assert not {name_of(path): path.stat().st_size for path in files() if path.stat().st_size > MIB}


def test_no_path_of_this_machine():
    """Neither of the folder that the clone lies in nor of anybody's home."""
    homes = re.compile(r"(?<![\w.})/])/(?:home|Users)/\w|(?<![\w.})/])/root/")
    here = re.compile(r"(?<![\w.})/])" + re.escape(str(ROOT.parent)) + r"[/\"'\s]")
    found = []
    for path in files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}:{i}" for i, line in enumerate(lines, 1) if homes.search(line) or here.search(line)]
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
