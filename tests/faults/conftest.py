"""A copy of the project with the toy as its only task, and commands that run in it."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.conftest import call, cell, mine, only_toy, own, project, results, start, toy
from tests.faults import small_disk

__all__ = ["call", "cell", "mine", "only_toy", "own", "project", "results", "start", "toy"]

ReadOnly = Callable[..., list[str]]


@pytest.fixture
def read_only() -> ReadOnly:
    """Makes the command line of `python -m ...` to which a folder is read-only. Skips where nothing can be mounted.

    Of a user other than root, the mode of the folder is enough.
    """

    def command(folder: Path, *line: str) -> list[str]:
        words = [sys.executable, "-m", *line]
        if (refusal := small_disk.refusal()) is None:
            return small_disk.read_only(folder, words)
        if os.geteuid() == 0:
            pytest.skip(f"root may write everywhere, and nothing can be mounted here: {refusal}")
        folder.chmod(0o555)
        return words

    return command
