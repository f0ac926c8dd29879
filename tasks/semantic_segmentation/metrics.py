"""Scores of a segmentation, all from the confusion matrix of the pixels that have a class."""

import numpy as np
from numpy.typing import NDArray

from tasks.semantic_segmentation.folder import IGNORED

Confusion = NDArray[np.int64]
"""(classes, classes): pixels by true class (rows) and predicted class (columns)."""


def confusion(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], classes: int) -> Confusion:
    """The confusion matrix of one image; pixels whose truth is `IGNORED` are left out.

    Raises ValueError if the two are of different sizes.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"labels of {truth.shape} and a prediction of {predicted.shape}")
    known = truth != IGNORED
    pairs = classes * truth[known].astype(np.int64) + predicted[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_iou(matrix: Confusion) -> NDArray[np.float64]:
    """Intersection over union of each class, (classes), in percent; nan of one that is neither there nor predicted."""
    both, either = np.diag(matrix), matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return 100 * np.divide(both, either, out=np.full(len(matrix), np.nan), where=either > 0)


def scores(matrix: Confusion) -> dict[str, float]:
    """mIoU, the mean of `class_iou` over the classes that have one, and pixel accuracy, in percent.

    The matrix is that of a whole part, as usual: classes of few pixels count as much as others, images do not.

    Raises ValueError if no pixel has a class.
    """
    if not matrix.any():
        raise ValueError("no pixel has a class")
    return {
        "mIoU": float(np.nanmean(class_iou(matrix))),
        "accuracy": 100 * float(np.trace(matrix) / matrix.sum()),
    }
