"""Progress while many cells run: one line per finished cell; what each worker does, redrawn in place on a terminal."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from benchmarks.cell import Cell
from benchmarks.records.record import Key
from benchmarks.running import live
from benchmarks.running.live import duration

PLAIN = 30.0
"""Seconds between two reports of what runs, where the output is no terminal."""


class Progress:
    """Shows results as they come, and what is running now.

    total: cells to come. expected: estimated seconds of all, or None.
    """

    def __init__(self, total: int, expected: float | None) -> None:
        self.total, self.done, self.expected = total, 0, expected
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._live = Live(console=self.console, transient=True, auto_refresh=False)
        self._start = time.monotonic()
        self._said, self._named = 0.0, set[Key]()

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    @property
    def times(self) -> str:
        """Time gone, and time left: by the pace so far, by the estimate before the first result."""
        left = None if self.expected is None else max(0.0, self.expected - self.elapsed)
        if self.done:
            left = self.elapsed / self.done * (self.total - self.done)
        return f"elapsed {duration(self.elapsed)}, left {'unknown' if left is None else duration(left)}"

    def show(self, running: Sequence[Cell]) -> None:
        """Draw the changing lines anew; where the output is no terminal, print them every `PLAIN` seconds."""
        if self._live.is_started:
            lines = [f"[{self.done}/{self.total}] {self.times}"]
            for cell in running:
                lines += [self._line(cell), f"    log: {shortest(cell.log)}"]
            shown = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
            self._live.update(Group(*shown), refresh=True)
        elif running and self.elapsed >= self._said + PLAIN:
            self._said = self.elapsed
            for cell in running:
                self.console.print(Text(self._line(cell)))
            sys.stdout.flush()

    def _line(self, cell: Cell) -> str:
        """A worker's cell, what it does, and, once, where its log is."""
        known = cell.key in self._named
        self._named.add(cell.key)
        log = "" if self._live.is_started or known else f"; log: {shortest(cell.log)}"
        return f"  {cell}: {live.read(cell.work) or 'starting'}{log}"

    def add(self, line: str) -> None:
        """One more cell has ended: print its line."""
        self.done += 1
        self.console.print(Text(f"[{self.done}/{self.total}] {line} ({self.times})"))


def shortest(path: Path) -> str:
    """A path as seen from here, where that is shorter."""
    seen = os.path.relpath(path)
    return min(str(path), seen, key=len)
