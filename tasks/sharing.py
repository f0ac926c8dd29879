"""Memory that processes of one run share: each keeps its part of what one alone would keep."""

import contextlib
from collections.abc import Iterator

_processes = 1


def share_with(processes: int) -> None:
    """Note that this process is one of so many that work at the same time; a worker of a suite does when it begins."""
    global _processes
    _processes = processes


@contextlib.contextmanager
def among(processes: int) -> Iterator[None]:
    """For what is opened in here, count so many processes in the place of each, such as those that load its batches."""
    before = _processes
    share_with(before * processes)
    try:
        yield
    finally:
        share_with(before)


def share(total: int) -> int:
    """The part of `total` bytes that this process may keep."""
    return total // _processes
