"""Predictions of a trained network, their scores, and what its receptive fields are measured on."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from rfnext import reproducible
from tasks.diverged import NotFinite, diverged, finite
from tasks.semantic_segmentation import metrics
from tasks.semantic_segmentation.config import Config
from tasks.semantic_segmentation.data import Dataset
from tasks.semantic_segmentation.datasets import open_fold
from tasks.spec import DataError, Part, Probe, Split

PROBED = 2
"""Images that receptive fields are measured on."""

LEAST = 32
"""Fewest rows and columns that networks read: the coarsest maps of fewer are empty."""

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's red, green and blue: the pretrained backbones are for images that are normalised by them."""

Pixels = NDArray[np.uint8]


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    """mIoU and accuracy of one part, in percent; see `metrics.scores`."""
    return score(model, config, open_fold(config, split.fold), split.part)


def score(model: nn.Module, config: Config, dataset: Dataset, part: Part) -> dict[str, float]:
    """All metrics of a network on a part of a fold; labels and predictions are compared at the size of the labels.

    All are nan if the training diverged or an output overflows. Raises DataError if no pixel of the part has a class.
    """
    none: dict[str, float] = dict.fromkeys(("mIoU", "accuracy"), math.nan)
    if diverged(model):
        return none
    samples, classes = dataset.part(part), len(dataset.classes)
    matrix = np.zeros((classes, classes), np.int64)
    for index in range(len(samples)):
        sample = samples[index]
        try:
            found = predict(model, sample.image, config.image)
        except NotFinite:
            return none
        matrix += metrics.confusion(sample.labels, found, classes)
    if not matrix.any():
        raise DataError(f"no pixel of the {part} part has a class; label some")
    return metrics.scores(matrix)


@torch.no_grad()
def predict(model: nn.Module, image: Pixels, side: int) -> Pixels:
    """Class of each pixel, (height, width), of an image (height, width, 3), whose longer side is scaled to `side`.

    Runs on the network's device in evaluation mode and leaves the mode as it was. Raises NotFinite.
    """
    training = model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        with reproducible(device), finite(model):
            small = scaled(image, side)
            found = model(prepared(small).to(device))["out"]
            found = found[..., : small.shape[0], : small.shape[1]]  # without what `prepared` has added
            return highest(found, image.shape[0], image.shape[1])
    finally:
        model.train(training)


def prepared(image: Pixels) -> Tensor:
    """A batch of one image, (1, 3, height, width): normalised, and with zeros beyond it, as in training, to `LEAST`."""
    x = normalised(image)
    below, beside = (max(0, LEAST - length) for length in x.shape[1:])
    return nn.functional.pad(x, (0, beside, 0, below))[None]


def scaled(image: Pixels, side: int) -> Pixels:
    """An image whose longer side is `side`."""
    factor = side / max(image.shape[:2])
    height, width = (max(1, round(factor * length)) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def normalised(image: Pixels) -> Tensor:
    """What networks read: (height, width, 3) in 0 .. 255 -> (3, height, width)."""
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255
    return (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(SPREAD)[:, None, None]


def highest(logits: Tensor, height: int, width: int) -> Pixels:
    """The class of the highest logit, (height, width); logits (1, classes, h, w) are scaled to that size.

    Class by class, since an image of 2^27 pixels would have hundreds of gigabytes of logits.
    """
    best = torch.full((height, width), -torch.inf, device=logits.device)
    found = torch.zeros((height, width), dtype=torch.uint8, device=logits.device)
    for index in range(logits.shape[1]):
        one = logits[:, index : index + 1]
        one = nn.functional.interpolate(one, (height, width), mode="bilinear", align_corners=False)[0, 0]
        higher = one > best
        best, found[higher] = torch.maximum(best, one), index
    return found.cpu().numpy()


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    """What receptive fields are measured on: `PROBED` images, spread evenly over the part, scaled as for prediction.

    The output is the logit of the predicted class.
    """
    samples, device = open_fold(config, split.fold).part(split.part), next(model.parameters()).device
    chosen = np.unique(np.linspace(0, len(samples) - 1, PROBED).round().astype(int)).tolist()
    network: Any = model
    return Probe(
        forward=lambda x: network(x)["out"].amax(1, keepdim=True),
        inputs=[prepared(scaled(samples[index].image, config.image)).to(device) for index in chosen],
        unit="pixels",
        step=(1.0, 1.0),
        output="the logit of the predicted class",
        shift=_shift(network, config),
    )


def _shift(network: Any, config: Config) -> float:
    """`Probe.shift`: of DeepLabV3's one map, or of the finest of UPerNet's, on which it decides."""
    if config.network == "deeplabv3":
        return -(8 - 1) / 2
    stem = next(module for module in network.backbone.modules() if isinstance(module, nn.Conv2d))
    # Strides of ResNets come from padded convs; ConvNeXt's patches do not overlap.
    return -(4 - 1) / 2 if stem.kernel_size[0] > stem.stride[0] else 0.0
