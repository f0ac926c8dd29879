"""Predictions of a trained network, their scores, and what its receptive fields are measured on."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rfnext import reproducible
from tasks.action_segmentation import metrics
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.data import Dataset, Video, Videos, upsample
from tasks.action_segmentation.datasets import open_fold
from tasks.action_segmentation.models.network import network_of
from tasks.diverged import NotFinite, diverged, finite
from tasks.spec import Probe, Split

PROBED = 4
"""Videos that receptive fields are measured on."""


def evaluate(model: nn.Module, config: Config, split: Split) -> dict[str, float]:
    """f1@10, f1@25, f1@50, edit and accuracy of one part, in percent; see `metrics.score`."""
    dataset = open_fold(config, split.fold)
    return score(model, dataset, dataset.part(split.part), config.last_segment)


def score(
    network: nn.Module, dataset: Dataset, videos: Videos | Sequence[Video], last_segment: metrics.LastSegment
) -> dict[str, float]:
    """All metrics of a network on some videos of a dataset; see `metrics.score`. They are nan if it diverged or
    overflows."""
    none = dict.fromkeys(("accuracy", "edit", *(f"f1@{overlap}" for overlap in metrics.OVERLAPS)), math.nan)
    if diverged(network):
        return none
    try:
        return metrics.score(
            (
                (predict(network, video.features, dataset.step, len(video.full_labels)), video.full_labels)
                for video in videos
            ),
            background=[index for index, name in enumerate(dataset.classes) if name == "background"],
            last_segment=last_segment,
        )
    except NotFinite:
        return none


@torch.no_grad()
def predict(network: nn.Module, features: NDArray[np.float32], step: int | Fraction, frames: int) -> NDArray[np.int64]:
    """Class index of every frame of a video, (frames): `Network.predict`, up-sampled; see `upsample`.

    Runs on the network's device in evaluation mode and leaves the mode as it was. Raises NotFinite.

    features: (D, n), one vector per `step` frames.
    """
    training, device = network.training, next(network.parameters()).device
    network.eval()
    try:
        with reproducible(device), finite(network):
            found = network_of(network).predict(torch.from_numpy(features)[None].to(device))[0]
    finally:
        network.train(training)
    return upsample(found.cpu().numpy(), step, frames)


def probe(model: nn.Module, config: Config, split: Split) -> Probe:
    """What receptive fields are measured on: up to `PROBED` whole videos, spread evenly over the part.

    The output is the last stage's logit of the predicted class, at every frame. The sum over all classes would mean
    nothing: softmax does not depend on it. One input position is `Dataset.step` frames.
    """
    dataset = open_fold(config, split.fold)
    videos, device = dataset.part(split.part), next(model.parameters()).device
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(PROBED, len(videos))).round().astype(int)).tolist()
    return Probe(
        forward=lambda x: model(x)[-1].amax(1, keepdim=True),
        inputs=[torch.from_numpy(videos[index].features)[None].to(device) for index in chosen],
        unit="frames",
        step=(float(dataset.step),),
        output="the last stage's logit of the predicted class",
    )
