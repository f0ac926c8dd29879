"""What a cell is doing now: phase, epoch, score of the validation part, time left; in a file that the suite reads."""

import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.spec import Progress

if TYPE_CHECKING:
    from benchmarks.cell import Cell
    from benchmarks.methods.method import SearchStage

log = logging.getLogger(__name__)

FILE = "now.json"
"""In a cell's work folder while it runs."""

PAUSE = 0.5
"""Seconds between two changes of it."""


@dataclass(frozen=True)
class State:
    """What a cell is doing.

    phase: "search 1/2". epoch: whole ones and the share of the one that runs. epochs: of the training. score: the first
    of the validation part, in words. seconds: since the training went on at epoch `begun`.
    """

    phase: str
    epoch: float = 0.0
    epochs: int = 0
    score: str = ""
    seconds: float = 0.0
    begun: float = 0.0

    def __str__(self) -> str:
        if not self.epochs:
            return self.phase
        parts = [self.phase, f"epoch {min(int(self.epoch) + 1, self.epochs)}/{self.epochs}"]
        parts += [f"validation {self.score}"] if self.score else []
        if (left := self.left) is not None:
            parts.append(f"{duration(left)} left in it")
        return ", ".join(parts)

    @property
    def left(self) -> float | None:
        """Seconds of the rest of this training by its pace; None before there is one."""
        done = self.epoch - self.begun
        return self.seconds / done * (self.epochs - self.epoch) if done > 0 else None


def duration(seconds: float) -> str:
    """Seconds as "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_phase = ""
_show: Callable[[State], None] | None = None


def heading(cell: "Cell", stage: "SearchStage | None") -> str:
    """Which part of a cell's work a search is, or the training after them (None): "search 1/2", "retrain 2/2"."""
    count = len(cell.method.searches) + cell.method.finish.trains
    if stage is not None:
        return f"search {len(stage.chain)}/{count}"
    return f"{'retrain' if cell.method.searches else 'train'} {count}/{count}"


def begin(cell: "Cell", stage: "SearchStage | None") -> None:
    """A search begins, or the training after them (None)."""
    global _phase
    if stage is None and not cell.method.finish.trains:
        return
    _phase = heading(cell, stage)
    log.info("%s: %s", _phase, stage.description if stage else cell.method.finish.description)
    _put(cell, State(_phase))


def end(cell: "Cell") -> None:
    """The cell has ended."""
    global _phase
    _phase = ""
    (cell.work / FILE).unlink(missing_ok=True)


def read(work: Path) -> State | None:
    """What the cell of a work folder is doing; None where that is not known."""
    try:
        return State(**json.loads((work / FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def show_by(show: Callable[[State], None] | None) -> None:
    """Also tell this function, in this process."""
    global _show
    _show = show


def _put(cell: "Cell", state: State) -> None:
    if _show is not None:
        _show(state)
    path = cell.work / FILE
    made = path.with_name(f".{FILE}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps(asdict(state)), "utf-8")
        made.replace(path)
    except OSError as error:  # what is shown is no reason to lose a training
        log.debug("%s: %s", path, error)
        made.unlink(missing_ok=True)


def follow(cell: "Cell", epochs: int, part: str) -> Callable[[Progress], None]:
    """What a training of the cell calls after each step and epoch. part: of the phase; its candidate, say."""
    metric = cell.task.metrics_of(cell.config)[0]
    phase = " ".join(filter(None, (_phase or "training", part)))
    begun, start, last, score = math.nan, time.monotonic(), 0.0, ""

    def tell(progress: Progress) -> None:
        nonlocal begun, start, last, score
        now, epoch = time.monotonic(), progress.epoch + progress.step / max(1, progress.steps)
        if math.isnan(begun):  # resumed trainings begin later; the first step, which warms up, is not counted
            begun, start = epoch, now
        if metric.name in progress.scores:
            score = f"{metric.said(progress.scores[metric.name])}"
        ended = progress.step == 0 and progress.epoch >= epochs
        if now - last >= PAUSE or ended:
            last = now
            _put(cell, State(phase, epoch, epochs, score, now - start, begun))

    return tell


class Lines(logging.StreamHandler):
    """Log lines on standard error, above the line that changes."""

    def __init__(self, line: "OneLine") -> None:
        super().__init__()
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line."""
        self.line.clear()
        super().emit(record)


class OneLine:
    """The state of the one cell that this process runs: one line that changes, where the output is a terminal."""

    def __init__(self) -> None:
        self.drawn = False

    def __call__(self, state: State) -> None:
        """Draw the line anew."""
        sys.stderr.write(f"\r\x1b[2K{state}"[:200])
        sys.stderr.flush()
        self.drawn = True

    def clear(self) -> None:
        """Take the line away."""
        if self.drawn:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
            self.drawn = False
