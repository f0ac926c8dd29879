"""What happens inside a worker process: its device, its log, and work on a cell."""

import logging
import os
import platform
import sys
import tempfile
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from benchmarks.cell import Cell
from benchmarks.records.places import claim, sweep_up, work_folder
from rfnext.files import write_text
from tasks import sharing

_device = "auto"


class NotShared(RuntimeError):
    """A worker has no access to the results folder that its work needs."""


def start(device: str, processes: int) -> None:
    """Begin a worker process, which computes on `device` from here on, as one of so many."""
    import torch

    global _device
    _device = device
    sharing.share_with(processes)
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)


def print_to(path: Path) -> None:
    """Append what this process prints from here on to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(path, "ab") as file:  # libraries write to the descriptors too
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


_MARK = "mark.txt"


def mark(results: Path) -> str:
    """Mark a results folder, by a file in its work folder; returns what the file says."""
    path = work_folder(results) / _MARK
    with claim(path.with_suffix(".lock"), wait=True):  # all that begin at once get the same mark
        if not path.exists():
            write_text(path, uuid.uuid4().hex)
    return path.read_text("utf-8")


def sees(results: Path, marked: str) -> bool:
    """Whether this process reads the very results folder that was marked, not one of that name on another machine."""
    path = results / "work" / _MARK
    return path.is_file() and path.read_text("utf-8") == marked


class Work(Protocol):
    """What is done for a cell with one of many items, such as training one of a search's candidates.

    Can be pickled.
    """

    @property
    def needs_shared_folder(self) -> bool:
        """Whether it needs the driver's results folder; otherwise it may work in a temporary one."""
        ...

    def __call__(self, cell: Cell, item: Any, /) -> Any:
        """Do it."""
        ...

    def log(self, cell: Cell, item: Any, /) -> Path:
        """File for the output of a worker process that does it."""
        ...


@dataclass(frozen=True)
class InWorker:
    """Work for a cell on its way to a worker process.

    results: the driver's folder. mark: what it is marked by.
    """

    work: Work
    cell: Cell
    results: Path
    mark: str

    def __call__(self, item: Any) -> Any:
        """Do the work in a worker process, whose output goes to the item's log from here on.

        Raises:
            NotShared: if the work needs the driver's folder and the worker has no access to it.
            RuntimeError: for a SystemExit, which would end the worker.
        """
        import torch

        cell = replace(self.cell, results=self.results, device=_device)
        if not sees(self.results, self.mark):
            if self.work.needs_shared_folder:
                raise NotShared(
                    f"the worker on {platform.node()} has no access to {self.results}, where candidates store the "
                    "checkpoints from which others continue; give --results a folder that all machines share"
                )
            scratch = Path(tempfile.gettempdir()) / f"rfnext-{self.mark}"
            scratch.mkdir(exist_ok=True)
            os.utime(scratch)  # in use, see `places.sweep_up`
            sweep_up(scratch)
            cell = replace(cell, results=scratch)
        torch.set_num_threads(cell.threads)
        print_to(self.work.log(cell, item))
        try:
            return self.work(cell, item)
        except SystemExit as error:
            raise RuntimeError(f"SystemExit: {error.code}") from error


def in_worker(work: Work, cell: Cell) -> InWorker:
    """A cell's work for a pool to run in another process."""
    return InWorker(work, cell, cell.results, mark(cell.results))
