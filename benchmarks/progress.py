"""Progress while many cells run: one line per finished cell and, on a terminal, a last line with the remaining time."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text


class Progress:
    """Shows results as they come, and what is running now.

    total: cells to come. expected: estimated seconds of all, or None.
    """

    def __init__(self, total: int, expected: float | None) -> None:
        self.total, self.done, self.expected = total, 0, expected
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._live = Live(console=self.console, transient=True, auto_refresh=False)
        self._start = time.monotonic()

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

    def show(self, running: Sequence[object]) -> None:
        """Draw the changing line anew; nothing where the output is no terminal."""
        if self._live.is_started:
            line = f"[{self.done}/{self.total}] {self.times}; running: {'; '.join(map(str, running))}"
            self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def add(self, line: str) -> None:
        """One more cell has ended: print its line."""
        self.done += 1
        self.console.print(Text(f"[{self.done}/{self.total}] {line} ({self.times})"))


def duration(seconds: float) -> str:
    """Seconds as "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
