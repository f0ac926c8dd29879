"""Pictures of predictions: images with boxes and masks, or with panoptic segments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from rfnext.files import write_bytes
from tasks.coco_detection import datasets
from tasks.coco_detection.coco_format import images
from tasks.coco_detection.config import Config
from tasks.coco_detection.evaluation import INSTANCE_OFFSET, Sample, predict, pseudo_collate
from tasks.coco_detection.mmdetection.loading import read_part
from tasks.coco_detection.mmdetection.quiet import quiet
from tasks.pictures import colour, png, sheet
from tasks.spec import Split

IMAGES = 4
"""Images per picture."""

TILE = 200
"""Longer side of an image in a picture, in pixels."""

Pixels = NDArray[np.uint8]


def illustrate(model: nn.Module, config: Config, split: Split, folder: Path) -> list[Path]:
    """Draw the predictions on four images, spread evenly over the part, side by side into a PNG.

    Of each image the three most certain instances are drawn, and all others with a score of at least 0.3. Raises
    OSError if the file cannot be written.
    """
    dataset = datasets.open_fold(config, split.fold)
    path = folder / f"fold{split.fold}-{split.part}.png"
    with quiet():
        data = read_part(dataset, dataset.part(split.part), config, training=False)
        chosen = np.unique(np.linspace(0, len(data) - 1, IMAGES).round().astype(int)).tolist()
        samples = predict(model, [pseudo_collate([data[index]]) for index in chosen])
        tiles = [draw(images.read(sample.img_path), sample, dataset.classes, _threshold(sample)) for sample in samples]
    write_bytes(path, png(sheet([tiles], TILE)))
    return [path]


def _threshold(sample: Sample) -> float:
    if "pred_instances" not in sample:
        return 0.3
    return min([0.3, *sample.pred_instances.scores.sort(descending=True).values[:3].tolist()])


def draw(image: Pixels, sample: Sample, classes: Sequence[str], threshold: float) -> Pixels:
    """The image, (H, W, 3), with what was predicted on it.

    Instances of a score of at least `threshold` get a box, a mask and their class; panoptic segments a colour each.
    """
    canvas = torch.from_numpy(image.copy()).permute(2, 0, 1)
    if "pred_panoptic_seg" in sample:
        found = sample.pred_panoptic_seg.sem_seg[0].cpu()
        ids = [id_ for id_ in found.unique().tolist() if id_ % INSTANCE_OFFSET < len(classes)]
        masks = torch.stack([found == id_ for id_ in ids]) if ids else found.new_zeros((0, *found.shape))
        colours = [colour(id_ % INSTANCE_OFFSET + 7 * (id_ // INSTANCE_OFFSET)) for id_ in ids]
        return _numpy(draw_segmentation_masks(canvas, masks.bool(), alpha=0.5, colors=colours) if ids else canvas)
    found = confident(sample, threshold)
    if not len(found):
        return _numpy(canvas)
    labels = found.labels.tolist()
    colours = [colour(label) for label in labels]
    if "masks" in found:
        masks = torch.as_tensor(found.masks, dtype=torch.bool).cpu()
        canvas = draw_segmentation_masks(canvas, masks, alpha=0.5, colors=colours)
    names = [f"{classes[label]} {score:.2f}" for label, score in zip(labels, found.scores.tolist(), strict=True)]
    return _numpy(draw_bounding_boxes(canvas, found.bboxes.cpu(), names, colours, width=2))


def confident(sample: Sample, threshold: float) -> Any:
    """The predicted instances whose score is at least `threshold` and whose box is not empty."""
    found = sample.pred_instances
    sides = found.bboxes[:, 2:] - found.bboxes[:, :2]
    return found[(found.scores >= threshold) & (sides > 0).all(dim=1)]


def _numpy(canvas: Tensor) -> Pixels:
    return canvas.permute(1, 2, 0).numpy()
