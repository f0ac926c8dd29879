"""Memory and speed of reading: `python -m tasks.action_segmentation.speed`.

Makes a data folder of Breakfast's size in a temporary place: 1,712 videos of 2,048 float32 features, lengths spread as
published (130 to 9,741 frames, 2,097 on average), 48 classes. The features are random in one block of 64 and zero
elsewhere, so that the files, of 29 GB, take half a gigabyte of disk. Each measurement runs in a process of its own and
prints one JSON line: `peak` is the process's largest resident memory in GiB, memory-mapped files included; `seconds`
that of a training step, or of the whole; `waiting` the share of a step in which the training waits for data.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch

from tasks import checkpoint
from tasks.action_segmentation import datasets, models, predict
from tasks.action_segmentation.check import check
from tasks.action_segmentation.config import PRESETS, Config
from tasks.action_segmentation.datasets import I3D_SIZE, open_fold
from tasks.action_segmentation.evaluation import evaluate
from tasks.action_segmentation.training import batches, fit, loss
from tasks.spec import Run, Split

VIDEOS, CLASSES = 1712, 48
SHORTEST, LONGEST, MEAN = 130, 9741, 2097
PERSONS = range(3, 55)
BLOCK, EVERY = 4096, 64


def lengths(count: int) -> list[int]:
    """Frames of each video: a log-normal distribution with Breakfast's mean and extremes, in a fixed random order."""
    spread = 0.75
    normal = [NormalDist().inv_cdf((k + 0.5) / count) for k in range(count)]
    drawn = np.clip(MEAN * np.exp(spread * np.array(normal) - spread**2 / 2), SHORTEST, LONGEST)
    drawn[[0, -1]] = SHORTEST, LONGEST
    return np.random.default_rng(0).permutation(np.round(drawn).astype(int)).tolist()


def make_folder(root: Path, videos: int = VIDEOS) -> None:
    """Write a data folder in the MS-TCN layout with one fold; the persons of the first quarter are tested."""
    random = np.random.default_rng(1)
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("".join(f"{k} action{k}\n" for k in range(CLASSES)))
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for number, frames in enumerate(lengths(videos)):
        person = PERSONS[number % len(PERSONS)]
        name = f"P{person:02}_cam01_{number}"
        parts["test" if person < PERSONS[len(PERSONS) // 4] else "train"].append(f"{name}.txt\n")
        actions = np.sort(random.integers(0, 7, frames)) + random.integers(0, CLASSES - 7)
        (root / "groundTruth" / f"{name}.txt").write_text("".join(f"action{k}\n" for k in actions.tolist()))
        _write_features(root / "features" / f"{name}.npy", frames, random)
    for part, names in parts.items():
        (root / "splits" / f"{part}.split1.bundle").write_text("".join(names))


def _write_features(path: Path, frames: int, random: np.random.Generator) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (I3D_SIZE, frames)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        size = start + 4 * I3D_SIZE * frames
        block = random.random(BLOCK // 4, dtype=np.float32).tobytes()
        for at in range(start, size - BLOCK, EVERY * BLOCK):
            file.seek(at)
            file.write(block)
        file.truncate(size)


def _config(root: Path, preset: str, **changes: object) -> Config:
    return dataclasses.replace(PRESETS[preset], dataset="folder", root=root, folds=(1,), group=r"P\d+", **changes)


def _steps(config: Config, steps: int) -> dict[str, float]:
    """Seconds of a step and the share of them spent waiting, the first step left out."""
    dataset = open_fold(config, 1)
    network = models.build(config)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    waiting, whole = [], []
    loaded = iter(batches(dataset, config, seed=0))
    for _ in range(steps + 1):
        start = time.perf_counter()
        batch = next(loaded)
        waiting.append(time.perf_counter() - start)
        optimizer.zero_grad()
        loss(network(batch.features, batch.mask), batch.labels, batch.mask, config.smoothing).backward()
        optimizer.step()
        whole.append(time.perf_counter() - start)
    return {"seconds": sum(whole[1:]) / steps, "waiting": sum(waiting[1:]) / sum(whole[1:])}


SMALL: dict[str, object] = {"stages": 1, "layers": 2, "maps": 8, "epochs": 1, "lr_drop_epoch": None}
"""A network of nearly no time and memory: what is left is the reading."""


def _epoch(root: Path, preset: str, **changes: object) -> dict[str, float]:
    config = _config(root, preset, **({"epochs": 1} | changes))
    with tempfile.TemporaryDirectory() as folder:
        fit(models.build(config), config, Run(seed=0, fold=1, folder=Path(folder), device="cpu"))
    return {}


def _evaluation(root: Path) -> dict[str, float]:
    config = _config(root, "breakfast", **SMALL)
    return evaluate(models.build(config), config, Split("test", 1))


def _predict(root: Path) -> dict[str, float]:
    config = _config(root, "breakfast", **SMALL)
    with tempfile.TemporaryDirectory() as folder:
        network, out = Path(folder) / "network.pt", Path(folder) / "out"
        checkpoint.save(network, "action_segmentation", config, models.build(config), datasets.facts(config))
        predict.main([str(network), str(root), "--bundle", str(root / "splits" / "test.split1.bundle"), "--out", str(out)])
    return {}


def _check(root: Path) -> dict[str, float]:
    findings = check(root)
    assert not findings.problems, findings.problems[0]
    return {}


MEASUREMENTS: dict[str, Callable[[Path], dict[str, float]]] = {
    "check": _check,
    "epoch of a small network": lambda root: _epoch(root, "breakfast", **SMALL),
    "evaluation": _evaluation,
    "predict": _predict,
    "steps of compact": lambda root: _steps(_config(root, "compact"), 30),
    "steps of breakfast": lambda root: _steps(_config(root, "breakfast"), 12),
    "epoch of compact": lambda root: _epoch(root, "compact"),
    "epoch of breakfast": lambda root: _epoch(root, "breakfast"),
}


def peak() -> float:
    """Largest resident memory of this process so far, GiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def measure(root: Path, name: str) -> dict[str, object]:
    """One measurement, in this process."""
    start = time.perf_counter()
    found = {"measured": name, "seconds": 0.0} | MEASUREMENTS[name](root)
    found["seconds"] = found["seconds"] or time.perf_counter() - start
    return found | {"peak": peak(), "threads": torch.get_num_threads()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tasks.action_segmentation.speed", description="Memory and speed of reading.")
    parser.add_argument("measurements", nargs="*", default=list(MEASUREMENTS)[:6], help="default: all but long ones")
    parser.add_argument("--root", type=Path, help="folder that is made, or was; default: a temporary one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--here", action="store_true", help="in this process")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = given.root or Path(folder) / "data"
        if not root.exists():
            make_folder(root)
        for name in given.measurements:
            if given.here:
                torch.set_num_threads(given.threads)
                print(json.dumps(measure(root, name)), flush=True)
            else:
                subprocess.run([sys.executable, "-m", "tasks.action_segmentation.speed", name, "--root", str(root), "--threads", str(given.threads), "--here"], check=True)


if __name__ == "__main__":
    main()
