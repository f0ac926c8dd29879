"""What every network of the task offers: logits, a loss and predictions."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tasks.action_segmentation.data import Batch, Counts
from tasks.action_segmentation.models.losses import loss


def network_of(model: nn.Module) -> "Network":
    """The model itself. Raises TypeError if it is no network of the task."""
    if not isinstance(model, Network):
        raise TypeError(f"{type(model).__name__} is no network of action segmentation; make it by build()")
    return model


class Network(nn.Module):
    """A network of one or more outputs in a row, the last of which is the prediction.

    A network that is trained or that predicts in another way than MS-TCN overrides `objective` or `predict`.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of all outputs.

        Args:
            x: (B, D, T), features, zero beyond the end of a video.
            mask: (B, 1, T), True where the video has frames; None if all have T.

        Returns:
            (outputs, B, classes, T), zero beyond the end of a video.
        """
        raise NotImplementedError

    def stage_of(self, layer: str) -> int | None:
        """Which stage a searched layer belongs to, from 0, as in MS-TCN; None: the network has no such stages."""
        return None

    def prepare(self, labels: Iterable[NDArray[np.int64]]) -> None:
        """Learn from the labels of the training part, one (n) a video, what the loss has to know. Called before each
        training."""

    def objective(self, batch: Batch, smoothing: float, counts: Counts | None = None) -> Tensor:
        """The training loss of a batch, a scalar.

        smoothing: weight of its smoothing part, if it has one. counts: of the batch that this one is a part of; the
        losses of all parts then add up to that of the whole.
        """
        return loss(self(batch.features, batch.mask), batch.labels, batch.mask, smoothing, counts=counts)

    def predict(self, x: Tensor) -> Tensor:
        """Class index of every frame, (B, T); x: (B, D, T), of videos without padding."""
        return self(x)[-1].argmax(1)
