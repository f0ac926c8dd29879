"""Progress: whole lines at once where the output is no terminal, one line that changes where it is."""

import io
import re
import subprocess
import sys

import pytest

from benchmarks.progress import Progress, duration
from benchmarks.records.places import ROOT

LONG = "failed: " + "a very long reason [with] brackets :smile: " * 20


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Plain(io.StringIO):
    flushed = 0

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture(autouse=True)
def _no_terminal_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")


def test_without_a_terminal_there_are_whole_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Plain()
    monkeypatch.setattr(sys, "stdout", out)
    with Progress(2, None) as progress:
        progress.show(["a cell"])
        assert out.getvalue() == ""
        assert progress.times == "elapsed 0:00, left unknown"
        progress.add(LONG)
        assert out.getvalue() == f"[1/2] {LONG} (elapsed 0:00, left 0:00)\n"
        assert out.flushed
        progress.show([])
        progress.add("ok")
    assert out.getvalue().splitlines()[1:] == ["[2/2] ok (elapsed 0:00, left 0:00)"]


def test_lines_reach_a_pipe_at_once() -> None:
    code = (
        "import time; from benchmarks.progress import Progress\n"
        "with Progress(1, None) as progress:\n"
        f"    progress.show(['x']); progress.add({LONG!r}); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"[1/1] {LONG} (elapsed 0:00, left 0:00)\n"
        assert process.poll() is None
        process.kill()


def test_a_terminal_shows_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    with Progress(2, expected=80.0) as progress:
        progress.show(["toy tiny baseline fold 1 seed 0", "toy tiny baseline fold 2 seed 0"])
        shown = printed(out)[-1]
        assert shown.startswith("[0/2] elapsed 0:00, left 1:20; running: toy tiny")
        assert len(shown) <= 60  # else it would not be one line
        progress.add(LONG)
        progress.show(["toy tiny baseline fold 2 seed 0"])
        lines = printed(out)
        assert f"[1/2] {LONG} (elapsed 0:00, left 0:00)" in lines
        assert lines[-1].startswith("[1/2] elapsed 0:00, left 0:00; running: toy tiny")
    assert out.getvalue().rpartition("\x1b[2K")[2].strip("\n") in ("", "\x1b[?25h")  # it is gone at the end


def printed(out: io.StringIO) -> list[str]:
    """The lines without what moves the cursor."""
    return [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).splitlines() if line]


def test_time_left_is_that_of_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    progress = Progress(4, expected=50.0)
    now[0] += 20
    assert progress.times == "elapsed 0:20, left 0:30"
    progress.add("one")
    assert progress.times == "elapsed 0:20, left 1:00"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3600, "1:00:00"), (90061, "25:01:01")])
def test_durations_are_read_as_hours_minutes_seconds(seconds: float, text: str) -> None:
    assert duration(seconds) == text
