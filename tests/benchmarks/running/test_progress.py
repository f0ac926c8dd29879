"""Progress: whole lines at once where the output is no terminal, one line that changes where it is."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from benchmarks.cell import Cell
from benchmarks.records.places import ROOT
from benchmarks.running import live
from benchmarks.running.live import duration
from benchmarks.running.progress import Progress
from tests import python_processes

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


def test_without_a_terminal_there_are_whole_lines_and_nothing_else(
    cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Plain()
    monkeypatch.setattr(sys, "stdout", out)
    with Progress(2, None) as progress:
        progress.show([cell()])
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
        "import time; from benchmarks.running.progress import Progress\n"
        "with Progress(1, None) as progress:\n"
        f"    progress.show([]); progress.add({LONG!r}); time.sleep(60)"
    )
    with python_processes.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"[1/1] {LONG} (elapsed 0:00, left 0:00)\n"
        assert process.poll() is None
        process.kill()


def test_a_terminal_shows_lines_that_change(cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    one, other = cell(), cell(fold=2)
    one.work.mkdir(parents=True)
    (one.work / live.FILE).write_text(
        json.dumps({"phase": "search 1/2", "epoch": 3.5, "epochs": 8, "score": "accuracy 61.2 %", "seconds": 7.0})
    )
    with Progress(2, expected=80.0) as progress:
        progress.show([one, other])
        head, first, log, second, _ = printed(out)[-5:]
        assert head.startswith("[0/2] elapsed 0:00, left 1:20")
        assert first.startswith(f"  {one}: search 1/2, epoch 4/8")
        assert str(live.read(one.work)) == "search 1/2, epoch 4/8, validation accuracy 61.2 %, 0:09 left in it"
        assert log.startswith("    log: ")
        assert second.startswith(f"  {other}: starting"[:59])
        assert all(len(line) <= 60 for line in printed(out))  # else they would not be so many lines
        progress.add(LONG)
        progress.show([other])
        lines = printed(out)
        assert f"[1/2] {LONG} (elapsed 0:00, left 0:00)" in lines
        assert lines[-3].startswith("[1/2] elapsed 0:00, left 0:00")
    assert out.getvalue().rpartition("\x1b[2K")[2].strip("\n") in ("", "\x1b[?25h")  # they are gone at the end


def test_without_a_terminal_what_runs_is_said_now_and_then(
    cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, out = [100.0], Plain()
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stdout", out)
    with Progress(2, None) as progress:
        for seconds in (1, 29, 1, 1, 29):
            now[0] += seconds
            progress.show([cell()])
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"  {cell()}: starting; log: ")
    assert lines[1] == f"  {cell()}: starting"


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
