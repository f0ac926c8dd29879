"""The embedded scenes in COCO's format: same bytes from the same seed, exact annotations."""

import importlib.util
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from tasks.coco_detection import scenes
from tasks.coco_detection.coco_format.layout import Layout
from tasks.coco_detection.panoptic_quality import rgb_to_id
from tasks.scenes import FOLDS


@pytest.fixture(scope="module")
def layout():
    return Layout(scenes.prepare(2, 24, 6), "train", "test")


def content(path):
    return json.loads(path.read_text())


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_same_bytes_from_the_same_seed(tmp_path, monkeypatch):
    found = []
    for name in ("one", "other"):
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / name))
        found.append(files(scenes.prepare(1, 3, 2)))
    assert found[0] == found[1]
    assert len(found[0]) == 1 + 4 + 2 * (3 + 2)


def test_is_made_once(layout):
    before = layout.instances("train").stat()
    assert scenes.prepare(2, 24, 6) == layout.root
    assert layout.instances("train").stat() == before
    assert [p.name for p in layout.root.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11, numpy 2
@pytest.mark.parametrize("part", ["train", "test"])
def test_boxes_areas_and_panoptic_segments_are_those_of_the_masks(layout, part):
    panoptic = {entry["image_id"]: entry for entry in content(layout.panoptic(part))["annotations"]}
    instances = content(layout.instances(part))
    assert len({annotation["id"] for annotation in instances["annotations"]}) == len(instances["annotations"]) > 6
    for annotation in instances["annotations"]:
        mask = rle.decode(annotation["segmentation"]).astype(bool)
        rows, columns = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert annotation["area"] == mask.sum()
        entry = panoptic[annotation["image_id"]]
        ids = rgb_to_id(np.asarray(Image.open(layout.panoptic_maps(part) / entry["file_name"])))
        (segment,) = set(ids[mask])
        assert np.array_equal(ids == segment, mask)
        (found,) = [s for s in entry["segments_info"] if s["id"] == segment]
        assert found["category_id"] == annotation["category_id"]
    for entry in panoptic.values():
        ids = rgb_to_id(np.asarray(Image.open(layout.panoptic_maps(part) / entry["file_name"])))
        areas = dict(zip(*(values.tolist() for values in np.unique(ids, return_counts=True)), strict=True))
        assert areas == {s["id"]: s["area"] for s in entry["segments_info"]}


@pytest.mark.slow
def test_the_tiny_presets_test_parts_have_all_of_cocos_sizes():
    for fold in FOLDS:
        layout = Layout(scenes.prepare(fold, 100, 25, 3), "train", "test")
        areas = np.array([annotation["area"] for annotation in content(layout.instances("test"))["annotations"]])
        assert min((areas < 32**2).sum(), ((areas >= 32**2) & (areas < 96**2)).sum(), (areas >= 96**2).sum()) >= 3


def test_says_what_is_wrong(monkeypatch):
    with pytest.raises(ValueError, match="no scenes of fold 4"):
        scenes.prepare(4, 10, 2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="what scikit-image brings, and it is not installed; pip install scikit-image"):
        scenes.prepare(1, 4, 1)


def test_smallest_digit(tmp_path, monkeypatch):
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
    heights = {}
    for smallest in (15.0, 150.0):
        folder = scenes.prepare(1, 12, 4, 2, smallest)
        instances = content(Layout(folder, "train", "test").instances("train"))
        assert {annotation["category_id"] for annotation in instances["annotations"]} == {1, 2}
        heights[smallest] = [annotation["bbox"][3] for annotation in instances["annotations"]]
    # A glyph's ink may be a few pixels less than its height, and another digit may cover a tenth of it.
    assert min(heights[150.0]) > 120
    assert min(heights[15.0]) < 60
    assert max(map(max, heights.values())) <= 240
