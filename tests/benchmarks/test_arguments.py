"""The end of a command line: its status is what it says, whatever is typed meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

INTERRUPTED = """
import atexit, os, signal, sys
from benchmarks.arguments import leave
atexit.register(os.kill, os.getpid(), signal.SIGINT)  # a Ctrl-C while Python ends
{end}(130)
"""


@pytest.mark.parametrize(("end", "clean"), [("leave", True), ("sys.exit", False)])
def test_a_ctrl_c_at_the_end_changes_nothing(end: str, clean: bool) -> None:
    code = INTERRUPTED.format(end=end)
    # Whoever started the tests in the background has switched Ctrl-C off for all their children.
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ((done.returncode, done.stderr) == (130, "")) is clean
