"""benchmarks/run_all.sh: what it calls, from wherever it is started, and with which exit status it ends."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

Script = Callable[..., subprocess.CompletedProcess[str]]

PYTHON = """#!/usr/bin/env bash
echo "$PWD|$*" >> "$CALLS"
case "$2" in
    benchmarks.suite) exit "${SUITE:-0}" ;;
    benchmarks.report) exit "${REPORT:-0}" ;;
esac
exit 99
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with nothing but the script, and a Python that writes down what it is called with."""
    root = tmp_path / "a repository"
    (root / "benchmarks").mkdir(parents=True)
    shutil.copy(ROOT / "benchmarks/run_all.sh", root / "benchmarks")
    (root / "setup.sh").write_text(f"echo '{root}/python'\n")
    (root / "python").write_text(PYTHON)
    (root / "python").chmod(0o755)
    return root


@pytest.fixture
def script(root: Path, tmp_path: Path) -> Script:
    """Runs it somewhere else."""
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(root / "benchmarks/run_all.sh"), *arguments],
            cwd=elsewhere,
            env=os.environ | {"CALLS": str(tmp_path / "calls")} | environment,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture
def calls(root: Path, tmp_path: Path) -> Callable[[], list[str]]:
    """What Python was called with, each time in the repository."""

    def read() -> list[str]:
        places, arguments = zip(
            *(line.split("|") for line in (tmp_path / "calls").read_text().splitlines()), strict=True
        )
        assert set(places) == {str(root)}
        return list(arguments)

    return read


def test_the_suite_runs_and_then_the_report(script: Script, calls: Callable[[], list[str]], root: Path) -> None:
    """Between them the other detectors take a step, whose records go elsewhere."""
    done = script()
    assert done.returncode == 0, done.stderr
    results = root / "results"
    suite, steps, report = calls()
    assert suite == f"-m benchmarks.suite tiny --results {results}"
    assert steps.startswith("-m benchmarks.suite families --task coco_detection --method baseline --folds 1 --results ")
    assert steps.endswith(" -- --scenes 10 --epochs 1")
    assert str(results) not in steps
    assert report == f"-m benchmarks.report --results {results}"
    for place in (results / "runs", results / "index.html"):
        assert str(place) in done.stdout
    assert f"{results}/<task>-<preset>/table.md" in done.stdout


def test_a_preset_and_the_suites_arguments_are_handed_on(
    script: Script, calls: Callable[[], list[str]], tmp_path: Path
) -> None:
    assert script("small", "--seeds", "0", "1", "--results", "out here", "--", "--epochs", "3").returncode == 0
    assert script("--results=/somewhere", "--wandb", "--task", "toy").returncode == 0
    here = tmp_path / "else where" / "out here"
    assert calls() == [
        f"-m benchmarks.suite small --results {here} --seeds 0 1 -- --epochs 3",
        f"-m benchmarks.report --results {here}",
        "-m benchmarks.suite tiny --results /somewhere --wandb --task toy",
        "-m benchmarks.report --results /somewhere",
    ]


def test_the_help_is_its_own_and_installs_nothing(script: Script, calls: Callable[[], list[str]]) -> None:
    asked = script("paper", "--help")
    assert asked.returncode == 0
    assert "bash benchmarks/run_all.sh --list" in asked.stdout
    assert not asked.stdout.startswith("#")
    assert "usage: python" not in asked.stdout
    with pytest.raises(FileNotFoundError):  # nothing was called
        calls()


def test_to_ask_makes_no_report(script: Script, calls: Callable[[], list[str]]) -> None:
    assert script("paper", "--list", SUITE="7").returncode == 7
    (call,) = calls()
    assert call.startswith("-m benchmarks.suite paper ")
    assert call.endswith("--list")


@pytest.mark.parametrize(
    ("suite", "report", "status", "called"),
    [
        ("1", "0", 1, 3),  # a cell failed: the others are in the tables
        ("3", "0", 3, 3),  # data is missing
        ("1", "1", 1, 3),
        ("0", "1", 1, 3),  # a broken record
        ("2", "0", 2, 1),  # wrong usage
        ("130", "0", 130, 1),  # Ctrl-C
    ],
)
def test_the_exit_status_is_that_of_the_suite(
    script: Script, calls: Callable[[], list[str]], suite: str, report: str, status: int, called: int
) -> None:
    done = script(SUITE=suite, REPORT=report)
    assert done.returncode == status
    assert len(calls()) == called
    assert bool(done.stderr) == (suite not in ("0", "2"))  # of wrong usage the suite has said what


def test_without_an_environment_nothing_runs(script: Script, root: Path, tmp_path: Path) -> None:
    (root / "setup.sh").write_text("echo 'no Python' >&2; exit 5\n")
    done = script()
    assert done.returncode != 0
    assert "no Python" in done.stderr
    assert not (tmp_path / "calls").exists()
    assert script("--results").returncode != 0
