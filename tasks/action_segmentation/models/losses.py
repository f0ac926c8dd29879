"""Losses of the frames of videos, which padding does not change."""

from torch import Tensor
from torch.nn import functional as F

from tasks.action_segmentation.data import IGNORED, Counts

CLIP = 16.0
"""Largest squared step of a log-probability that the smoothing loss counts (MS-TCN: tau = 4)."""


def loss(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor,
    smoothing: float,
    similarity: Tensor | None = None,
    counts: Counts | None = None,
) -> Tensor:
    """Cross-entropy + `smoothing` x truncated mean squared error, summed over stages (MS-TCN, section 3.3).

    The second term is the mean, over classes and neighbouring frames of a video, of the squared step of the
    log-probability between them, clipped at `CLIP`; the earlier frame gets no gradient. Unlike the published
    code it does not average over padding, so a video's share does not depend on what it is batched with.

    Args:
        logits: (stages, B, classes, T).
        labels: (B, T), `IGNORED` where the cross-entropy is not taken.
        mask: (B, 1, T), True where the video has frames; padding is at the end.
        smoothing: weight of the second term.
        similarity: (B, 1, T - 1), a factor of each step in the second term; None: 1.
        counts: what the means are taken over; None: these videos. With those of a larger batch, the losses of its parts
            add up to that of the batch.

    Returns:
        A scalar.
    """
    stages, _, classes, _ = logits.shape
    counts = counts or Counts.of(labels, mask)
    log_probability = F.log_softmax(logits, dim=2)
    cross_entropy = F.nll_loss(
        log_probability.flatten(0, 1), labels.repeat(stages, 1), ignore_index=IGNORED, reduction="sum"
    ) / counts.labelled.clamp(min=1)
    steps = log_probability[..., 1:] - log_probability[..., :-1].detach()
    pairs = mask[:, :, 1:]
    truncated = steps.square().clamp(max=CLIP) * (pairs if similarity is None else pairs * similarity)
    return cross_entropy + smoothing * truncated.sum() / (counts.pairs * classes).clamp(min=1)
