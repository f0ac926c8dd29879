"""Memory and time of reading: `python -m tasks.action_segmentation.speed`.

Makes a data folder of Breakfast's size in a temporary place: 1,712 videos of 2,048 float32 features, with lengths
spread as published (130 to 9,741 frames, about 2,097 on average) and 48 classes, see `published_sizes`. On real data
the time of the disk comes on top, in the thread that reads ahead.

Prints one JSON line a measurement. peak: the largest resident memory of its process in GiB, pages of files that are
mapped at that moment included; imports: what it was before anything was read. seconds: of one training step for
"steps", of the whole for others. waiting: the share of a step in which the training waits for its videos. cpu, reading:
CPU seconds of a step, of the training and of the thread that reads, which say what waiting would be where each has a
core of its own. "steps-whole" is "steps-breakfast" with all videos of a step in one pass, without `Config.micro_batch`.
Names can be given several times: `steps-breakfast steps-whole steps-breakfast steps-whole` compares in turns.
"""

import argparse
import dataclasses
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from tasks import checkpoint
from tasks.action_segmentation import datasets, models, predict
from tasks.action_segmentation.check import check
from tasks.action_segmentation.config import PRESETS, Config
from tasks.action_segmentation.data import Batch
from tasks.action_segmentation.datasets import open_fold
from tasks.action_segmentation.evaluation import evaluate
from tasks.action_segmentation.published_sizes import SIZES, make_folder
from tasks.action_segmentation.training import Steps, accumulate, fit
from tasks.spec import Run, Split


def _config(root: Path, preset: str, **changes: Any) -> Config:
    return dataclasses.replace(PRESETS[preset], dataset="folder", root=root, folds=(1,), group=r"P\d+", **changes)


def _steps(config: Config, steps: int) -> dict[str, float]:
    """What a step takes, medians over all steps but the first."""
    dataset = open_fold(config, 1)
    network = models.build(config)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    waiting, whole, computing, reading = [], [], [], []
    for step in itertools.islice(Steps(dataset, config, seed=0), steps + 1):
        waits: list[float] = []
        start, begun, own = time.perf_counter(), time.process_time(), time.thread_time()
        optimizer.zero_grad()
        accumulate(network, _timed(step.parts, waits), step.counts, config.smoothing)
        optimizer.step()
        whole.append(time.perf_counter() - start)
        computing.append(time.thread_time() - own)
        reading.append(time.process_time() - begun - computing[-1])
        waiting.append(sum(waits) / whole[-1])
    found = {"seconds": whole, "cpu": computing, "reading": reading, "waiting": waiting}
    return {name: round(statistics.median(values[1:]), 4) for name, values in found.items()}


def _timed(parts: Iterator[Batch], waits: list[float]) -> Iterator[Batch]:
    """The parts; how long each was waited for is added to `waits`."""
    while True:
        start = time.perf_counter()
        part = next(parts, None)
        waits.append(time.perf_counter() - start)
        if part is None:
            return
        yield part
        del part


def _small(root: Path) -> Config:
    """A network of nearly no time and memory: what is left is the reading."""
    return _config(root, "breakfast", stages=1, layers=2, maps=8, epochs=1, lr_drop_epoch=None)


def _epoch(config: Config) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        fit(models.build(config), config, Run(seed=0, fold=1, folder=Path(folder), device="cpu"))
    return {}


def _evaluation(config: Config) -> dict[str, float]:
    evaluate(models.build(config), config, Split("test", 1))
    return {}


def _predict(config: Config) -> dict[str, float]:
    root = datasets.data_folder(config)
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.pt"
        checkpoint.save(network, "action_segmentation", config, models.build(config), datasets.facts(config))
        bundle = root / "splits" / "test.split1.bundle"
        predict.main([str(network), str(root), "--bundle", str(bundle), "--out", f"{folder}/out"])
    return {}


def _check(root: Path) -> dict[str, float]:
    findings = check(root).findings
    assert not findings.problems, findings.problems[0]
    return {}


MEASUREMENTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "check": _check,
    "epoch": lambda root: _epoch(_small(root)),
    "evaluation": lambda root: _evaluation(_small(root)),
    "predict": lambda root: _predict(_small(root)),
    "steps-compact": lambda root: _steps(_config(root, "compact"), 30),
    "steps-breakfast": lambda root: _steps(_config(root, "breakfast"), 16),
    "steps-whole": lambda root: _steps(_config(root, "breakfast", micro_batch=None), 16),
    "steps-small": lambda root: _steps(_small(root), 64),
}
"""The first four and the last with a small network, so that the reading is what is measured; the others with that of
the preset. The sixteenth step has the longest video of the data."""


def peak() -> float:
    """Largest resident memory of this process so far, GiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def measure(root: Path, name: str) -> dict[str, Any]:
    """One measurement, in this process."""
    before, start = peak(), time.perf_counter()
    found = MEASUREMENTS[name](root)
    seconds = round(time.perf_counter() - start, 2)
    return {"measured": name, "seconds": seconds} | found | {"peak": round(peak(), 3), "imports": round(before, 3)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.action_segmentation.speed",
        description="Memory and time of reading data of Breakfast's size. Prints a JSON line for each measurement.",
    )
    parser.add_argument("measured", nargs="*", default=list(MEASUREMENTS), help="; ".join(MEASUREMENTS))
    parser.add_argument("--root", type=Path, help="the data folder, made if it is missing; default: a temporary one")
    given = parser.parse_args(arguments)
    if unknown := set(given.measured) - set(MEASUREMENTS):
        parser.error(f"there is no measurement {min(unknown)!r}; known: {', '.join(MEASUREMENTS)}")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root = given.root or Path(folder) / "data"
        if not root.exists():
            make_folder(root, SIZES["breakfast"])
        for name in given.measured:
            # A process of its own for each: the largest memory is that of a process's whole life.
            with ProcessPoolExecutor(1, context, torch.set_num_threads, (1,)) as process:
                print(json.dumps(process.submit(measure, root, name).result()), flush=True)


if __name__ == "__main__":
    main()
