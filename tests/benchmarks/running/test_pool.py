"""Pools: the same results in this process and in local processes, also when workers are killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.places import ROOT
from benchmarks.running import pool
from tasks import sharing
from tests import python_processes


def square(number: int) -> int:
    if number == 3:
        raise ValueError("three is refused")
    return number * number


def test_all_outcomes_come_in_the_order_of_the_items() -> None:
    with pool.in_process() as workers:
        futures = workers.run(square, range(5))
        assert [None if future.exception() else future.result() for future in futures] == [0, 1, 4, None, 16]
        with pytest.raises(ValueError, match="three is refused"):
            futures[3].result()
        assert workers.run(square, []) == []


def test_an_empty_pool_fails_instead_of_waiting() -> None:
    with pool.Pool([]) as workers:
        for future in workers.run(square, range(3)):
            with pytest.raises(pool.NoWorkerLeft, match="no other could be started"):
                future.result()


def test_room_is_what_need_not_wait() -> None:
    with pool.in_process() as workers:
        assert (workers.size, workers.room) == (1, 1)
        first, second = workers.submit(square, 2), workers.submit(square, 4)
        assert workers.room <= 0
        done: list[object] = []
        while not (first.done() and second.done()):
            done += workers.wait(timeout=5)
        assert done == [first, second]
        assert (first.result(), second.result()) == (4, 16)
        assert workers.wait(timeout=0) == []
        assert workers.room == 1


def test_a_worker_per_gpu_or_core() -> None:
    assert len(pool.choose_devices(3)) == 3
    assert len(pool.choose_devices("auto")) >= 1
    assert {name.partition(":")[0] for name in pool.choose_devices(2)} <= {"cpu", "cuda"}


def held_back(_: object = None) -> set[int]:
    return set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_ctrl_c_while_a_call_is_handed_over_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ProcessPoolExecutor):
        def submit(self, *arguments: Any, **others: Any) -> "Future[Any]":
            os.kill(os.getpid(), signal.SIGINT)
            return super().submit(*arguments, **others)

    before = held_back()
    with pool.local(["cpu"]) as workers:
        (held,) = workers.run(held_back, [None])
        assert signal.SIGINT in held.result()
    monkeypatch.setattr(pool, "ProcessPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt), pool.local(["cpu"]) as workers:
        workers.submit(square, 2)
    assert multiprocessing.active_children() == []
    assert held_back() == before


def test_local_workers_share_the_memory_that_one_process_keeps() -> None:
    with pool.local(["cpu", "cpu"]) as workers:
        assert [future.result() for future in workers.run(sharing.share, [100, 100])] == [50, 50]
    assert sharing.share(100) == 100


# Functions for spawned processes must be importable there, which test modules are not.
LOCAL = """
import multiprocessing, os, signal, sys
from pathlib import Path
from benchmarks.running import pool

def work(number):
    marker = Path(sys.argv[1], str(number))
    died_before = marker.exists()
    marker.touch()
    if number == 2 or (number == 1 and not died_before):
        os.kill(os.getpid(), signal.SIGKILL)
    return number, multiprocessing.parent_process() is not None

if __name__ == "__main__":
    with pool.local(["cpu", "cpu"]) as workers:
        for future in workers.run(work, range(5)):
            print(*([future.exception()] if future.exception() else future.result()))
"""


def run_script(path: Path, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path.write_text(text)
    return python_processes.run(
        [sys.executable, str(path), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.fault
def test_a_killed_process_is_replaced_and_its_item_tried_once_more(tmp_path: Path) -> None:
    done = run_script(tmp_path / "local.py", LOCAL, tmp_path)
    first, second, died, *rest = done.stdout.splitlines()
    assert [first, second, *rest] == ["0 True", "1 True", "3 True", "4 True"], done.stderr
    assert "its worker process died" in died


ENDED = """
import sys, threading
from pathlib import Path
from benchmarks.running import pool
from rfnext.files import write_bytes

def write(folder):
    while True:
        write_bytes(Path(folder, "result"), bytes(10**8))

if __name__ == "__main__":
    try:
        with pool.local(["cpu"]) as workers:
            workers.submit(write, sys.argv[1])
            while not list(Path(sys.argv[1]).glob(".result*")):
                workers.wait(0.01)
            raise RuntimeError("enough")
    except RuntimeError as error:
        print(error, threading.active_count())
"""


@pytest.mark.slow
@pytest.mark.fault
def test_a_process_that_is_ended_leaves_no_temporary_file_and_no_thread(tmp_path: Path) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    done = run_script(tmp_path / "ended.py", ENDED, folder)
    # A thread that ends while Python does makes it print a traceback, now and then.
    assert (done.stdout, done.stderr) == ("enough 1\n", "")
    assert {path.name for path in folder.iterdir()} <= {"result"}
