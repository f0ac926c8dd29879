"""Pools: the same results in this process, in local processes and on a Ray cluster, also when workers are killed."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import pool, record, suite
from benchmarks.record import ROOT

Start = Callable[..., subprocess.Popen[str]]


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


# Functions for spawned processes must be importable there, which test modules are not.
LOCAL = """
import os, signal, sys
from pathlib import Path
from benchmarks import pool

def work(number):
    marker = Path(sys.argv[1], str(number))
    died_before = marker.exists()
    marker.touch()
    if number == 2 or (number == 1 and not died_before):
        os.kill(os.getpid(), signal.SIGKILL)
    return number, pool.device()

if __name__ == "__main__":
    with pool.local(["cpu", "cpu"]) as workers:
        for future in workers.run(work, range(5)):
            print(*([future.exception()] if future.exception() else future.result()))
    print(pool.device())
"""


def run_script(path: Path, text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path.write_text(text)
    return subprocess.run(
        [sys.executable, str(path), str(folder)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_a_killed_process_is_replaced_and_its_item_tried_once_more(tmp_path: Path) -> None:
    done = run_script(tmp_path / "local.py", LOCAL, tmp_path)
    died = "its worker process died (killed, or out of memory?)"
    assert done.stdout.splitlines() == ["0 cpu", "1 cpu", died, "3 cpu", "4 cpu", "auto"], done.stderr


ENDED = """
import sys, time
from pathlib import Path
from benchmarks import pool
from rfnext.files import write_bytes

def write(folder):
    while True:
        write_bytes(Path(folder, "result"), bytes(10**8))

if __name__ == "__main__":
    with pool.local(["cpu"]) as workers:
        workers.submit(write, sys.argv[1])
        while not list(Path(sys.argv[1]).glob(".result*")):
            workers.wait(0.01)
        raise RuntimeError("enough")
"""


def test_a_process_that_is_ended_leaves_no_temporary_file(tmp_path: Path) -> None:
    folder = tmp_path / "written"
    folder.mkdir()
    done = run_script(tmp_path / "ended.py", ENDED, folder)
    assert done.stderr.count("Traceback") == 1, done.stderr
    assert done.stderr.endswith("RuntimeError: enough\n")
    assert {path.name for path in folder.iterdir()} <= {"result"}


def test_a_cluster_that_cannot_be_reached_is_one_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = f"127.0.0.1:{server.getsockname()[1]}"
        for given in (address, f"ray://{address}"):
            line = ["tiny", "--task", "action_segmentation", "--ray-address", given]
            assert suite.main(line) == 2
            error = capsys.readouterr().err
            assert error.startswith(f"error: no Ray cluster answers at {given} (")
            assert "ray start --head" in error
            assert len(error.splitlines()) == 1
    with pytest.raises(pool.ClusterError, match="'nonsense' is no cluster address"):
        pool.on_ray("nonsense")


@pytest.mark.slow
def test_a_ray_cluster_runs_the_suite_though_a_worker_is_killed(
    start: Start, project: Path, kill: Callable[[str], int | None], cluster: str
) -> None:
    process = start("benchmarks.suite", "slow", "--seeds", "0", "--method", "baseline", "--ray-address", cluster)
    killed = None
    deadline = time.monotonic() + 200
    while killed is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        if list((project / "results/work").rglob("last.ckpt")):  # in the middle of a training
            killed = kill("ray::PoolActor.run_batch")
    out, err = process.communicate(timeout=240)
    assert killed is not None, err
    assert process.returncode == 0, err
    assert "2 cells: 0 kept, 2 to run, 0 unavailable; workers: 2;" in out
    assert err.count("its item is tried once more") == 1
    found, broken = record.read_all(project / "results")
    assert not broken
    assert [(r.fold, r.status) for r in found] == [(1, "done"), (2, "done")]
