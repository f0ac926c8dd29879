"""The order of a suite's cells: shared searches are done once, cells of other processes last, failures stay alone."""

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import pytest

from benchmarks.cell import Cell
from benchmarks.planning.plan import SharedSearch, shared_searches
from benchmarks.records.places import Busy
from benchmarks.records.record import read
from benchmarks.running import pool
from benchmarks.running.execute import Delivery, WholeCell, record_failure
from benchmarks.running.schedule import failure, run_all
from benchmarks.running.worker import InWorker

Make = Callable[..., Cell]


def searches_of(cell: Cell) -> set[SharedSearch]:
    return set(shared_searches(cell))


class Slots:
    """A pool whose cells end when it is asked, the oldest first; those that another process has are `busy` at first.

    No two cells may do a search at a time, be it here or in the other process.
    """

    def __init__(self, size: int, busy: set[str]) -> None:
        self.size, self.busy = size, busy
        self.running: list[tuple[Future[Delivery], Cell, bool]] = []
        self.elsewhere: set[SharedSearch] = set()
        self.done: set[SharedSearch] = set()
        self.seen: list[list[str]] = []
        self.patient: list[str] = []

    @property
    def room(self) -> int:
        return self.size - len(self.running)

    def submit(self, work: InWorker, results: Path) -> Future[Delivery]:
        assert isinstance(work.work, WholeCell)
        assert results == work.cell.results
        self.running.append((Future(), work.cell, work.work.patient))
        if work.work.patient:
            self.patient.append(work.cell.method.name)
            self.elsewhere -= searches_of(work.cell)
        doing = [name for _, cell, _ in self.running for name in searches_of(cell) - self.done]
        assert len(set(doing)) == len(doing)
        assert not self.elsewhere.intersection(doing)
        return self.running[-1][0]

    def wait(self, timeout: float) -> list[Future[Delivery]]:
        self.seen.append([cell.method.name for _, cell, _ in self.running])
        future, cell, patient = self.running.pop(0)
        if cell.method.name in self.busy and not patient:
            self.elsewhere |= searches_of(cell)
            future.set_exception(Busy("another process has it"))
        else:
            self.done |= searches_of(cell)
            future.set_result(Delivery(record_failure(cell, "a test")))
        return [future]


NAMES = [
    "baseline",
    "local_single",
    "local_multi",
    "one_shot_single",
    "one_shot_to_local_single",
    "genetic_single",
    "genetic_to_local_single",
]


@pytest.mark.parametrize("busy", [set(), {"local_single"}, {"baseline", "one_shot_single", "local_single"}])
def test_cells_wait_for_their_own_search_and_for_no_other(cell: Make, busy: set[str]) -> None:
    slots = Slots(3, busy)
    cells = [cell(name) for name in NAMES]
    running: list[list[str]] = []
    found = list(run_all(cells, slots, lambda now: running.append([one.method.name for one in now])))  # type: ignore[arg-type]
    assert sorted(result.cell.method.name for result in found) == sorted(NAMES)
    assert slots.seen[0] == ["local_single", "one_shot_single", "genetic_single"]  # three searches at once
    assert running == slots.seen
    assert set(slots.patient) == busy


def test_folds_and_seeds_share_no_search(cell: Make) -> None:
    cells = [cell("local_single", fold=fold, seed=seed) for fold in (1, 2) for seed in (0, 1)]
    slots = Slots(4, set())
    list(run_all(cells, slots))  # type: ignore[arg-type]
    assert len(slots.seen[0]) == 4


def test_nothing_to_run_is_nothing() -> None:
    assert list(run_all([], pool.Pool([]))) == []


class Failing(Slots):
    """A pool whose calls end in an error of its choice."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        super().__init__(2, set())
        self.errors = errors

    def wait(self, timeout: float) -> list[Future[Delivery]]:
        if (error := self.errors.get(self.running[0][1].method.name)) is None:
            return super().wait(timeout)
        future, cell, _ = self.running.pop(0)
        self.done |= searches_of(cell)
        future.set_exception(error)
        return [future]


def test_a_failing_cell_gets_a_record_with_the_reason_and_holds_up_no_other(cell: Make, results: Path) -> None:
    errors: dict[str, Exception] = {
        "local_single": pool.WorkerDied("its worker process died"),
        "baseline": ValueError("cannot be read"),
    }
    cells = [cell(name) for name in ("local_single", "local_multi", "baseline", "local_merge")]
    found = {result.cell.method.name: result for result in run_all(cells, Failing(errors))}  # type: ignore[arg-type]
    assert found.keys() == {"local_single", "local_multi", "baseline", "local_merge"}
    reasons = {name: result.record and result.record.reason for name, result in found.items()}
    assert reasons["local_single"] == "its worker process died"
    assert reasons["baseline"] == "ValueError: cannot be read"
    assert reasons["local_multi"] == "a test"
    assert read(cells[0].key.path(results)).reason == "its worker process died"
    assert all(result.failed for result in found.values())


def test_without_workers_every_cell_fails(cell: Make) -> None:
    found = list(run_all([cell(), cell("local_single")], pool.Pool([])))
    assert len(found) == 2
    assert all("no other could be started" in str(result) for result in found)


def test_a_record_that_cannot_be_written_is_said(cell: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = failure(cell(results=tmp_path / "file"), "killed")
    assert result.failed
    assert result.record is None
    assert str(result).startswith("failed, no record: killed; ")
