"""Segmentations: run lengths as pycocotools reads them, and nothing that stops the examination."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as rle

from tasks.coco_detection.coco_format import masks
from tasks.coco_detection.coco_format.annotations import examine

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 6))
def test_run_lengths_are_those_of_pycocotools(height, width, seed, share, grain):
    coarse = np.random.default_rng(seed).random((height // grain + 1, width // grain + 1)) < share
    mask = np.kron(coarse, np.ones((grain, grain), dtype=bool))[:height, :width]
    text = rle.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    runs = masks.decoded(text)
    assert np.array_equal(np.repeat(np.arange(len(runs)) % 2, runs).reshape(width, height).T, mask)
    for counts in (text, runs.tolist()):
        segmentation = {"size": [height, width], "counts": counts}
        assert (masks.fault(segmentation, width, height) is None) == bool(mask.any())
        assert masks.area(segmentation, width, height) == mask.sum()


@given(st.text(st.characters(min_codepoint=47, max_codepoint=112), max_size=12))
def test_run_lengths_without_a_fault_can_be_decoded(text):
    segmentation = {"size": [4, 5], "counts": text}
    if masks.fault(segmentation, 5, 4) is None:
        assert rle.decode(segmentation).sum() == masks.area(segmentation, 5, 4) > 0


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts"]), inner),
    max_leaves=12,
)
fields = st.sampled_from(["id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation"])


@given(st.lists(st.dictionaries(fields, anything) | anything, min_size=1, max_size=3), st.booleans(), st.booleans())
def test_no_entry_stops_the_examination(entries, complete, training):
    sound = {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "bbox": [1, 2, 3, 4],
        "area": 12,
        "segmentation": [[0, 0, 5, 0, 5, 5]],
    }
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 8}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{**sound, **e} if complete and isinstance(e, dict) else e for e in entries],
    }
    for kind in ("instances", "boxes", "panoptic"):
        faults, remarks = examine(content, kind, training=training)
        assert all(isinstance(text, str) for text in [*remarks, *(text for fault in faults for text in fault)])
