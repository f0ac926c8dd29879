"""Folders and locks: one holder at a time, freed when the holder is killed, and nothing of them in git."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.records.places import ROOT, SCRATCH_SECONDS, Busy, claim, portable, sweep_up, work_folder
from tests import python_processes

HOLDER = """
import sys, time
from pathlib import Path
from benchmarks.records.places import claim
with claim(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(60)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return python_processes.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.fault
def test_a_lock_is_freed_when_its_holder_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "cell.lock"
    with start(HOLDER, path) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        second = start(HOLDER, path)
        with pytest.raises(Busy, match=str(path)), claim(path, wait=False):
            pass
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert second.stdout is not None
        assert second.stdout.readline() == "held\n"  # the one that waited has it now
        with pytest.raises(Busy), claim(path, wait=False):
            pass
        second.send_signal(signal.SIGKILL)
        second.communicate()
    with claim(path, wait=False):
        pass
    with claim(path, wait=False):  # and again, once it was released
        pass


COUNTER = """
import os, sys, time
from pathlib import Path
from benchmarks.records.places import claim
lock, inside, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
for _ in range(count):
    with claim(lock, wait=True):
        handle = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails if another process is inside
        time.sleep(0.001)
        os.close(handle)
        inside.unlink()
print("done", flush=True)
"""


@pytest.mark.fault
def test_two_processes_never_hold_a_lock_at_once(tmp_path: Path) -> None:
    lock, inside = tmp_path / "cell.lock", tmp_path / "inside"
    processes = [start(COUNTER, lock, inside, 50) for _ in range(3)]
    assert [process.communicate(timeout=120)[0] for process in processes] == ["done\n"] * 3


def test_a_lock_is_released_by_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), claim(tmp_path / "cell.lock", wait=False):
        _ = 1 / 0
    begun = time.monotonic()
    with claim(tmp_path / "cell.lock", wait=True):
        assert time.monotonic() - begun < 1
        with pytest.raises(Busy), claim(tmp_path / "cell.lock", wait=False):
            pass
        with claim(tmp_path / "other.lock", wait=False):
            pass


def test_the_work_folder_hides_itself_from_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    work = work_folder(tmp_path / "results")
    (work / "toy").mkdir()
    (work / "toy" / "last.ckpt").write_bytes(b"large")
    status = subprocess.run(
        ["git", "-C", str(tmp_path), "status", "--porcelain"], check=True, capture_output=True, text=True
    )
    assert status.stdout == ""


@pytest.mark.fault
def test_what_dead_processes_have_left_is_swept_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In results, in the cache, and old scratch folders; none that is new, in use, or another user's."""
    results, cache, scratch = (tmp_path / name for name in ("results", "cache", "scratch"))
    monkeypatch.setenv("RFNEXT_CACHE", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    for folder in (results / "runs", cache / "native"):
        folder.mkdir(parents=True)
        (folder / ".left.json.abcd_123.tmp").write_text("half")
        os.utime(folder / ".left.json.abcd_123.tmp", (0, 0))
        (folder / "whole.json").write_text("{}")
    folders = {
        name: scratch / f"rfnext-{name}" for name in ("0" * 32, "again-x_1", "1" * 32, "2" * 32, "3" * 32, "mine")
    }
    left, again, new, used, theirs, other = folders.values()
    for folder in folders.values():
        folder.mkdir(parents=True)
        (folder / "cell.lock").touch()
        os.utime(folder, (0, 0))
    os.utime(new, (time.time() - SCRATCH_SECONDS + 3600,) * 2)
    kept = [new, used, other]
    if os.geteuid() == 0:
        os.chown(theirs, 12345, 12345)
        kept.append(theirs)
    with start(HOLDER, used / "cell.lock") as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        sweep_up(results)
        holder.kill()
    assert sorted(scratch.iterdir()) == sorted(kept)
    assert not left.exists()
    assert not again.exists()
    assert [path.name for folder in (results, cache) for path in folder.rglob("*.*")] == ["whole.json"] * 2
    sweep_up(results)
    assert not used.exists()


def test_texts_do_not_carry_this_machines_folders() -> None:
    assert portable(f"{ROOT}/tasks and {Path.home()}/data") == "./tasks and ~/data"
