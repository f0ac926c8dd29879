"""How long a training takes here, where no record says it: a few of its steps are timed."""

import contextlib
import dataclasses
import itertools
import logging
import math
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import FrameType
from typing import TYPE_CHECKING, Any

from benchmarks.methods.method import Method
from benchmarks.running.live import duration
from rfnext.lazy import LazyModule
from tasks.spec import Progress, Run, Task

if TYPE_CHECKING:
    from benchmarks.methods import training
else:
    training = LazyModule("benchmarks.methods.training")

log = logging.getLogger(__name__)

STEPS = 8
"""Steps that are timed, at most; the first one, which warms up, is not."""

SECONDS = 22.0
"""After which timing ends, whatever it has seen. Building the network and reading the data count."""


class _Enough(BaseException):
    """Ends a training that is timed; no `except Exception` of a training engine may hold it."""


@dataclass(frozen=True)
class Timed:
    """A training whose steps were timed.

    step: seconds; infinite if none ended in time. steps: of an epoch; 0: unknown. waited: seconds that timing took.
    """

    step: float
    steps: int
    epochs: int
    waited: float

    @property
    def training(self) -> float:
        """Seconds of a whole training, without scoring; infinite if not even a step ended in time."""
        return self.step * self.steps * self.epochs if math.isfinite(self.step) else math.inf

    def __str__(self) -> str:
        if math.isinf(self.training):
            return f"no step has ended within {self.waited:.0f} s; the time is unknown"
        return (
            f"a step takes {self.step:.3g} s; {self.steps} steps x {self.epochs} epochs: a training takes about "
            f"{duration(self.training)}, without scoring"
        )


def time_training(task: Task[Any], config: Any, *, device: str = "auto", seconds: float = SECONDS) -> Timed:
    """Train the config's hand design for a few steps, in a folder that is deleted.

    Raises:
        what building or training raises: DataError for data that cannot be used, say.
    """
    ends: list[tuple[float, int]] = []
    begun: list[float] = []
    start = time.perf_counter()

    def follow(progress: Progress) -> None:
        if progress.step:
            ends.append((time.perf_counter(), progress.steps))
        if len(ends) > STEPS or (len(ends) > 1 and time.perf_counter() - start > seconds / 2):
            raise _Enough

    with tempfile.TemporaryDirectory(prefix="rfnext-timing-") as folder, _quiet(), _deadline(seconds):
        training.seed_everything(0)
        model = task.build(config)
        model.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))
        run = Run(seed=0, fold=task.folds(config)[0], folder=Path(folder), device=device, progress=follow)
        with contextlib.suppress(_Enough):
            task.fit(model, dataclasses.replace(config, epochs=max(2, config.epochs)), run)
    waited = time.perf_counter() - start
    if not ends:
        return Timed(math.inf, 0, config.epochs, waited)
    if len(ends) == 1:  # with what only a first step takes
        return Timed(ends[0][0] - begun[0], ends[0][1], config.epochs, waited)
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(ends)]
    return Timed(median(gaps), ends[-1][1], config.epochs, waited)


def trainings(method: Method) -> float:
    """What a method costs, in trainings of the hand design."""
    return sum(search.trainings for search in method.searches) + method.finish.trains


@contextlib.contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise `_Enough` after so many seconds, and let it end there."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _Enough

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with contextlib.suppress(_Enough):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what trainings log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
