# ruff: noqa: E402  (the stand-in for mmcv's operators comes before mmdet)
"""Train by an mmengine config as mmdet does, on one or many GPUs, with or without a search.

    torchrun --nproc_per_node 8 -m tasks.coco_detection.train tasks/coco_detection/configs/res2net_search.py --resume

It scores val2017 after every epoch, as published. The learning rate is scaled linearly with the number of images per
step of all GPUs, from the 16 that the configs are for. With --estimate it trains a few steps on made-up images of the
published size and says how long the whole will take here.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.coco_detection import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import DictAction
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from rfnext.integrations.mmengine import RFSearchHook, RFSearchRunner
from tasks.coco_detection import configs
from tasks.coco_detection.quiet import quiet

COCO_TRAIN_IMAGES = 117_266
"""Images of train2017 with at least one annotation: what mmdet trains on."""

SIZE = (3, 800, 1216)
"""Shape of the made-up images: COCO's mean one at the published scale, 1333 x 800, padded to a multiple of 32."""


def train(config: Any) -> None:
    """Train, or go on with it, and score on the config's validation data. Raises what mmengine and the hook raise."""
    runner = (RFSearchRunner if _search_hook(config) else Runner).from_cfg(config)
    runner.train()


def _search_hook(config: Any) -> Any:
    """The config's entry for RFSearchHook, or None."""
    hooks = config.get("custom_hooks") or ()
    return next((hook for hook in hooks if str(hook.get("type")).endswith("RFSearchHook")), None)


def seconds_per_image(config: Any, size: tuple[int, int, int] = SIZE, steps: int = 5) -> float:
    """Mean time of a training step per image on one device, measured over `steps` steps after one that is not.

    Weights are random, so that nothing is downloaded; a structure file that the config names has to exist.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = config.train_dataloader.batch_size
    with quiet(), DefaultScope.overwrite_default_scope("mmdet"):
        model: nn.Module = MODELS.build(config.model)
        if (hook := _search_hook(config)) is not None:
            RFSearchHook(**{key: value for key, value in hook.items() if key not in ("type", "priority")}).prepare(
                model
            )
        model.to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        panoptic = config.model.type == "PanopticFPN"
        classes = config.model.roi_head.mask_head.num_classes
        given = {"num_classes": classes, "num_items": [7] * batch, "with_mask": True, "with_semantic": panoptic}
        data = demo_mm_inputs(batch, [size] * batch, device=str(device), **given)
        start = 0.0
        for step in range(steps + 1):
            amp = device.type == "cuda" and config.optim_wrapper.type == "AmpOptimWrapper"
            with torch.autocast(device.type, enabled=amp):
                losses = model(**model.data_preprocessor(data, True), mode="loss")  # type: ignore[operator]
                loss, _ = model.parse_losses(losses)  # type: ignore[operator]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if step == 0:
                start = time.perf_counter()
    return (time.perf_counter() - start) / steps / batch


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tasks.coco_detection.train",
        description="Train by an mmengine config, with the search that its RFSearchHook asks for.",
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
    config = configs.load(given.config)
    config.merge_from_dict(given.set)
    if given.estimate:
        image = seconds_per_image(config)
        hours = image * COCO_TRAIN_IMAGES * config.train_cfg.max_epochs / 3600
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU core or more"
        print(
            f"{given.config.stem}: about {hours:.0f} hours of one {where}, divided by their number: an estimate, "
            f"{image:.3f} s per image in 5 steps with made-up images x {COCO_TRAIN_IMAGES} images x "
            f"{config.train_cfg.max_epochs} epochs; without loading and scoring"
        )
        return 0
    folder = given.data or Path(os.environ.get("RFNEXT_DATA") or Path(__file__).parents[2] / "data") / "coco"
    _place_data(config, folder)
    config.work_dir = str(given.work_dir or Path("work_dirs") / given.config.stem)
    config.resume = given.resume
    config.launcher = "pytorch" if "LOCAL_RANK" in os.environ else "none"
    if "auto_scale_lr" in config:
        config.auto_scale_lr.enable = True
    train(config)
    return 0


def _place_data(config: Any, folder: Path) -> None:
    """Point everything in the config that reads mmdet's default data folder to another one."""

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
