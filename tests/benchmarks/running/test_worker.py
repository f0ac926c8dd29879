"""Workers: what they see of the driver's folder, where their output goes, and what becomes of their errors."""

import dataclasses
import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cell import Cell
from benchmarks.records.places import ROOT
from benchmarks.running import pool
from benchmarks.running.worker import NotShared, in_worker, mark, sees
from tests import python_processes

Make = Callable[..., Cell]


@dataclass(frozen=True)
class Tell:
    """Work that says what it was given."""

    needs_shared_folder: bool = True

    def __call__(self, cell: Cell, item: Any) -> Any:
        if item == "leave":
            raise SystemExit(7)
        if item == "fail":
            raise ValueError("it was told to fail")
        return cell.results, cell.device, torch.get_num_threads(), item

    def log(self, cell: Cell, item: Any) -> Path:
        return cell.work / f"{item}.txt"


@pytest.fixture(autouse=True)
def _own_output(monkeypatch: pytest.MonkeyPatch, only_toy: None) -> None:
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)  # pytest's own descriptors


def test_a_folder_is_known_by_its_mark(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    marked = mark(here)
    assert mark(here) == marked
    assert mark(there) != marked
    assert sees(here, marked)
    assert not sees(there, marked)
    assert not sees(tmp_path / "nowhere", marked)


def test_all_that_mark_a_folder_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(mark, [tmp_path / "results"] * 32))) == 1


def test_work_for_a_cell_is_done_in_the_drivers_folder(cell: Make, results: Path) -> None:
    here = cell(threads=1, device="cuda:7")  # the device is the worker's own
    sent = pickle.loads(pickle.dumps(in_worker(Tell(), here)))  # noqa: S301 (made right here)
    assert sent("a") == (results, "auto", 1, "a")
    assert (here.work / "a.txt").exists()
    before = torch.get_num_threads()
    assert in_worker(Tell(), dataclasses.replace(here, threads=2))("b")[2] == 2
    torch.set_num_threads(before)


def test_a_worker_without_the_folder_works_in_a_temporary_one_or_says_so(
    cell: Make, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    far = dataclasses.replace(in_worker(Tell(), cell()), mark="of another machine")
    with pytest.raises(
        NotShared, match=r"has no access to .*results, .*give --results a folder that all machines share"
    ):
        far("a")
    alone = dataclasses.replace(far, work=Tell(needs_shared_folder=False))
    folder = alone("a")[0]
    assert folder != results
    assert folder.parent == tmp_path
    assert alone("b")[0] == folder


def test_errors_come_back_and_none_ends_the_worker(cell: Make) -> None:
    work = in_worker(Tell(), cell())
    with pytest.raises(ValueError, match="it was told to fail"):
        work("fail")
    with pytest.raises(RuntimeError, match="SystemExit: 7"):
        work("leave")


def test_a_pool_of_this_process_gets_the_cell_itself(cell: Make, results: Path) -> None:
    here = cell(device="cpu")
    with pool.in_process() as workers:
        futures = pool.run_for_cell(workers, Tell(), here, ["a", "fail", "b"])
    assert futures[0].result() == (results, "cpu", torch.get_num_threads(), "a")
    assert isinstance(futures[1].exception(), ValueError)
    assert futures[2].result()[3] == "b"
    assert not here.work.exists()  # nor does its output go anywhere else


def test_all_output_goes_to_the_log(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from benchmarks.running.worker import print_to\n"
        "print('before', flush=True); print_to(Path(sys.argv[1]))\n"
        "print('printed'); print('error', file=sys.stderr); sys.stdout.flush(); os.system('echo from a library')"
    )
    log = tmp_path / "log.txt"
    log.write_text("of an earlier run\n")
    done = python_processes.run([sys.executable, "-c", code, str(log)], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("before\n", "")
    first, *rest = log.read_text().splitlines()
    assert first == "of an earlier run"
    assert sorted(rest) == ["error", "from a library", "printed"]
