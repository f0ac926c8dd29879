"""How long a training by an mmengine config takes here: a few steps on made-up images of the published size."""

from rfnext.integrations import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

import statistics
import time
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.registry import DefaultScope
from torch import nn

from rfnext.integrations.mmengine import RFSearchHook
from tasks.coco_detection.mmdetection.quiet import quiet

COCO_TRAIN_IMAGES = 117_266
"""Images of train2017 with at least one annotation: what mmdet trains on."""

SIZE = (3, 800, 1216)
"""Shape of the made-up images: COCO's mean one at the published scale, 1333 x 800, padded to a multiple of 32."""

ENOUGH = 20.0
"""Seconds after which no step begins but the first that counts."""


def search_hook(config: Any) -> Any:
    """The config's entry for RFSearchHook, or None."""
    hooks = config.get("custom_hooks") or ()
    return next((hook for hook in hooks if str(hook.get("type")).endswith("RFSearchHook")), None)


def describe(config: Any) -> str:
    """The estimate for a whole training on COCO, as a sentence."""
    image = seconds_per_image(config)
    epochs = config.train_cfg.max_epochs
    hours = image * COCO_TRAIN_IMAGES * epochs / 3600
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU core or more"
    return (
        f"about {hours:.0f} hours of one {where}, divided by their number: an estimate, {image:.3f} s per image in "
        f"steps with made-up images x {COCO_TRAIN_IMAGES} images x {epochs} epochs; without loading and scoring"
    )


def shape_of(config: Any) -> tuple[int, int, int]:
    """Shape of the images of a training: what its transforms pad them to, as RTMDet's do, else `SIZE`."""
    for step in reversed(config.train_dataloader.dataset.pipeline):
        if step["type"] == "Pad" and step.get("size"):
            height, width = step["size"]
            return 3, height, width
    return SIZE


def seconds_per_image(config: Any, size: tuple[int, int, int] | None = None, steps: int = 5) -> float:
    """Mean time of a training step per image on one device, measured over `steps` steps after one that is not.

    After `ENOUGH` seconds no further step begins, once one is measured.

    Weights are random, so that nothing is downloaded; a structure file that the config names has to exist. size: None:
    that of the config.
    """
    size = size or shape_of(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = config.train_dataloader.batch_size
    with quiet(), DefaultScope.overwrite_default_scope("mmdet"):
        model: nn.Module = MODELS.build(config.model)
        if (hook := search_hook(config)) is not None:
            RFSearchHook(**{key: value for key, value in hook.items() if key not in ("type", "priority")}).prepare(
                model
            )
        model.to(device).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        panoptic = config.model.type == "PanopticFPN"
        masks = "roi_head" in config.model
        head = config.model.roi_head.mask_head if masks else config.model.bbox_head
        given = {
            "num_classes": head.num_classes,
            "num_items": [7] * batch,
            "with_mask": masks,
            "with_semantic": panoptic,
        }
        data = demo_mm_inputs(batch, [size] * batch, device=str(device), **given)
        times: list[float] = []
        while len(times) < 2 or (len(times) <= steps and sum(times) < ENOUGH):
            start = time.perf_counter()
            amp = device.type == "cuda" and config.optim_wrapper.type == "AmpOptimWrapper"
            with torch.autocast(device.type, enabled=amp):
                losses = model(**model.data_preprocessor(data, True), mode="loss")  # type: ignore[operator]
                loss, _ = model.parse_losses(losses)  # type: ignore[operator]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return statistics.fmean(times[1:]) / batch
