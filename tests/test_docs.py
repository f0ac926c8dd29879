"""The documentation: its snippets run, what it names exists, and its list of defects is that of the tests."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rfnext
from tests import python_processes

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path for folder in ("benchmarks", "tasks", "tests") for path in (ROOT / folder).rglob("*.sh"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "tasks").rglob("*.md")])
OURS = ("rfnext", "tasks.", "benchmarks.")
DEFECTS = ROOT / "docs" / "defects.md"


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> Iterator[str]:
    """The code blocks of a page in one language."""
    yield from re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


FRAMEWORKS = ("accelerate", "lightning", "sklearn", "timm", "transformers")


def snippets() -> Iterator[Any]:
    """Those of all pages but docs/published.md, whose are one after the other."""
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for number, code in enumerate(blocks(page, "python"), start=1):
            foreign = (
                [pytest.mark.filterwarnings("ignore")] if any(f"import {name}" in code for name in FRAMEWORKS) else []
            )
            if page.stem != "published":
                yield pytest.param(code, id=f"{page.stem}-{number}", marks=foreign)


def test_what_pages_call_by_its_full_name_is_there_after_import_rfnext() -> None:
    """But for integrations, which need other packages."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    names = sorted(set(re.findall(r"`(rfnext(?:\.\w+)+)\(", text)))
    assert "rfnext.description.restore" in names
    code = "import rfnext\n" + "".join(f"{name}\n" for name in names if ".integrations." not in name)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("code", list(snippets()))
def test_snippets_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in FRAMEWORKS:
        if re.search(rf"^(import|from) {name}\b", code, re.MULTILINE):
            pytest.importorskip(name)
    code = code.replace("seeds, epochs = 4, 10", "seeds, epochs = 1, 1")  # of docs/first_search.md

    def network() -> nn.Module:
        return nn.Sequential(nn.Conv1d(1, 4, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(4, 1, 3, padding=1))

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(2, 1, 30)).square().mean().backward()
            optimizer.step()

    rfnext.Structure.read(network()).save("structure.json")
    given = {"model": network(), "fresh_model": network(), "train": train, "validate": lambda model: 50.0}
    exec(compile(code, "snippet", "exec"), {"__name__": "__main__", **given})  # noqa: S102


def test_the_page_on_published_work_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def network() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))

    trained, config = network(), rfnext.LocalConfig(rule="paper")
    rfnext.LocalSearch(trained, config)
    rfnext.save_published(trained, "checkpoint.pth", "local_search_config_step3.json", config)
    given: dict[str, Any] = {"__name__": "snippet", "model": network(), "fresh_model": network()}
    for code in blocks(ROOT / "docs" / "published.md", "python"):
        exec(compile(code, "snippet", "exec"), given)  # noqa: S102
    x = torch.randn(1, 1, 9, 9)
    for model in (given["model"], given["fresh_model"]):
        torch.testing.assert_close(model(x), trained(x))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def targets(path: Path) -> Iterator[str]:
    """What a page links to, and what it names like a file of the repository, without fragments."""
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            yield target.partition("#")[0]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    dead = {target for target in targets(page) if not (page.parent / target).exists()}
    assert not dead


NAMED = re.compile(r"(?<![\w/.<~-])(?:rfnext|tasks|benchmarks|tests|docs|results|\.ci)/[\w./-]*[\w/]")
"""A path of the repository, as it stands in text and commands."""


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS, ROOT / "setup.sh", ROOT / ".ci" / "run"], ids=name_of)
def test_paths_in_the_text_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    built = {"results/runs", "results/index.html", "results/latex/", "results/work", "results/pictures"}
    missing = set()
    for found in NAMED.finditer(text):
        # With a pattern or placeholder right behind it, only the folder in front of that is named.
        pattern = text[found.end() : found.end() + 1] in tuple("<*{$") and found.end() < len(text)
        named = found[0].rpartition("/")[0] if pattern else found[0]
        if not (ROOT / named).exists() and not any(named.startswith(name.rstrip("/")) for name in built):
            missing.add(named)
    example = {"tasks/two_tones/task.py"}  # tasks/README.md says how to write it
    assert not missing - example


def modules_run(page: Path) -> set[str]:
    """What a page runs by `python -m`."""
    return set(re.findall(r"python -m ([\w.]+)", page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_that_are_run_exist(page: Path):
    assert not [name for name in modules_run(page) if importlib.util.find_spec(name) is None]


def test_the_list_of_methods_is_that_of_the_tables():
    from benchmarks.methods.table import METHODS

    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`( \*)? \|", page, re.MULTILINE)
    assert {name: bool(star) for name, star in rows} == {name: method.standard for name, method in METHODS.items()}


def surroundings() -> dict[str, str]:
    """This Python is the active one, so that scripts make no environment of their own."""
    return os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--list", "--help"])
def test_the_main_job_answers_questions(option: str):
    command = ["bash", "benchmarks/run_all.sh", option]
    done = subprocess.run(command, cwd=ROOT, env=surroundings(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ("tts_vocoder" if option == "--list" else "bash benchmarks/run_all.sh paper") in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted({name for page in PAGES for name in modules_run(page) if name.startswith(OURS)})
)
def test_modules_that_are_run_explain_themselves(name: str):
    done = python_processes.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout.lower()


def marked(tests: Path) -> dict[int, set[str]]:
    """Defect -> the tests that `@pytest.mark.defect` gives it, as "tests/path.py::[Class::]test"."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in sorted(tests.rglob("*.py")):
        here = path.relative_to(tests.parent).as_posix()
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            inner = node.body if isinstance(node, ast.ClassDef) else []
            for test, name in [(node, ""), *((part, f"{getattr(node, 'name', '')}::") for part in inner)]:
                for decorator in getattr(test, "decorator_list", []):
                    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.defect":
                        for number in decorator.args:
                            found[ast.literal_eval(number)].add(f"{here}::{name}{test.name}")  # type: ignore[attr-defined]
    return found


def listed(page: str) -> dict[int, set[str]]:
    """Defect -> the tests under its heading."""
    parts = re.split(r"^### (\d+)\. .*$", page, flags=re.MULTILINE)
    return {
        int(number): set(re.findall(r"^- `(tests/[^`]+)`$", body, re.MULTILINE))
        for number, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_the_list_of_defects_is_that_of_the_tests():
    on_page, in_tests = listed(DEFECTS.read_text(encoding="utf-8")), marked(ROOT / "tests")
    assert list(on_page) == list(range(1, 34))
    assert {number for number in on_page if not in_tests.get(number)} == set(), "defects without a test"
    for number in sorted(on_page.keys() | in_tests.keys()):
        assert on_page.get(number, set()) == in_tests.get(number, set()), f"defect {number} in {name_of(DEFECTS)}"


def test_a_missing_and_a_surplus_test_of_a_defect_are_seen(tmp_path: Path):
    (tmp_path / "tests").mkdir()
    function = "@pytest.mark.defect(1, 2)\ndef test_a(): ..."
    method = "class TestB:\n    @pytest.mark.defect(2)\n    def test_c(self): ..."
    (tmp_path / "tests" / "test_x.py").write_text(f"{function}\n\n{method}")
    in_tests = marked(tmp_path / "tests")
    assert in_tests == {
        1: {"tests/test_x.py::test_a"},
        2: {"tests/test_x.py::test_a", "tests/test_x.py::TestB::test_c"},
    }
    on_page = listed(
        "### 1. One\n\nTests:\n- `tests/test_x.py::test_a`\n\n### 2. Two\n\n- `tests/test_x.py::test_gone`\n"
    )
    assert on_page[1] == in_tests[1]
    assert on_page[2] != in_tests[2]
