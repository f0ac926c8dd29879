"""What searching costs a detector: training steps in a search against plain ones, and against mmcv's own operator.

    python -m tasks.coco_detection.speed [--detectors res2net hrnet] [--repetitions 5] [--threads 1]

The five published detectors, untrained, on made-up images and boxes of 256 x 256 pixels: forward, backward and
optimizer. The three are interleaved, so that a busy machine slows all alike; what is compared are medians.
"""

from rfnext.integrations import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from mmcv.cnn.rfsearch.search import RFSearchHook as MmcvHook
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import DefaultScope
from torch import nn

from rfnext import LocalSearch
from tasks.coco_detection import detectors
from tasks.coco_detection.config import PRESETS
from tasks.coco_detection.detector_names import Detector
from tasks.coco_detection.mmdetection.quiet import quiet
from tasks.command_line import parse_or_end
from tasks.ranges import COUNT, THREADS, Range, check_ranges

CLASSES, THINGS = 133, 80


@dataclass(frozen=True)
class Options:
    """Training steps of the published detectors: plain, in our search, in mmcv's."""

    detectors: tuple[Detector, ...] = get_args(Detector)
    """Which to measure."""
    image: int = 256
    """Side of the images in pixels."""
    images: int = 1
    """Images per step."""
    repetitions: int = 5
    """Steps of each, after two that do not count."""
    threads: int = 1
    """Threads of torch."""

    def __post_init__(self) -> None:
        check_ranges(
            self, {"image": Range(least=32, most=8192), "images": COUNT, "repetitions": COUNT, "threads": THREADS}
        )


def plain(name: Detector) -> nn.Module:
    """The untrained detector of published size; no weights are downloaded."""
    torch.manual_seed(0)
    config = copy.deepcopy(detectors.model_config(name, "published", CLASSES if name == "panoptic" else THINGS, THINGS))
    with quiet(), DefaultScope.overwrite_default_scope("mmdet"):
        return revert_sync_batchnorm(MODELS.build(config))


def ours(name: Detector) -> nn.Module:
    """In the local search of the published run."""
    model = plain(name)
    LocalSearch(model, PRESETS[f"coco-{name}"].search, detectors.searched)
    return model


def by_mmcv(name: Detector) -> nn.Module:
    """The same search by mmcv's operator."""
    model = plain(name)
    search = PRESETS[f"coco-{name}"].search
    skipped = [part for part in ("stem", "layer1") if any(f"backbone.{part}." in n for n, _ in model.named_modules())]
    settings = {
        "step": 0,
        "max_step": search.rounds + 1,
        "search_interval": search.interval,
        "exp_rate": search.spread,
        "init_alphas": 0.01,
        "mmin": search.bounds.min,
        "mmax": search.bounds.max,
        "num_branches": search.branches,
        "skip_layer": [f"backbone.{part}" for part in skipped],
    }
    with quiet():
        MmcvHook(mode="search", config={"search": settings, "structure": {}}, verbose=False).init_model(model)
    return model


def stepper(model: nn.Module, name: Detector, options: Options) -> Callable[[], float]:
    """One training step; returns its seconds."""
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-6))
    inputs: Any = demo_mm_inputs(
        options.images,
        [(3, options.image, options.image)] * options.images,
        num_classes=THINGS,
        with_mask=True,
        with_semantic=name == "panoptic",
        use_box_type=False,
    )
    model.train()

    def step() -> float:
        start = time.perf_counter()
        model.train_step(copy.deepcopy(inputs), optimizer)  # type: ignore[operator]
        return time.perf_counter() - start

    return step


def measure(name: Detector, options: Options) -> dict[str, list[float]]:
    """Seconds of every step, by "plain", "rfnext" and "mmcv"."""
    with quiet():
        ways = {"plain": plain(name), "rfnext": ours(name), "mmcv": by_mmcv(name)}
        steps = {way: stepper(model, name, options) for way, model in ways.items()}
        seconds: dict[str, list[float]] = {way: [] for way in steps}
        for repetition in range(options.repetitions + 2):
            for way, step in steps.items():
                spent = step()
                if repetition > 1:  # the first ones choose implementations and fill caches
                    seconds[way].append(spent)
    return seconds


def main() -> int:
    """Command line."""
    options = parse_or_end(Options, None, prog="python -m tasks.coco_detection.speed", description=__doc__)
    torch.set_num_threads(options.threads)
    print("| detector | plain (s) | rfnext (s) | mmcv (s) | rfnext / plain | mmcv / plain |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in options.detectors:
        seconds = measure(name, options)
        cells = [f"{statistics.median(s):.2f} ({min(s):.2f}–{max(s):.2f})" for s in seconds.values()]
        for way in ("rfnext", "mmcv"):
            ratios = [a / b for a, b in zip(seconds[way], seconds["plain"], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
