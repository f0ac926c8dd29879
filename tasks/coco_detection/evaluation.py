"""Prediction and scoring on a part of the data, and what receptive fields are measured on."""

from rfnext.integrations import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

import json
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from torch import nn
from torch.utils.data import DataLoader

from rfnext import reproducible
from tasks.coco_detection import datasets
from tasks.coco_detection.coco_format import images
from tasks.coco_detection.coco_format.layout import PartFiles
from tasks.coco_detection.config import Config
from tasks.coco_detection.data import Dataset
from tasks.coco_detection.detectors import family
from tasks.coco_detection.metrics import metrics_by_config
from tasks.coco_detection.mmdetection.loading import read_part, test_loader
from tasks.coco_detection.mmdetection.quiet import quiet
from tasks.coco_detection.panoptic_quality import VOID, Ids, PanopticQuality, rgb_to_id
from tasks.diverged import NotFinite, diverged, finite
from tasks.spec import Part, Probe, Split, fail

Sample = Any
"""mmdet's DetDataSample, whose fields are set at run time, so no checker finds them."""


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    """Box and mask mAP, or PQ, SQ and RQ, in percent; see `score`."""
    return score(model, datasets.open_fold(config, split.fold), split.part, config)


@torch.no_grad()
def predict(model: nn.Module, loader: Any) -> Iterator[Sample]:
    """The detector's predictions on the batches of a loader, image by image, in evaluation mode.

    Runs on the model's device and leaves the mode as it was. Raises NotFinite.
    """
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for batch in loader:
            with quiet(), reproducible(device), finite(model):
                samples = model.test_step(batch)  # type: ignore[operator]
            yield from samples
    finally:
        model.train(training)


def score(model: nn.Module, dataset: Dataset, part: Part, config: Config) -> dict[str, float]:
    """All metrics of `config` in percent on a part of a dataset: box and mask mAP by pycocotools, or PQ, SQ and RQ.

    They are nan if the training diverged or an output overflows.
    """
    none = {metric.name: math.nan for metric in metrics_by_config(config)}
    if diverged(model):
        return none
    try:
        return _score(model, dataset, part, config)
    except NotFinite:
        return none


def _score(model: nn.Module, dataset: Dataset, part: Part, config: Config) -> dict[str, float]:
    with quiet():
        files = dataset.part(part)
        loader = test_loader(dataset, files, config)
        if dataset.kind == "panoptic":
            return _score_panoptic(model, files, loader)
        kinds = ["bbox"] if dataset.kind == "boxes" else ["bbox", "segm"]
        metric = CocoMetric(ann_file=str(files.annotations), metric=kinds)
        evaluator = Evaluator([metric])
        evaluator.dataset_meta = {"classes": dataset.classes}
        for sample in predict(model, loader):
            evaluator.process([sample])
        found = evaluator.evaluate(len(cast(CocoDataset, loader.dataset)))
    # Nothing is reported where nothing was detected, and -1 where there is nothing to detect.
    return {
        metric.name: 100 * max(0.0, float(found.get(MMDET_NAMES[metric.name], 0.0)))
        for metric in metrics_by_config(config)
    }


MMDET_NAMES = {
    f"{ours}_mAP{ours_end}": f"coco/{theirs}_mAP{their_end}"
    for ours, theirs in (("box", "bbox"), ("mask", "segm"))
    for ours_end, their_end in (("", ""), ("50", "_50"), ("_s", "_s"), ("_m", "_m"), ("_l", "_l"))
}
"""Our names of metrics -> those of mmdet's CocoMetric."""


def _score_panoptic(model: nn.Module, files: PartFiles, loader: DataLoader) -> dict[str, float]:
    content = json.loads(files.annotations.read_text("utf-8"))
    truths = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    category = [entry["id"] for entry in content["categories"]]
    assert files.maps is not None
    quality = PanopticQuality()
    for sample in predict(model, loader):
        truth = truths[sample.img_id]
        path = files.maps / truth["file_name"]
        ids = rgb_to_id(images.read(path))
        predicted, segments = panoptic_segments(sample, category)
        try:
            quality.add(ids, truth["segments_info"], predicted, segments)
        except ValueError as error:
            fail(path, None, str(error), "give the PNG of this annotation")
    return quality.scores()


PROBED = 2
"""Images that receptive fields are measured on."""

STRIDE = 32
"""Of the coarsest feature map of all backbones."""


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    """What to measure receptive fields on: `PROBED` images, spread evenly over the part, scaled as for prediction.

    The output is the strongest channel of the backbone's coarsest feature map: layer normalisation, which
    ends some backbones, leaves the sum of the channels without a gradient.
    """
    detector: Any = model
    with quiet():
        dataset = datasets.open_fold(config, split.fold)
        data = read_part(dataset, dataset.part(split.part), config, training=False)
        chosen = np.unique(np.linspace(0, len(data) - 1, PROBED).round().astype(int)).tolist()
        inputs = [detector.data_preprocessor(pseudo_collate([data[index]]), False)["inputs"] for index in chosen]
    return Probe(
        forward=lambda x: detector.backbone(x)[-1].amax(1, keepdim=True),
        inputs=inputs,
        unit="pixels",
        step=(1.0, 1.0),
        output="the strongest channel of the backbone's coarsest feature map",
        shift=0.0 if family(config.detector) == "convnext" else -(STRIDE - 1) / 2,  # ConvNeXt's patches do not overlap
    )


def panoptic_segments(sample: Sample, category: list[int]) -> tuple[Ids, list[dict[str, int]]]:
    """A panoptic prediction as segment ids, (H, W), and the segments.

    category: id of each label; labels beyond are void.
    """
    found = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy().astype(np.int64)
    labels = found % INSTANCE_OFFSET
    ids = np.where(labels < len(category), found + 1, VOID)
    return ids, [
        {"id": id_, "category_id": category[(id_ - 1) % INSTANCE_OFFSET]}
        for id_ in np.unique(ids).tolist()
        if id_ != VOID
    ]
