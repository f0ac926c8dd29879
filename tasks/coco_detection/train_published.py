"""Train by an mmengine config as mmdet does, on one or many GPUs, with or without a search.

    torchrun --nproc_per_node 8 -m tasks.coco_detection.train_published CONFIG --resume

CONFIG is one of tasks/coco_detection/configs/, for example. This is for the published schedules on several GPUs;
`training.py` is what the benchmark trains with.

It checks the data as every training does, and reads copies of the annotations that are as they are meant. It scores
val2017 after every epoch, as published. The learning rate is scaled linearly with the number of images per
step of all GPUs, from those that the config is for: 16, of RTMDet 256. With --estimate it trains a few steps on made-up
images of the published size and says how long the whole will take here.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rfnext.integrations import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

import torch
from mmengine.config import DictAction

from rfnext.integrations.mmengine import RFSearchRunner
from tasks.coco_detection import configs
from tasks.coco_detection.mmdetection import config_data, estimate, recipes


def train(config: Any) -> None:
    """Train, or go on with it, and score on the config's validation data. Raises what mmengine and the hook raise."""
    RFSearchRunner.from_cfg(config).train()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.coco_detection.train_published",
        description="Train by an mmengine config, with the search of its RFSearchHook.",
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--work-dir", type=Path, help="default: work_dirs/<name of the config>")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the work dir, if any")
    parser.add_argument("--data", type=Path, help="folder with COCO (default: $RFNEXT_DATA/coco or data/coco)")
    parser.add_argument("--estimate", action="store_true", help="only say how long it takes")
    parser.add_argument(
        "--set", nargs="+", action=DictAction, default={}, metavar="KEY=VALUE", help="change the config"
    )
    given = parser.parse_args(arguments)
    folder = given.data or Path(os.environ.get("RFNEXT_DATA") or Path(__file__).parents[2] / "data") / "coco"
    try:
        config = configs.load(given.config, folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    config.merge_from_dict(given.set)
    if given.estimate:
        shape = " x ".join(map(str, estimate.shape_of(config)))
        print(f"timing steps of {config.train_dataloader.batch_size} images, {shape}", file=sys.stderr)
        print(f"{given.config.stem}: {estimate.describe(config)}")
        return 0
    _place_data(config, folder)
    try:
        config_data.place(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    config.work_dir = str(given.work_dir or Path("work_dirs") / given.config.stem)
    config.resume = given.resume
    config.launcher = "pytorch" if "LOCAL_RANK" in os.environ else "none"
    if not torch.cuda.is_available():
        _use_cpus(config)
    if "auto_scale_lr" in config:
        config.auto_scale_lr.enable = True
    train(config)
    return 0


def _use_cpus(config: Any) -> None:
    """Replace what needs GPUs: mixed precision, and what mmengine does with torchrun's processes."""
    config.optim_wrapper = recipes.without_mixed_precision(config.optim_wrapper)
    if config.launcher == "none":
        return
    unused = config.get("find_unused_parameters", False)
    config.model_wrapper_cfg = {
        "type": "MMDistributedDataParallel",
        "device_ids": None,
        "broadcast_buffers": False,
        "find_unused_parameters": unused,
    }
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")


def _place_data(config: Any, folder: Path) -> None:
    """Replace mmdet's default data folder by another one everywhere in the config."""

    def placed(value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                value[key] = placed(value[key])
        elif isinstance(value, list):
            return [placed(entry) for entry in value]
        elif isinstance(value, str) and value.startswith("data/coco/"):
            return f"{folder}/{value.removeprefix('data/coco/')}"
        return value

    for key in ("train_dataloader", "val_dataloader", "test_dataloader", "val_evaluator", "test_evaluator"):
        config[key] = placed(config[key])


if __name__ == "__main__":
    sys.exit(main())
