"""Panoptic quality: worked by hand, on the sample of panopticapi, and against a slow reference."""

import json

import numpy as np
import pytest
from PIL import Image

from tasks.coco_detection.panoptic_quality import PanopticQuality, rgb_to_id


def segments(**categories):
    """Segments 1, 2, ... by category: a=1 is segment 1 of category 1."""
    return [{"id": number, "category_id": category} for number, category in enumerate(categories.values(), start=1)]


def quality(*images):
    found = PanopticQuality()
    for image in images:
        found.add(*image)
    return found.scores()


def test_rgb_to_id():
    pixels = np.array([[[1, 2, 3], [255, 255, 255]]], dtype=np.uint8)
    assert rgb_to_id(pixels).tolist() == [[1 + 2 * 256 + 3 * 65536, 2**24 - 1]]


def test_worked_by_hand():
    truth = np.array([[1, 1, 1, 1], [2, 2, 2, 3]])
    predicted = np.array([[1, 1, 1, 2], [2, 2, 2, 2]])
    # Category 7: truth 1 (4 pixels) and prediction 1 (3 of them) match at 3/4. Category 8: truth 2 (3 pixels) and
    # prediction 2 (5 pixels) match at 3/5; truth 3 is missed. So PQ is (3/4 + (3/5) / 1.5) / 2, SQ the mean of 3/4
    # and 3/5, RQ the mean of 1 and 1 / 1.5.
    scores = quality((truth, segments(a=7, b=8, c=8), predicted, segments(a=7, b=8)))
    assert scores == pytest.approx({"PQ": 57.5, "SQ": 67.5, "RQ": 250 / 3})


def test_an_overlap_of_half_is_no_match():
    truth, predicted = np.array([[1, 1, 2, 2]]), np.array([[1, 1, 1, 1]])
    # IoU is 2/4: one miss and one false positive of category 1, one miss of category 2.
    assert quality((truth, segments(a=1, b=2), predicted, segments(a=1))) == {"PQ": 0, "SQ": 0, "RQ": 0}


def test_void_and_crowd():
    truth = np.array([[0, 0, 1, 1, 2, 2, 2, 2]])
    crowd = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 2, "iscrowd": 1}]
    # Prediction 1 covers truth 1 and two void pixels, which do not count to the union: IoU 1. Prediction 2 lies in
    # the crowd region of its category and is ignored; the crowd is not missed.
    predicted = np.array([[1, 1, 1, 1, 2, 2, 2, 0]])
    assert quality((truth, crowd, predicted, segments(a=1, b=2))) == {"PQ": 100, "SQ": 100, "RQ": 100}
    # Of another category the crowd is no excuse.
    assert quality((truth, crowd, predicted, segments(a=1, b=3)))["RQ"] == 50


def test_errors():
    image = np.ones((2, 2), dtype=np.int64)
    with pytest.raises(ValueError, match=r"truth is \(2, 2\) pixels, the prediction \(2, 3\)"):
        quality((image, segments(a=1), np.ones((2, 3), dtype=np.int64), segments(a=1)))
    with pytest.raises(ValueError, match="the prediction has pixels of segment 5, which is not listed"):
        quality((image, segments(a=1), 5 * image, segments(a=1)))
    assert PanopticQuality().scores() == {"PQ": 0, "SQ": 0, "RQ": 0}


def slow(images):
    """Mask by mask and pair by pair, from the paper's section 4."""
    tally = {}
    for truth, truths, predicted, predictions in images:
        void = truth == 0
        matched = set()
        for t in truths:
            entry = tally.setdefault(t["category_id"], [0, 0.0, 0, 0])
            hit = False
            for p in predictions:
                if p["category_id"] != t["category_id"]:
                    continue
                one, other = truth == t["id"], (predicted == p["id"]) & ~void
                iou = (one & other).sum() / (one | other).sum()
                if iou > 0.5:
                    hit = True
                    matched.add(p["id"])
                    entry[0] += 1
                    entry[1] += iou
            entry[3] += not hit
        for p in predictions:
            mask = predicted == p["id"]
            if p["id"] not in matched and not (mask & void).sum() > 0.5 * mask.sum():
                tally.setdefault(p["category_id"], [0, 0.0, 0, 0])[2] += 1
    rows = [
        (iou / (tp + (fp + fn) / 2), iou / max(tp, 1), tp / (tp + (fp + fn) / 2)) for tp, iou, fp, fn in tally.values()
    ]
    return dict(zip(("PQ", "SQ", "RQ"), 100 * np.mean(rows, axis=0), strict=True))


def test_equals_the_slow_reference_on_random_maps():
    rng = np.random.default_rng(0)
    images = []
    for _ in range(20):
        truth = np.repeat(np.repeat(rng.integers(0, 5, (3, 3)), 4, 0), 4, 1)
        predicted = np.where(rng.random(truth.shape) < 0.25, rng.integers(0, 5, truth.shape), truth)
        labels = [
            [{"id": int(i), "category_id": int(rng.integers(1, 3)) + int(i) % 2} for i in np.unique(ids) if i]
            for ids in (truth, predicted)
        ]
        images.append((truth, labels[0], predicted, [dict(s) for s in labels[1]]))
    expected = slow(images)
    assert 0 < expected["PQ"] < 90
    assert quality(*images) == pytest.approx(expected)


class TestSample:
    """Two images of COCO with all their panoptic segments, from panopticapi."""

    @pytest.fixture
    def images(self, shared):
        folder = shared / "data/coco/panopticapi_sample/sample_data"
        content = json.loads((folder / "panoptic_examples.json").read_text())
        return [
            (rgb_to_id(np.asarray(Image.open(folder / "panoptic_examples" / a["file_name"]))), a["segments_info"])
            for a in content["annotations"]
        ]

    def test_the_truth_scores_100(self, images):
        assert len(images) == 2
        assert quality(*((ids, known, ids, known) for ids, known in images)) == {"PQ": 100, "SQ": 100, "RQ": 100}

    def test_half_a_picture_equals_the_slow_reference(self, images):
        cases = []
        for ids, known in images:
            assert set(np.unique(ids)) - {0} == {s["id"] for s in known}
            plain = [s for s in known if not s["iscrowd"]]
            truth = np.where(np.isin(ids, [s["id"] for s in plain]), ids, 0)[::4, ::4]
            predicted = np.roll(truth, 6, axis=1)
            there = set(np.unique(truth))
            kept = [s for s in plain if s["id"] in there]
            cases.append((truth, kept, predicted, kept))
        expected = slow(cases)
        assert 20 < expected["PQ"] < 95
        assert quality(*cases) == pytest.approx(expected)
