"""Scores against scikit-learn's, and by hand."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, jaccard_score

from tasks.semantic_segmentation.metrics import class_iou, confusion, scores


def test_equal_scikit_learns():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (2, 40, 30)).astype(np.uint8)
    truth[truth == 4] = 255  # so class 4 is predicted and never there
    matrix = confusion(truth, predicted, 6)  # class 5 is neither
    known = truth != 255
    assert np.array_equal(matrix, confusion_matrix(truth[known], predicted[known], labels=range(6)))
    theirs = [100 * jaccard_score(truth[known], predicted[known], labels=[k], average="macro") for k in range(5)]
    assert class_iou(matrix)[:5] == pytest.approx(theirs)
    assert np.isnan(class_iou(matrix)[5])
    found = scores(matrix)
    assert found["mIoU"] == pytest.approx(sum(theirs) / 5)
    assert found["accuracy"] == pytest.approx(100 * (truth == predicted)[known].mean())


def test_by_hand():
    """Two images count as one: class 0 has 3 of 4 pixels of its union, class 1 has 1 of 2."""
    one = confusion(np.array([[0, 0]], np.uint8), np.array([[0, 0]], np.uint8), 2)
    other = confusion(np.array([[0, 1, 1, 255]], np.uint8), np.array([[0, 0, 1, 0]], np.uint8), 2)
    assert scores(one + other) == {"mIoU": (75 + 50) / 2, "accuracy": 80.0}
    with pytest.raises(ValueError, match="no pixel has a class"):
        scores(0 * one)
    with pytest.raises(ValueError, match="labels of"):
        confusion(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)
