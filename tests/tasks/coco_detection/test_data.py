"""Bad data: one clear error each, from the reader and from `check`; and the validation part."""

import dataclasses
import json
import os
import shutil

import pytest
from PIL import Image

from tasks.coco_detection import data, scenes
from tasks.coco_detection.check import main
from tasks.coco_detection.coco_format.annotations import Kind
from tasks.coco_detection.coco_format.layout import Layout
from tasks.coco_detection.data import carve_validation, open_dataset
from tasks.coco_detection.mmdetection.loading import read_part
from tasks.scenes import PHOTOGRAPHS
from tasks.spec import DataError
from tests.tasks.coco_detection.bombs import bomb


@pytest.fixture
def layout(tmp_path):
    """A copy to spoil: 5 training and 2 test scenes."""
    return Layout(shutil.copytree(scenes.prepare(1, 5, 2), tmp_path / "data"), "train", "test")


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def opened(layout, kind: Kind = "instances"):
    return open_dataset(layout, kind, validation=0.2)


class TestValidation:
    def test_depends_on_the_ids_alone(self):
        held_out = carve_validation(range(100), 0.2)
        assert len(held_out) == 20
        assert carve_validation(reversed(range(100)), 0.2) == held_out
        assert len(carve_validation(range(101), 0.2) ^ held_out) <= 2
        assert len(carve_validation(range(3), 0.01)) == 1

    def test_parts_are_disjoint_and_whole(self, layout):
        dataset = opened(layout)
        parts = [json.loads(dataset.part(part).annotations.read_text()) for part in ("train", "validation", "test")]
        whole = json.loads(layout.instances("train").read_text())
        ids = [{image["id"] for image in part["images"]} for part in parts]
        assert [len(part) for part in ids] == [4, 1, 2]
        assert not ids[0] & ids[1]
        assert ids[0] | ids[1] == {image["id"] for image in whole["images"]}
        assert sum(len(part["annotations"]) for part in parts[:2]) == len(whole["annotations"])
        assert all(
            {a["image_id"] for a in part["annotations"]} <= known for part, known in zip(parts, ids, strict=True)
        )
        assert dataset.classes == tuple(f"digit {digit}" for digit in range(10))
        panoptic = opened(layout, "panoptic")
        assert panoptic.classes == (*dataset.classes, *PHOTOGRAPHS)
        assert panoptic.things == dataset.things == 10

    def test_follows_the_original(self, layout):
        before = opened(layout).validation.annotations
        shutil.copy(layout.images("train") / "000000.jpg", layout.images("train") / "x.jpg")
        new = {"id": 99, "file_name": "x.jpg"}
        change(layout.instances("train"), lambda c: c["images"].append(c["images"][0] | new))
        after = opened(layout)
        assert after.validation.annotations != before
        assert len(json.loads(after.train.annotations.read_text())["images"]) == 5

    def test_the_cache_of_parts_is_bounded(self, layout, tmp_path, monkeypatch):
        """Of the parts made for other shares, the last two that nobody has used lately stay."""
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(data, "KEPT", 2)
        made = []
        for number, share in enumerate((0.2, 0.3, 0.4, 0.5, 0.6)):
            made.append(open_dataset(layout, "instances", validation=share).train.annotations.parent)
            os.utime(made[-1], (number, number))
        assert len(set(made)) == 5
        assert [folder.exists() for folder in made] == [False, False, True, True, True]
        os.utime(made[2])  # in use
        open_dataset(layout, "instances", validation=0.7)
        assert [folder.exists() for folder in made[2:]] == [True, False, True]

    @pytest.mark.parametrize("share", [0, 1, -0.5])
    def test_share(self, layout, share):
        with pytest.raises(ValueError, match="give a fraction above 0 and below 1"):
            open_dataset(layout, "instances", validation=share)


def remove_image(layout):
    next(layout.images("train").iterdir()).unlink()


def remove_images(layout):
    shutil.rmtree(layout.images("test"))


def other_part(layout):
    shutil.copy(layout.instances("train"), layout.instances("test"))


def cut_off(layout):
    path = layout.instances("test")
    path.write_bytes(path.read_bytes()[:-20])


SPOILT = {
    remove_image: "train: 1 of the 5 files of instances_train.json are missing: 00000.*Get them again",
    remove_images: "test: no such folder; add it; instances_test.json names its files",
    other_part: "3 of the 5 files of instances_test.json are missing",
    cut_off: "instances_test.json: broken JSON .*was the download cut off",
    lambda x: x.instances("train").unlink(): "instances_train.json: no such file; add it",
    lambda x: x.instances("train").write_text("[]"): "not COCO annotations: it needs the lists",
    lambda x: change(x.instances("test"), lambda c: c["annotations"].clear()): "the list annotations is empty",
    lambda x: change(x.instances("test"), lambda c: c["categories"].reverse()): r"category \(10, 'digit 9'\), where",
    lambda x: change(x.instances("test"), lambda c: c["categories"].append({"id": 50, "name": "dog"})): (
        "instances_test.json: 11 categories, not the 10 of instances_train.json"
    ),
    lambda x: change(x.instances("test"), lambda c: c["images"][0].pop("width")): r"images\[0\] has width = None",
    lambda x: change(x.instances("test"), lambda c: c["annotations"][0].update(category_id=77)): (
        r"annotations\[0\] has category 77, which is not listed"
    ),
    lambda x: change(x.instances("test"), lambda c: c["annotations"][1].update(image_id=7)): None,
    lambda x: change(x.instances("test"), lambda c: c["annotations"][1].update(image_id=999)): (
        r"annotations\[1\] belongs to image 999, which is not listed"
    ),
    lambda x: change(
        x.instances("test"), lambda c: c["annotations"][0].update(bbox=[1, 2, 3])
    ): r"has bbox \[1, 2, 3\]",
    lambda x: change(x.instances("test"), lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4])): "negative size",
    lambda x: change(x.instances("test"), lambda c: c["images"].append(c["images"][0])): "two of the images have id 6",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=range(len(SPOILT)))
def test_bad_data_is_named(layout, spoil, capsys):
    spoil(layout)
    message = SPOILT[spoil]
    arguments = [str(layout.root), "--train", "train", "--test", "test"]
    if message is None:
        opened(layout)
        assert main(arguments) == 0
        return
    with pytest.raises(DataError, match=message):
        opened(layout)
    assert main(arguments) == 1
    assert str(layout.root) in capsys.readouterr().out


def test_annotations_of_another_part(layout, capsys):
    for image in layout.images("train").iterdir():
        image.rename(image.with_name(f"x{image.name}"))
    with pytest.raises(DataError, match="none of the 5 files .*, such as 000000.jpg; are these annotations of another"):
        opened(layout)


def test_panoptic_categories_and_maps(layout):
    change(layout.panoptic("train"), lambda c: c["categories"].reverse())
    with pytest.raises(DataError, match="panoptic_train.json: the categories are not things followed by stuff"):
        opened(layout, "panoptic")
    change(layout.panoptic("train"), lambda c: c["categories"].reverse())
    shutil.rmtree(layout.panoptic_maps("train"))
    with pytest.raises(DataError, match="panoptic_train: no such folder"):
        opened(layout, "panoptic")


def test_panoptic_maps_are_pngs_whatever_their_name(layout):
    """Pixels of a JPEG at the border of two segments could be those of a third one."""
    path = min(layout.panoptic_maps("train").iterdir())
    Image.open(path).save(path, "JPEG")
    with pytest.raises(DataError, match=f"{path.name}: is a JPEG file, which need not hold .*; write it as a PNG anew"):
        opened(layout, "panoptic")
    opened(layout)


PANOPTIC = {
    lambda c: c["annotations"].pop(0): "image 6 has no panoptic annotation; add it",
    lambda c: c["annotations"].append(c["annotations"][0]): r"annotations\[2\] is a second one of image 6",
    lambda c: c["annotations"][0].update(image_id=99): "belongs to image 99, which is not listed",
    lambda c: c["annotations"][0].update(file_name="../x.png"): "out of the folder of images",
    lambda c: c["annotations"][0].update(file_name="/etc/x.png"): "out of the folder of images",
    lambda c: c["annotations"][0].update(file_name="a\\..\\..\\x.png"): "out of the folder of images",
    lambda c: c["annotations"][0].update(image_id=[6]): r"belongs to image \[6\], which is not listed",
    lambda c: c["annotations"][0]["segments_info"][0].update(iscrowd=2): "has iscrowd = 2; write 1",
    lambda c: c["annotations"][0]["segments_info"][0].update(category_id=[1]): r"has category \[1\]",
    lambda c: c["annotations"][0]["segments_info"][0].update(bbox=[0, 0, 1e9, 5]): "has bbox .*, outside its image",
    lambda c: c["annotations"][0].pop("segments_info"): r"annotations\[0\] has no file_name or no list segments_info",
    lambda c: c["annotations"][0]["segments_info"][0].update(id=0): r"annotations\[0\] has a segment of id 0",
    lambda c: c["annotations"][0]["segments_info"][0].update(id=2): r"annotations\[0\] has a segment of id 2",
    lambda c: c["annotations"][0]["segments_info"][0].update(bbox=[0, 0, 5, float("nan")]): "has bbox .*nan.*, not",
    lambda c: c["annotations"][0]["segments_info"][0].pop("category_id"): "has category None",
    lambda c: c["categories"].extend({"id": 100 + i, "name": f"n{i}", "isthing": 0} for i in range(242)): (
        "256 categories, at most 255 are told apart"
    ),
    lambda c: c["categories"][0].pop("isthing"): r"categories\[0\] has isthing = None",
}


@pytest.mark.parametrize("spoil", PANOPTIC, ids=range(len(PANOPTIC)))
def test_bad_panoptic_entries_are_named(layout, spoil):
    change(layout.panoptic("test"), spoil)
    with pytest.raises(DataError, match=f"panoptic_test.json: .*{PANOPTIC[spoil]}"):
        opened(layout, "panoptic")


def test_panoptic_maps_that_cannot_be_used(layout, capsys):
    arguments = [str(layout.root), "--train", "train", "--test", "test", "--pixels"]
    path = layout.panoptic_maps("test") / "000000.png"
    whole = path.read_bytes()
    path.write_bytes(bomb(30_000, 30_000))
    with pytest.raises(DataError, match="000000.png: has 900,000,000 pixels, at most 134,217,728 are read"):
        opened(layout, "panoptic")
    path.write_bytes(whole[:-20])
    assert main(arguments) == 1
    assert f"{path}: is cut off; get it again\n" in capsys.readouterr().out
    path.write_bytes(whole)
    change(layout.panoptic("test"), lambda c: c["annotations"][0]["segments_info"][0].update(id=99))
    assert main(arguments) == 1
    assert f"{path}: has pixels of segment 1, which its annotation does not list" in capsys.readouterr().out


def test_all_classes_of_instances_are_things(layout):
    change(layout.instances("train"), lambda c: [entry.update(isthing="x") for entry in c["categories"]])
    change(layout.instances("test"), lambda c: [entry.update(isthing=0) for entry in c["categories"]])
    assert opened(layout).things == 10


def test_annotations_that_are_no_file(layout):
    path = layout.instances("test")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match="instances_test.json: cannot be read .it is a folder, a pipe or a device"):
        opened(layout)


def test_an_entry_that_appears_twice(layout):
    path = layout.instances("test")
    path.write_text(path.read_text()[:-1] + ', "images": []}')
    with pytest.raises(DataError, match="instances_test.json: broken JSON .entry 'images' appears twice"):
        opened(layout)


def test_maps_are_of_the_images_sizes_and_have_any_name(layout, config):
    for path in layout.panoptic_maps("train").iterdir():
        path.rename(path.with_name(f"map of {path.name}"))
    rename = lambda c: [a.update(file_name=f"map of {a['file_name']}") for a in c["annotations"]]  # noqa: E731
    change(layout.panoptic("train"), rename)
    panoptic = dataclasses.replace(config, detector="panoptic")
    dataset = opened(layout, "panoptic")
    sample = read_part(dataset, dataset.train, panoptic, training=True)[0]["data_samples"]
    assert sample.gt_sem_seg.sem_seg.unique().numel() > 1
    path = next(layout.panoptic_maps("test").iterdir())
    with Image.open(path) as image:
        cropped = image.crop((0, 0, 200, 256))
    cropped.save(path)
    with pytest.raises(DataError, match=f"{path.name}: is 200 x 256, its annotations are for 256 x 256"):
        opened(layout, "panoptic")


class TestCheck:
    def test_fine(self, layout, capsys):
        assert main([str(layout.root), "--train", "train", "--test", "test", "--pixels"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("fine: instances train: 5 images, ")
        assert "panoptic test: 2 images, 2 annotations, 14 classes" in out

    def test_every_problem_is_listed(self, layout, capsys):
        cut_off(layout)
        remove_image(layout)
        assert main([str(layout.root), "--train", "train", "--test", "test"]) == 1
        assert len(capsys.readouterr().out.splitlines()) == 3  # the image is missing for both kinds of annotations

    def test_pixels(self, layout, capsys):
        image = sorted(layout.images("test").iterdir())[0]
        image.write_bytes(image.read_bytes()[:-1000])
        assert main([str(layout.root), "--train", "train", "--test", "test"]) == 0
        assert main([str(layout.root), "--train", "train", "--test", "test", "--pixels"]) == 1
        assert "000000.jpg: is cut off; get it again" in capsys.readouterr().out

    def test_nothing_there(self, tmp_path, capsys):
        assert main([str(tmp_path / "none")]) == 1
        assert "no such folder" in capsys.readouterr().out
        assert main([str(tmp_path), "--panoptic"]) == 1
        out = capsys.readouterr().out
        assert out.count("cocodataset.org") == 4
        assert "panoptic_annotations_trainval2017.zip" in out

    def test_real_images(self, shared, capsys):
        assert main([str(shared / "data/coco/coco_tiny80"), "--pixels"]) == 0
        assert "instances val2017: 80 images, 815 annotations, 80 classes" in capsys.readouterr().out
