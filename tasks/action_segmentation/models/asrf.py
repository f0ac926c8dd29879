"""ASRF: MS-TCN's stages in two branches, one for classes, one for the boundaries between segments.

Ishikawa et al., "Alleviating Over-Segmentation Errors by Detecting Action Boundaries", WACV 2021, section 3. A first
stage of dilated layers is shared. Two heads follow it, each refined by stages of its own: class scores, whose stages
take the previous probabilities as in MS-TCN, and the probability of every frame that a segment starts there. At the
end each stretch between two boundaries gets the class that most of its frames have. Not verified against the paper's
text, of which only the abstract could be opened: the weights of the losses.

Searched are the dilated convs, named `shared.<l>.dilated`, `refining.<s>.layers.<l>.dilated` and
`locating.<s>.layers.<l>.dilated`.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.action_segmentation.data import Batch, Counts
from tasks.action_segmentation.models.layers import Pointwise, check_sizes, mask_of, masked
from tasks.action_segmentation.models.losses import loss
from tasks.action_segmentation.models.multi_stage import DilatedLayer, Stage
from tasks.action_segmentation.models.network import Network

BOUNDARY_WEIGHT = 0.1
"""Weight of the boundaries' loss (section 3.4)."""

THRESHOLD = 0.5
"""Smallest probability of a boundary."""


class ASRF(Network):
    """The network; sizes as in MS-TCN.

    Parameters, weights and biases: (D + 1) maps in, the shared layers, (maps + 1) (classes + 1) for the two heads, and
    2 (stages - 1) stages as in MS-TCN, of `classes` channels in one branch and of 1 in the other.

    stages: outputs of each branch: the shared stage's and those of stages - 1 refinements.
    """

    def __init__(self, feature_size: int, classes: int, *, stages: int, layers: int, maps: int, dropout: float) -> None:
        super().__init__()
        check_sizes(feature_size=feature_size, classes=classes, stages=stages, layers=layers, maps=maps)
        self.enter = Pointwise(feature_size, maps)
        self.shared = nn.ModuleList(_layers(layers, maps, dropout))
        self.classify, self.locate = Pointwise(maps, classes), Pointwise(maps, 1)
        self.refining, self.locating = (
            nn.ModuleList(Stage(size, size, maps, _layers(layers, maps, dropout)) for _ in range(stages - 1))
            for size in (classes, 1)
        )
        self.boundary_factor = 1.0

    def stage_of(self, layer: str) -> int:
        """0 in the shared part, s + 1 in stage s of each branch."""
        part, number, *_ = layer.split(".")
        return 0 if part == "shared" else int(number) + 1

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class logits of all stages, (stages, B, classes, T); `Network.forward` says more."""
        factors = mask_of(mask, x.dtype)
        return self._classes(self._features(x, factors), factors)

    def both(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of classes, (stages, B, classes, T), and of boundaries, (stages, B, T)."""
        factors = mask_of(mask, x.dtype)
        features = self._features(x, factors)
        logits = masked(self.locate(features), factors)
        boundaries = [logits]
        for stage in self.locating:
            boundaries.append(stage(torch.sigmoid(boundaries[-1]), factors))
        return self._classes(features, factors), torch.stack(boundaries)[:, :, 0]

    def prepare(self, labels: Iterable[NDArray[np.int64]]) -> None:
        """Weigh a boundary in the loss by the number of frames for each one in the training part (section 3.4)."""
        frames = boundaries = 0
        for video in labels:
            frames += len(video)
            boundaries += 1 + int(np.count_nonzero(video[1:] != video[:-1]))
        self.boundary_factor = frames / boundaries

    def objective(self, batch: Batch, smoothing: float, counts: Counts | None = None) -> Tensor:
        """The mean over stages of MS-TCN's loss, with a smoothing that spares frames of unlike features, and
        `BOUNDARY_WEIGHT` x the boundaries' cross-entropy."""
        features, labels, mask = batch
        counts = counts or Counts.of(labels, mask)
        classes, boundaries = self.both(features, mask)
        similar = torch.exp(-features.diff(dim=2).square().sum(1, keepdim=True) / 2)  # a Gaussian of sigma 1
        found = loss(classes, labels, mask, smoothing, similar, counts) / len(classes)
        return found + BOUNDARY_WEIGHT * boundary_loss(boundaries, labels, mask, self.boundary_factor, counts.frames)

    def predict(self, x: Tensor) -> Tensor:
        """The class of every frame, (B, T), refined by the boundaries; x: (B, D, T)."""
        classes, boundaries = self.both(x)
        pairs = zip(classes[-1].argmax(1), torch.sigmoid(boundaries[-1]), strict=True)
        return torch.stack([refine(video, probability) for video, probability in pairs])

    def _features(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = masked(self.enter(x), mask)
        for layer in self.shared:
            x = layer(x, mask)
        return x

    def _classes(self, features: Tensor, mask: Tensor | None) -> Tensor:
        logits = [masked(self.classify(features), mask)]
        for stage in self.refining:
            logits.append(stage(torch.softmax(logits[-1], dim=1), mask))
        return torch.stack(logits)


def boundary_loss(logits: Tensor, labels: Tensor, mask: Tensor, factor: float, frames: Tensor) -> Tensor:
    """Mean over stages and frames of the binary cross-entropy of "a segment starts here".

    logits: (stages, B, T). labels: (B, T). mask: (B, 1, T). factor: weight of the frames where one does.
    frames: how many frames the mean is over.
    """
    starts = torch.ones_like(labels, dtype=torch.bool)  # the first frame starts one, too
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    target = starts.to(logits.dtype).expand_as(logits)
    weight = mask[:, 0].to(logits.dtype).expand_as(logits)
    positive = torch.tensor(factor, dtype=logits.dtype, device=logits.device)
    entropy = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum", pos_weight=positive)
    return entropy / (len(logits) * frames)


def refine(classes: Tensor, boundary: Tensor) -> Tensor:
    """Give each stretch between two boundaries the class of most of its frames, the lowest index of equals: (T).

    classes: (T), class indices. boundary: (T), probabilities. Boundaries are the first frame and every local maximum of
    at least `THRESHOLD`: a frame above the one before it and not below the one after.
    """
    before, after = (F.pad(part, pad, value=-1.0) for part, pad in ((boundary[:-1], (1, 0)), (boundary[1:], (0, 1))))
    starts = (boundary >= THRESHOLD) & (boundary > before) & (boundary >= after)
    starts[0] = True
    stretch = starts.cumsum(0) - 1
    votes = torch.zeros(int(stretch[-1]) + 1, int(classes.max()) + 1, dtype=torch.int64, device=classes.device)
    votes.index_put_((stretch, classes), torch.ones_like(classes), accumulate=True)
    return votes.argmax(1)[stretch]


def _layers(layers: int, maps: int, dropout: float) -> list[DilatedLayer]:
    return [DilatedLayer(maps, 2**layer, dropout) for layer in range(layers)]
