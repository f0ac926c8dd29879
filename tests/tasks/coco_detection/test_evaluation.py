"""Scores of predictions that are made here: numbering cannot matter, and AP is that of a slow definition of it."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from PIL import Image
from pycocotools import mask as rle
from torch import nn

from tasks.coco_detection import datasets
from tasks.coco_detection.coco_format.layout import Layout
from tasks.coco_detection.config import PRESETS
from tasks.coco_detection.data import open_dataset
from tasks.coco_detection.evaluation import score

# pycocotools 2.0.11, numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Predicts(nn.Module):
    """Predicts what it was given: file name -> rows (label, score, [x1, y1, x2, y2])."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows
        self.weight = nn.Parameter(torch.zeros(1))

    def test_step(self, batch):
        return [self.predicted(sample) for sample in batch["data_samples"]]

    def predicted(self, sample):
        labels, scores, boxes = zip(*self.rows[sample.img_path.rsplit("/", 1)[1]], strict=True)
        masks = torch.zeros(len(boxes), *sample.ori_shape, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[round(top) : round(bottom), round(left) : round(right)] = True
        found = InstanceData(
            bboxes=torch.tensor(boxes), scores=torch.tensor(scores), labels=torch.tensor(labels), masks=masks
        )
        return DetDataSample(metainfo=sample.metainfo, pred_instances=found)


def truths(root):
    """file name -> (label, [x1, y1, x2, y2], iscrowd) of the test part."""
    content = json.loads(Layout(root).instances("val2017").read_text())
    names = {image["id"]: image["file_name"] for image in content["images"]}
    labels = [category["id"] for category in content["categories"]]
    found = {name: [] for name in names.values()}
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        box = [float(x), float(y), float(x + width), float(y + height)]
        found[names[entry["image_id"]]].append((labels.index(entry["category_id"]), box, entry.get("iscrowd", 0)))
    return found


def overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0.0, width) * max(0.0, height)
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return both / (sum(sizes) - both)


def slow_average_precision(truth, predicted, thresholds):
    """COCO's definition, word by word, of one class without crowds: the mean over thresholds and 101 recalls."""
    values = []
    rows = sorted(((mark, name, box) for name, r in predicted.items() for _, mark, box in r), key=lambda row: -row[0])
    count = sum(map(len, truth.values()))
    for threshold in thresholds:
        taken, hits = set(), []
        for _, name, box in rows:
            near = [(overlap(box, other), k) for k, (_, other, _) in enumerate(truth[name]) if (name, k) not in taken]
            best, k = max(near, default=(0.0, -1))
            hits.append(best >= threshold - 1e-9)
            if hits[-1]:
                taken.add((name, k))
        found = np.cumsum(hits)
        recall, precision = found / count, found / np.arange(1, len(hits) + 1)
        values += [max(precision[recall >= level - 1e-12], default=0.0) for level in np.linspace(0, 1, 101)]
    return 100 * float(np.mean(values))


def numbered_from_0(content):
    for entry in content["annotations"]:
        entry["id"] -= 1


def everything_from_0(content):
    numbered_from_0(content)
    for key, reference, by in (("images", "image_id", 1), ("categories", "category_id", 7)):
        for entry in content[key]:
            entry["id"] -= by
        for entry in content["annotations"]:
            entry[reference] -= by


def text(content):
    for key, reference in (("images", "image_id"), ("categories", "category_id")):
        for entry in content[key]:
            entry["id"] = f"n{entry['id']}"
        for entry in content["annotations"]:
            entry[reference] = f"n{entry[reference]}"


def every_entry(**values):
    return lambda content: [entry.update(values) for entry in content["annotations"]]


NUMBERINGS = {
    "from 1": lambda content: None,
    "from 0": numbered_from_0,
    "all from 0": everything_from_0,
    "text": text,
    "one id": every_entry(id=3),
    "id 0 alone": every_entry(id=0),
    "no ids": lambda content: [entry.pop("id") for entry in content["annotations"]],
    "descending": lambda content: [entry.update(id=-entry["id"]) for entry in content["annotations"]],
}


def scores(root, rows, detector="res2net", size="tiny"):
    config = dataclasses.replace(PRESETS["folder"], root=root, size=size, image=64, detector=detector)
    return score(Predicts(rows), datasets.open_fold(config, 1), "test", config)


@pytest.mark.parametrize("numbering", NUMBERINGS)
def test_numbering_cannot_matter(own_data, numbering):
    root = own_data(NUMBERINGS[numbering])
    truth = truths(root)
    perfect = {name: [(label, 0.9, box) for label, box, _ in rows] for name, rows in truth.items()}
    assert scores(root, perfect) == {"box_mAP": 100, "mask_mAP": 100, "box_mAP50": 100, "mask_mAP50": 100}
    generator = np.random.default_rng(1)
    rough = {
        name: [
            (0, float(generator.uniform(0.1, 0.9)), [value + float(generator.normal(0, 2)) for value in box])
            for _, box, _ in [*rows, *rows[:1]]
        ]
        for name, rows in truth.items()
    }
    found = scores(root, rough)
    expected = slow_average_precision(truth, rough, np.linspace(0.5, 0.95, 10))
    assert 5 < expected < 90
    assert found["box_mAP"] == pytest.approx(expected, abs=0.051)  # mmdet rounds
    assert found["box_mAP50"] == pytest.approx(slow_average_precision(truth, rough, [0.5]), abs=0.051)


def test_boxes_alone_have_box_scores_only(own_data):
    root = own_data(lambda content: [entry.pop("segmentation") for entry in content["annotations"]])
    perfect = {name: [(label, 0.9, box) for label, box, _ in rows] for name, rows in truths(root).items()}
    for size in ("tiny", "published"):
        assert scores(root, perfect, "res2net-boxes", size) == {"box_mAP": 100, "box_mAP50": 100}


def test_what_is_to_be_ignored_is_not_missed(own_data):
    root = own_data(lambda content: content["annotations"][0].update(ignore=1))
    perfect = {name: [(label, 0.9, box) for label, box, _ in rows] for name, rows in truths(root).items()}
    perfect["000.jpg"] = perfect["000.jpg"][1:]
    assert scores(root, perfect)["box_mAP"] == 100


def test_turned_pictures_are_scored_upright(own_data):
    """Annotations of the upright picture, of a tag that turns it clockwise: (x, y) -> (64 - y - h, x)."""

    def upright(content):
        for image in content["images"]:
            image.update(width=64, height=96)
        for entry in content["annotations"]:
            x, y, width, height = entry["bbox"]
            left, top, width, height = 64 - y - height, x, height, width
            corners = [left, top, left + width, top, left + width, top + height, left, top + height]
            entry.update(bbox=[left, top, width, height], segmentation=[corners])

    root = own_data(upright, orientation=6)
    perfect = {name: [(label, 0.9, box) for label, box, _ in rows] for name, rows in truths(root).items()}
    found = scores(root, perfect)
    assert (found["box_mAP"], found["mask_mAP"]) == (100, 100)


def test_masks_of_polygons_and_of_run_lengths_are_the_same(own_data):
    def as_run_lengths(content):
        for entry in content["annotations"]:
            encoded = rle.merge(rle.frPyObjects(entry["segmentation"], 64, 96))
            entry["segmentation"] = {"size": [64, 96], "counts": encoded["counts"].decode()}

    root = own_data(as_run_lengths)
    perfect = {name: [(label, 0.9, box) for label, box, _ in rows] for name, rows in truths(root).items()}
    assert scores(root, perfect)["mask_mAP"] == 100


class PredictsPanoptic(Predicts):
    """Predicts the PNGs of a folder: label + 1000 k for the k-th instance of a thing."""

    def __init__(self, layout, dataset):
        super().__init__({})
        self.layout, self.dataset = layout, dataset
        content = json.loads(layout.panoptic("test").read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        self.rows = {names[entry["image_id"]]: entry for entry in content["annotations"]}
        self.labels = [category["id"] for category in content["categories"]]

    def predicted(self, sample):
        entry = self.rows[sample.img_path.rsplit("/", 1)[1]]
        with Image.open(self.layout.panoptic_maps("test") / entry["file_name"]) as image:
            ids = np.asarray(image.convert("RGB")).astype(int) @ [1, 256, 256**2]
        found = np.full(ids.shape, len(self.labels))
        for number, segment in enumerate(entry["segments_info"]):
            label = self.labels.index(segment["category_id"])
            found[ids == segment["id"]] = label + 1000 * number * (label < self.dataset.things)
        return DetDataSample(
            metainfo=sample.metainfo, pred_panoptic_seg=PixelData(sem_seg=torch.from_numpy(found[None]))
        )


@pytest.mark.parametrize("first", [None, 0, "a"])
def test_panoptic_numbering_cannot_matter(config, tmp_path, first):
    layout = Layout(shutil.copytree(datasets.layout_of(config, 1).root, tmp_path / "data"), "train", "test")
    for part in ("train", "test"):
        content = json.loads(layout.panoptic(part).read_text())
        for key, of in (("images", lambda a: [a]), ("categories", lambda a: a["segments_info"])):
            numbers = {entry["id"]: k if first == 0 else f"{first}{k}" for k, entry in enumerate(content[key])}
            reference = "image_id" if key == "images" else "category_id"
            for entry in content[key] if first is not None else ():
                entry["id"] = numbers[entry["id"]]
            for entry in content["annotations"] if first is not None else ():
                for row in of(entry):
                    row[reference] = numbers[row[reference]]
        layout.panoptic(part).write_text(json.dumps(content))
    dataset = open_dataset(layout, "panoptic", validation=0.2)
    panoptic = dataclasses.replace(config, detector="panoptic")
    perfect = PredictsPanoptic(layout, dataset)
    assert score(perfect, dataset, "test", panoptic) == {"PQ": 100, "SQ": 100, "RQ": 100}
