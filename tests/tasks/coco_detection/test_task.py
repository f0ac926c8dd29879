"""Presets, what is missing and how to get it, published rows, and a short run on real COCO images."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rfnext import LocalSearch, Structure
from tasks.coco_detection import datasets, detectors
from tasks.coco_detection import task as module
from tasks.coco_detection.config import PRESETS, Config
from tasks.coco_detection.mmdetection import recipes
from tasks.coco_detection.training import fit
from tasks.spec import Run, Split

TASK: Any = module.TASK  # its optional functions are there


def test_every_preset_comes_for_every_detector():
    others = ("convnext", "pvtv2", "hrnet", "panoptic")
    for preset, suite in (("tiny", "families"), ("small", "small")):
        names = [f"{suite}-{name}" for name in others]
        assert {PRESETS[name].detector for name in (preset, *names)} == {"res2net", *others}
        assert set(names) <= set(TASK.presets_of(suite)) <= {preset, *names}
        for name, detector in zip(names, others, strict=True):
            assert PRESETS[name] == dataclasses.replace(PRESETS[preset], detector=detector)
    assert TASK.presets_of("tiny") == ("tiny",)
    assert {name for name in PRESETS if name.startswith("coco")} == {*datasets.PUBLISHED, "coco-rtmdet"}


@pytest.mark.parametrize("detector", ["res2net", "pvtv2", "rtmdet"])
def test_own_data_has_the_learning_rate_of_the_size(detector):
    def rate(**settings) -> float:
        config = dataclasses.replace(PRESETS["folder"], detector=detector, **settings)
        return recipes.recipe(config).optimizer(torch.device("cpu"))["optimizer"]["lr"]

    published = detectors.published(detector)
    share = 16 / published.auto_scale_lr.base_batch_size
    assert rate(batch=16) == 0.012
    assert rate(batch=16, size="published") == published.optim_wrapper.optimizer.lr * share
    assert rate(batch=16, size="published", lr=0.5) == 0.5 * share


@pytest.mark.parametrize("preset", datasets.PUBLISHED)
def test_published_presets_are_mmdets_schedule_and_the_published_search(preset):
    config = PRESETS[preset]
    published = detectors.published(config.detector)
    assert config.epochs == published.train_cfg.max_epochs
    assert config.lr == published.optim_wrapper.optimizer.lr
    assert config.batch == published.auto_scale_lr.base_batch_size
    recipe = recipes.recipe(config)
    optimizer = recipe.optimizer(torch.device("cpu"))
    assert optimizer["optimizer"]["lr"] == config.lr
    assert optimizer["type"] == "OptimWrapper"
    half = dataclasses.replace(config, epochs=config.epochs // 2, batch=8)
    assert config.lr is not None
    assert recipes.recipe(half).optimizer(torch.device("cuda"))["optimizer"]["lr"] == config.lr / 2
    (milestones,) = [s["milestones"] for s in recipe.schedule(1000) if "milestones" in s]
    assert milestones == list(published.param_scheduler[-1].milestones)
    (shorter,) = [s["milestones"] for s in recipes.recipe(half).schedule(1000) if "milestones" in s]
    assert shorter == [round(epoch / 2) for epoch in milestones]
    settings = detectors.configs.load(detectors.configs.FOLDER / f"{config.detector}_search.py").custom_hooks[0].config
    search = settings.search
    assert (config.search.spread, config.search.branches) == (search.exp_rate, search.num_branches)
    assert (config.search.bounds.min, config.search.bounds.max) == (search.mmin, search.mmax)
    assert config.search.rounds == search.max_step - 1


class TestUnavailable:
    def test_says_what_to_download(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
        for preset in datasets.PUBLISHED:
            reason = TASK.unavailable(PRESETS[preset])
            assert str(tmp_path / "coco/annotations") in reason
            assert "cocodataset.org" in reason
        assert "panoptic_train2017.json" in TASK.unavailable(PRESETS["coco-panoptic"])
        assert "--root PATH" in TASK.unavailable(PRESETS["folder"])

    def test_names_the_problem_of_own_data(self, tmp_path, config):
        root = shutil.copytree(datasets.layout_of(config, 1).root, tmp_path / "data")
        own = Config(dataset="folder", root=root, train_part="train", test_part="test")
        assert TASK.unavailable(own) is None
        assert [metric.name for metric in TASK.metrics_of(own)] == ["box_mAP", "mask_mAP", "box_mAP50", "mask_mAP50"]
        assert TASK.data_label(own) == "own data in data"
        assert "train2017.json is missing" in TASK.unavailable(dataclasses.replace(own, train_part="train2017"))
        (root / "annotations/instances_test.json").write_text("{")
        assert "broken JSON" in TASK.unavailable(own)

    def test_files_of_the_data_are_those_that_the_detector_reads(self, tmp_path, config, monkeypatch):
        root = shutil.copytree(datasets.layout_of(config, 1).root, tmp_path / "data")
        (root / "train/not-listed.png").touch()
        (root / "README.md").touch()
        own = Config(dataset="folder", root=root, train_part="train", test_part="test")
        parts = ("train", "test")
        images = {
            root / part / image["file_name"]
            for part in parts
            for image in json.loads((root / f"annotations/instances_{part}.json").read_text())["images"]
        }
        annotations = [root / f"annotations/instances_{part}.json" for part in parts]
        for _ in range(2):  # the second time, names are taken from the cache
            found = TASK.data_files(own)
            assert (found.root, found.own, set(found.labels)) == (root, True, set(annotations))
            assert set(found.inputs) == images
        panoptic = TASK.data_files(dataclasses.replace(own, detector="panoptic"))
        maps = {path for part in parts for path in (root / f"annotations/panoptic_{part}").iterdir()}
        assert set(panoptic.labels) == maps | {root / f"annotations/panoptic_{part}.json" for part in parts}
        assert set(panoptic.inputs) == images
        # A new state of a file has its own names; one that is no good has none, which is said elsewhere.
        content = json.loads(annotations[1].read_text())
        (dropped, *content["images"]) = content["images"]
        annotations[1].write_text(json.dumps(content))
        assert set(TASK.data_files(own).inputs) == images - {root / "test" / dropped["file_name"]}
        for text in ("{", "[]", '{"images": 3}', '{"images": [1, {"file_name": 2}]}'):
            annotations[1].write_text(text)
            assert {path.parent.name for path in TASK.data_files(own).inputs} == {"train"}
        assert TASK.data_files(config) is None
        monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
        assert not TASK.data_files(PRESETS["coco-hrnet"]).own
        assert TASK.data_files(dataclasses.replace(PRESETS["coco-hrnet"], root=root)).own

    def test_without_mmdet(self, monkeypatch):
        monkeypatch.setattr(datasets.importlib.util, "find_spec", lambda name: None if name == "mmdet" else object())
        assert "mmdet not installed; in the repository: pip install '.[detection]'" in TASK.unavailable(PRESETS["tiny"])


def test_published_rows_belong_to_the_very_setting():
    assert TASK.published(PRESETS["coco-hrnet"]) == "coco_detection.hrnetv2p_w18_cascade_mask_20e"
    assert TASK.published(dataclasses.replace(PRESETS["coco-hrnet"], workers=9)) is not None
    changes = (
        {"epochs": 12},
        {"size": "small"},
        {"test_part": "train2017"},
        {"detector": "pvtv2"},
        {"root": Path("mine")},
    )
    for change in changes:
        assert TASK.published(dataclasses.replace(PRESETS["coco-hrnet"], **change)) is None


@pytest.mark.parametrize(
    "bad", [{"detector": "yolo"}, {"dataset": "voc"}, {"size": "huge"}, {"epochs": -1}, {"image": 0}]
)
def test_bad_settings(bad):
    with pytest.raises(ValueError, match=r"unknown|at least [01]"):
        Config(**bad)
    with pytest.raises(ValueError, match="name it by --init FILE"):
        Config(epochs=0)
    with pytest.raises(ValueError, match="fold 4 is not one of"):
        datasets.open_fold(PRESETS["tiny"], 4)


@pytest.fixture
def real(shared, tmp_path):
    """Eight real training images of COCO and three of val2017, with their original annotations."""
    source = shared / "data/coco/coco_tiny80"
    for part, number in (("train2017", 8), ("val2017", 3)):
        content = json.loads((source / f"annotations/instances_{part}.json").read_text())
        annotated = {annotation["image_id"] for annotation in content["annotations"]}
        content["images"] = [image for image in content["images"] if image["id"] in annotated][:number]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in kept]
        (tmp_path / part).mkdir()
        for image in content["images"]:
            shutil.copy(source / part / image["file_name"], tmp_path / part)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/instances_{part}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.slow
def test_real_images_are_searched_on_killed_resumed_and_scored(real, tmp_path, monkeypatch):
    config = dataclasses.replace(
        PRESETS["folder"],
        root=real,
        size="tiny",
        image=96,
        batch=4,
        epochs=2,
        search=dataclasses.replace(PRESETS["folder"].search, interval=1),
    )
    assert TASK.unavailable(config) is None

    def train(folder, epochs, resume=False):
        torch.manual_seed(0)
        model = TASK.build(config)
        search = LocalSearch(model, config.search, TASK.where)
        folder.mkdir(exist_ok=True)
        run = Run(0, 1, folder, search=search, resume=resume, device="cpu")
        # A learning rate that does not depend on the number of epochs, so that the first of two is the first of one.
        monkeypatch.setattr(recipes.Recipe, "schedule", lambda self, steps: [])
        fit(model, dataclasses.replace(config, epochs=epochs), run)
        return model, search

    whole, search = train(tmp_path / "whole", 2)
    train(tmp_path / "cut", 1)
    resumed, again = train(tmp_path / "cut", 2, resume=True)
    assert again.state_dict() == search.state_dict()
    assert search.round == 2
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    scores = TASK.evaluate(resumed, config, Split("test", 1))
    assert scores.keys() == {metric.name for metric in TASK.metrics_of(config)}
    assert all(0 <= value <= 100 for value in scores.values())
    assert Structure.read(resumed, TASK.where) == search.structure()
