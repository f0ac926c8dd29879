"""Forks that stand for new processes in tests of command lines."""

import sys
from typing import Any

import pytest

from tests import python_processes

SEEN = "import os, sys; print(oct(os.umask(0)), os.getpgid(0) == os.getpid()); sys.exit(3)"


@pytest.mark.parametrize(
    ("settings", "umask", "leads"),
    [({"umask": 0o27}, "0o27", "False"), ({"umask": 0o77, "process_group": 0}, "0o77", "True")],
)
def test_what_a_fork_cannot_do_is_done_by_a_process(settings: dict[str, Any], umask: str, leads: str):
    done = python_processes.run([sys.executable, "-c", SEEN], capture_output=True, text=True, **settings)
    assert (done.returncode, done.stdout.split(), done.stderr) == (3, [umask, leads], "")
