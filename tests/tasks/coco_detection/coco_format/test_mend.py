"""check --fix: a mended copy, that says what changed, of what has one mend; a refusal of the rest."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import Polygon, box

from tasks.coco_detection.check import main
from tasks.coco_detection.coco_format.layout import Layout
from tasks.coco_detection.coco_format.mend import clip


def state(root):
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def fixed(root, capsys, *options):
    """Exit status, output and the mended test part's annotations, after a check that nothing in `root` changed."""
    before, out = state(root), root.parent / "mended"
    status = main([str(root), "--fix", str(out), *options])
    assert state(root) == before
    if not out.exists():
        assert [path for path in root.parent.iterdir() if path.name.startswith(".")] == []
        return status, capsys.readouterr().out, None
    content = json.loads(Layout(out).instances("val2017").read_text())
    return status, capsys.readouterr().out, content


def spoil(content):
    zero, one, two, three, four, *_ = content["annotations"]
    zero.pop("id"), zero.pop("iscrowd")
    one.update(id="x", area=-1)
    two.update(bbox=[-3, 6, 27, 20], segmentation=[[-3, 6, 24, 6, 24, 26, -3, 26]])
    three.update(bbox=[56, 29, 0, 20])
    four.update(segmentation=four["segmentation"][0])
    content["annotations"][5]["segmentation"].append([1, 2, 3, 4])
    content["info"] = {"kept": True}


def test_what_has_one_mend(own_data, capsys):
    root = own_data(spoil)
    original = json.loads(Layout(root).instances("val2017").read_text())
    assert main([str(root)]) == 1
    assert "check --fix" in capsys.readouterr().out
    status, out, content = fixed(root, capsys)
    assert status == 0
    for change in (
        "annotations that got iscrowd 0: 1",
        "areas computed: 1",
        "boxes clipped at the border of the image: 1",
        "masks clipped at the border of the image: 1",
        "annotations of no size removed: 1",
        "flat polygons put into a list: 1",
        "polygons of less than three points removed: 1",
        "annotations numbered anew: 7",
    ):
        assert f"{Layout(root).instances('val2017')}: {change}\n" in out
    assert content["info"] == {"kept": True}
    assert content["images"] == original["images"]
    entries = content["annotations"]
    assert [entry["id"] for entry in entries] == list(range(1, 8))
    assert (entries[0]["iscrowd"], entries[1]["area"]) == (0, 480)
    assert entries[2]["bbox"] == [0, 6, 24, 20]
    corners = np.reshape(entries[2]["segmentation"], (-1, 2)).tolist()
    assert sorted(corners) == [[0, 6], [0, 26], [24, 6], [24, 26]]
    assert [len(entry["segmentation"]) for entry in entries] == [1] * 7
    assert (root.parent / "mended/val2017/000.jpg").read_bytes() == (root / "val2017/000.jpg").read_bytes()


def test_ids_that_are_text(own_data, capsys):
    def change(content):
        for entry in content["images"]:
            entry["id"] = f"i{entry['id']}"
        content["categories"][0]["id"] = "c"
        for entry in content["annotations"]:
            entry.update(image_id=f"i{entry['image_id']}", category_id="c")

    status, out, content = fixed(own_data(change), capsys)
    assert status == 0
    assert "images numbered from 1: 4" in out
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert {entry["category_id"] for entry in content["annotations"]} == {content["categories"][0]["id"]} == {1}


def test_nothing_to_mend(own_data, capsys):
    root = own_data()
    status, out, content = fixed(root, capsys)
    assert status == 0
    assert out.startswith("nothing to mend\n")
    assert content == json.loads(Layout(root).instances("val2017").read_text())
    assert main([str(root), "--fix", str(root.parent / "mended")]) == 1
    assert "mended: exists; give a folder that does not" in capsys.readouterr().out


def corners(content):
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
        entry.pop("segmentation")


REFUSED = {
    "has no segmentation": lambda c: c["annotations"][0].pop("segmentation"),
    "not finite pairs": lambda c: c["annotations"][0].update(segmentation=[[0, 0, float("nan"), 0, 5, 5]]),
    "a polygon outside its image": lambda c: c["annotations"][0].update(segmentation=[[0, 0, 1e9, 0, 1e9, 1e9]]),
    "reaches outside its image": lambda c: c["annotations"][0].update(bbox=[80, 6, 40, 20]),
    "malformed run lengths": lambda c: c["annotations"][0].update(segmentation={"size": [64, 96], "counts": "~~"}),
    "two of the images have id 1": lambda c: c["images"][1].update(id=1),
    "belongs to image 9": lambda c: c["annotations"][0].update(image_id=9),
    "no annotation has a size": lambda c: [entry.update(bbox=[1, 2, 0, 0]) for entry in c["annotations"]],
    "out of the folder of images": lambda c: c["images"][0].update(file_name="../a.jpg"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_mend_is_refused(own_data, message, capsys):
    root = own_data(REFUSED[message])
    status, out, content = fixed(root, capsys)
    assert (status, content) == (1, None)
    assert f"{root}/annotations/instances_" in out
    assert message in out
    assert out.endswith("mended is not written\n")


def test_boxes_of_corners_are_not_clipped(own_data, capsys):
    status, out, content = fixed(own_data(corners), capsys, "--boxes")
    assert (status, content) == (1, None)
    assert "look like [x1, y1, x2, y2]" in out


@given(st.lists(st.tuples(st.integers(-9, 30), st.integers(-9, 24)), min_size=3, max_size=3, unique=True))
def test_clipped_triangles_are_those_of_shapely(points):
    triangle = Polygon(points)
    clipped = clip([float(value) for point in points for value in point], 20, 16)
    pairs = list(zip(clipped[::2], clipped[1::2], strict=True))
    area = Polygon(pairs).area if len(pairs) > 2 else 0.0
    assert area == pytest.approx(triangle.intersection(box(0, 0, 20, 16)).area if triangle.is_valid else 0.0, abs=1e-9)
    assert all(0 <= x <= 20 and 0 <= y <= 16 for x, y in pairs)
