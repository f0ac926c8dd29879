"""The order in which the cells of a suite run, and the result of each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from benchmarks.cell import Cell
from benchmarks.planning.plan import SharedSearch, shared_searches
from benchmarks.records.places import Busy
from benchmarks.records.record import Record
from benchmarks.running import pool
from benchmarks.running.execute import Delivery, WholeCell, describe, receive, record_failure
from benchmarks.running.worker import in_worker
from rfnext.files import explained


@dataclass(frozen=True)
class Result:
    """The result of a cell: its record, or the reason why there is not even one (a full disk, say)."""

    cell: Cell
    record: Record | None
    reason: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the cell has no result."""
        return self.record is None or self.record.status == "failed"

    def __str__(self) -> str:
        return f"failed, no record: {self.reason}" if self.record is None else describe(self.record)


@dataclass
class Queue:
    """Cells that wait for a worker, and the searches that cells share.

    A shared search is done by the first cell that needs it, while the others wait. A cell that another process is
    running is left for the end, and then waited for.
    """

    ready: list[tuple[Cell, bool]]
    late: list[tuple[Cell, bool]]
    doing: dict[SharedSearch, Cell]
    done: set[SharedSearch]

    @classmethod
    def of(cls, missing: Sequence[Cell]) -> "Queue":
        """A queue of cells, those without a shared search last."""
        return cls(
            [(cell, False) for cell in sorted(missing, key=lambda cell: not shared_searches(cell))], [], {}, set()
        )

    def __bool__(self) -> bool:
        return bool(self.ready or self.late)

    def _free(self, cell: Cell) -> bool:
        return all(self.doing.get(search, cell) == cell for search in shared_searches(cell))

    def take(self, idle: bool) -> tuple[Cell, bool] | None:
        """The next cell that need not wait, and whether it waits for other processes; None if there is none.

        idle: nothing is running, so nothing is gained by waiting for the end.
        """
        if idle and not any(self._free(cell) for cell, _ in self.ready):
            self.ready, self.late = [*self.late, *self.ready], []
        for entry in self.ready:
            if self._free(entry[0]):
                self.ready.remove(entry)
                self.doing |= dict.fromkeys(set(shared_searches(entry[0])) - self.done, entry[0])
                return entry
        return None

    def end(self, cell: Cell) -> None:
        """The cell has ended, and so have its searches."""
        self.done.update(shared_searches(cell))
        self.doing = {search: other for search, other in self.doing.items() if other != cell}


def run_all(
    missing: Sequence[Cell], workers: pool.Pool, show: Callable[[Sequence[Cell]], None] = lambda running: None
) -> Iterator[Result]:
    """Run cells and yield each result as it comes.

    `show` is called about once a second with the cells that are being run.
    """
    queue = Queue.of(missing)
    running: dict[Future[Delivery], Cell] = {}
    while queue or running:
        while (workers.room > 0 or not running) and (entry := queue.take(idle=not running)):
            cell, patient = entry
            running[workers.submit(in_worker(WholeCell(patient), cell), cell.results)] = cell
        show(list(running.values()))
        for future in workers.wait(timeout=1):
            cell = running.pop(future)
            try:
                result = Result(cell, receive(future.result(), cell.results))
            except Busy:
                queue.late.append((cell, True))
                continue
            except OSError as error:  # not even a record could be written
                result = Result(cell, None, explained(error))
            except pool.WorkerDied as error:
                result = failure(cell, str(error))
            except Exception as error:
                result = failure(cell, f"{type(error).__name__}: {error}")
            queue.end(cell)
            yield result


def failure(cell: Cell, reason: str) -> Result:
    """The result of a cell that failed without a record, which is written now."""
    try:
        return Result(cell, record_failure(cell, reason))
    except OSError as error:
        return Result(cell, None, f"{reason}; {explained(error)}")
