"""How a detector is trained: pipelines of mmdet, optimizer and schedule."""

from dataclasses import dataclass
from typing import Any, get_args

import torch

from tasks.coco_detection import detectors
from tasks.coco_detection.config import SMALL_LR, Config
from tasks.coco_detection.detector_names import BoxDetector

LR_BATCH = 16
"""Images per step that the learning rates of the small detectors are for."""


@dataclass(frozen=True)
class Recipe:
    """train_pipeline, test_pipeline: transforms of mmdet. group_by_aspect_ratio: batch wide and tall images apart."""

    config: Config
    train_pipeline: list[dict[str, Any]]
    test_pipeline: list[dict[str, Any]]
    group_by_aspect_ratio: bool

    def optimizer(self, device: torch.device) -> dict[str, Any]:
        """mmengine's optimizer wrapper; the learning rate is scaled linearly with the batch."""
        if self.config.size != "published":
            lr = (self.config.lr or SMALL_LR) * self.config.batch / LR_BATCH
            return {
                "type": "OptimWrapper",
                "optimizer": {"type": "AdamW", "lr": lr, "weight_decay": 0.01, "fused": True},
                "clip_grad": {"max_norm": 5.0},
                "paramwise_cfg": {
                    "norm_decay_mult": 0.0,
                    "custom_keys": {"branch_weight": {"decay_mult": 0.0}},
                    "bypass_duplicate": True,  # RTMDet's levels share convs
                },
            }
        published = detectors.published(self.config.detector)
        wrapper = published.optim_wrapper.to_dict()
        lr = self.config.lr or published.optim_wrapper.optimizer.lr
        wrapper["optimizer"]["lr"] = lr * self.config.batch / published.auto_scale_lr.base_batch_size
        return without_mixed_precision(wrapper) if device.type == "cpu" else wrapper

    def schedule(self, steps: int) -> list[dict[str, Any]]:
        """mmengine's schedulers of the learning rate for a training of so many steps."""
        epochs = self.config.epochs
        if self.config.size != "published":
            warmup = steps // 20
            decay = {"type": "CosineAnnealingLR", "by_epoch": False, "begin": warmup, "end": steps}
            decay |= {"T_max": steps - warmup, "eta_min_ratio": 0.02}
            rise = {"type": "LinearLR", "start_factor": 0.05, "by_epoch": False, "begin": 0, "end": warmup}
            return [rise, decay] if warmup else [decay]
        published = detectors.published(self.config.detector)
        share = epochs / published.train_cfg.max_epochs
        schedulers = [dict(scheduler) for scheduler in published.param_scheduler]
        for scheduler in schedulers:
            if scheduler.get("by_epoch", True):
                scheduler["end"] = epochs
                if "milestones" in scheduler:
                    scheduler["milestones"] = [round(share * epoch) for epoch in scheduler["milestones"]]
                else:  # RTMDet's cosine over the second half
                    scheduler |= {"begin": round(share * scheduler["begin"])}
                    scheduler |= {"T_max": epochs - scheduler["begin"]}
                    # As a share: the config's learning rate may be below the published end.
                    scheduler["eta_min_ratio"] = scheduler.pop("eta_min") / published.optim_wrapper.optimizer.lr
        return schedulers


def without_mixed_precision(wrapper: Any) -> Any:
    """mmengine's optimizer wrapper for a CPU, where its AmpOptimWrapper does not work."""
    if wrapper.get("type") != "AmpOptimWrapper":
        return wrapper
    return {key: value for key, value in wrapper.items() if key != "loss_scale"} | {"type": "OptimWrapper"}


def recipe(config: Config) -> Recipe:
    """The published recipe of the config's detector, or that of the small ones: AdamW, a cosine, no augmentation."""
    masks = {} if config.detector not in get_args(BoxDetector) else {"with_mask": False}
    if config.size == "published":
        published = detectors.published(config.detector)
        # RTMDet's last 20 epochs, which have no mosaics: these keep images of earlier steps, which no checkpoint has.
        plain = _plain(published.get("train_pipeline_stage2") or published.train_dataloader.dataset.pipeline)
        pipelines = plain, _plain(published.test_dataloader.dataset.pipeline)
        # In the place of a crop without an object, mmdet takes one of another image, by a random number of its own.
        changes = {"LoadAnnotations": masks, "RandomCrop": {"allow_negative_crop": True}}
        train, test = ([step | changes.get(step["type"], {}) for step in steps] for steps in pipelines)
        return Recipe(config, train, test, group_by_aspect_ratio=True)
    load = (
        {"type": "LoadPanopticAnnotations"}
        if config.detector == "panoptic"
        else {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True} | masks
    )
    resize = {"type": "Resize", "scale": (config.image, config.image), "keep_ratio": True}
    # No flips: a mirrored digit is no digit.
    flip = [] if config.dataset == "scenes" else [{"type": "RandomFlip", "prob": 0.5}]
    read = {"type": "LoadImageFromFile"}
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    return Recipe(
        config,
        [read, load, resize, *flip, {"type": "PackDetInputs"}],
        [read, resize, {"type": "PackDetInputs", "meta_keys": keys}],
        group_by_aspect_ratio=False,
    )


def _plain(pipeline: Any) -> list[dict[str, Any]]:
    return [dict(step) for step in pipeline]
