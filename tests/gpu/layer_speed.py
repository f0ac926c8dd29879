"""The layers of benchmarks.speed, forward and backward: what a search costs beside cuDNN's plain conv."""

import argparse
import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.speed.layers import LAYERS, Layer, of_layer
from benchmarks.speed.timing import BRANCHES, PLAIN
from rfnext import pin_implementation
from tests.gpu.findings import DEVICE, ON_GPU, check, without_tf32

Way = Callable[[], object]


def ways(layer: Layer, precision: str) -> dict[str, Way]:
    """The plain conv and what searches it; in low precision under autocast, as in a training."""
    with torch.device(DEVICE):
        all_ways = of_layer(layer, 3)
    names = (PLAIN, BRANCHES, "taps", "auto") if ON_GPU else (PLAIN,)
    found = {name: all_ways[name] for name in names}

    def by_triton() -> None:
        with pin_implementation("triton"):
            all_ways["auto"]()

    return {name: within_precision(way, precision) for name, way in [*found.items(), ("triton", by_triton)]}


def within_precision(way: Way, precision: str) -> Way:
    def run() -> None:
        low = precision != "float32"
        with torch.autocast(DEVICE.type, torch.bfloat16) if low else contextlib.nullcontext():
            way()

    return run


def seconds(way: Way) -> float:
    """Of one call, all of its kernels included."""
    synchronize()
    start = time.perf_counter()
    way()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def extra_mib(way: Way) -> float:
    """Peak memory of one call beyond what was held before, in MiB."""
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    way()
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def times_of(ways: dict[str, Way], rounds: int) -> dict[str, float]:
    """Median seconds of each way; all take turns, so that a busy machine slows them alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
        way()  # compiled, measured by "auto", and with the libraries set up
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(seconds(way))
    return {name: statistics.median(times) for name, times in taken.items()}


def measure(layer: Layer, precision: str) -> dict[str, float]:
    """Milliseconds of the plain conv; the ratio of the others to it, and the memory of each in MiB."""
    chosen = ways(layer, precision)
    times = times_of(chosen, 30 if ON_GPU else 1)
    found = {"plain conv, ms": 1000 * times[PLAIN]}
    found |= {f"{name}, ratio": times[name] / times[PLAIN] for name in chosen if name != PLAIN}
    if ON_GPU:
        found |= {f"{name}, MiB": extra_mib(way) for name, way in chosen.items()}
    return found


def layers() -> list[Layer]:
    """Those with a target first; without a GPU one of each kind, small enough for the interpreter."""
    ordered = sorted(LAYERS, key=lambda layer: not layer.quick)
    if ON_GPU:
        return ordered
    kinds = {(len(layer.size), layer.depthwise): layer for layer in reversed(ordered)}
    return [
        dataclasses.replace(layer, batch=1, channels=4, size=tuple(min(n, 6) for n in layer.size), kernel=3)
        for layer in kinds.values()
    ]


def main() -> None:
    """One line per layer and precision, as many as the time allows; the last line counts the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100)
    end = time.monotonic() + parser.parse_args().seconds
    without_tf32()
    todo = [(layer, precision) for layer in layers() for precision in ("float32", "bfloat16 autocast")]
    if not ON_GPU:
        todo = [(layer, precision) for layer, precision in todo if precision == "float32"]
    for done, (layer, precision) in enumerate(todo):
        if time.monotonic() > end:
            with check(layer="the rest") as found:
                found["left out for lack of time"] = len(todo) - done
            return
        with check(layer=str(layer), precision=precision) as found:
            found |= measure(layer, precision)


if __name__ == "__main__":
    main()
