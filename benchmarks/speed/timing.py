"""Timing several ways to compute the same thing in turns, and the memory that each takes."""

import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The profiler, which measures memory only, otherwise reports on hardware that it does not find.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

from torch.profiler import ProfilerActivity, profile

from rfnext.ops import native_build

PLAIN = "plain conv"
BRANCHES = "branches"
MMCV = "mmcv"
TORCH = "torch's modules"
COLUMNS = (PLAIN, BRANCHES, "taps", "dense", "native", "auto", MMCV, TORCH)
"""Names of the ways, in the order of the tables."""

Ways = Mapping[str, Callable[[], object]]


def native() -> tuple[str, ...]:
    """The column of the native kernels, if this machine can compile them."""
    return ("native",) if native_build.failure() is None else ()


@dataclass(frozen=True)
class Timing:
    """Seconds of the rounds, the ratios to the plain conv of the same round, and the peak memory in bytes."""

    seconds: Sequence[float]
    ratios: Sequence[float]
    memory: int

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def ratio(self) -> float:
        """Median of the ratios."""
        return statistics.median(self.ratios)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of the ratios."""
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high


def peak(run: Callable[[], object]) -> int:
    """Largest number of bytes that `run` holds at a time, beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    trace: Any = profiler.profiler
    events = [event for event in trace.kineto_results.events() if event.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


def measure(ways: Ways, seconds: float) -> dict[str, Timing]:
    """Time all ways in turns, for about `seconds` but at least 5 rounds, each in an order of its own.

    What ran before a way leaves caches and free memory to it, so in a fixed order each way would have its own luck.
    """
    memory = {}
    for name, run in ways.items():
        run()  # libraries set themselves up, and "auto" makes its choice
        memory[name] = peak(run)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names, order = list(ways), random.Random(0)
    end = time.perf_counter() + seconds
    while len(taken[PLAIN]) < 5 or (time.perf_counter() < end and len(taken[PLAIN]) < 200):
        order.shuffle(names)
        for name in names:
            start = time.perf_counter()
            ways[name]()
            taken[name].append(time.perf_counter() - start)
    return {
        name: Timing(times, [t / plain for t, plain in zip(times, taken[PLAIN], strict=True)], memory[name])
        for name, times in taken.items()
    }


def fastest(run: Callable[[], object], repetitions: int = 20) -> float:
    """Seconds of the fastest of some repetitions."""
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
