"""Every fit runs mmengine's Runner on a few scenes: checkpoints, resuming, validation, loggers, devices."""

import dataclasses
import json
import logging
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rfnext import LocalSearch, OneShotConfig, OneShotSearch, Structure
from tasks.coco_detection import datasets, evaluation, metrics, task, training
from tasks.coco_detection.detector_names import Detector
from tasks.coco_detection.detectors import searched
from tasks.coco_detection.evaluation import predict, score
from tasks.coco_detection.mmdetection import recipes
from tasks.coco_detection.mmdetection.loading import read_part, test_loader
from tasks.coco_detection.mmdetection.quiet import quiet
from tasks.coco_detection.training import CHECKPOINT, fit
from tasks.spec import SELECTED, Run, Split

test_loader.__test__ = False  # type: ignore[attr-defined]  # it is no test


@pytest.fixture(scope="module")
def dataset(config):
    return datasets.open_fold(config, 1)


def network(config, searching=False) -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = task.build(config)
    return model, LocalSearch(model, config.search, searched) if searching else None


def train(config, folder, searching=False, model=None, **settings) -> tuple[Any, Any]:
    made, search = network(config, searching)
    folder.mkdir(exist_ok=True)
    run = Run(**{"seed": 3, "fold": 1, "folder": folder, "device": "cpu", "search": search} | settings)
    fit(made, config, run)
    return made, search


def die_at(monkeypatch, step):
    """Make training fail in the given step, in the middle of an epoch."""
    steps = []
    update = training.Runner.call_hook

    def call_hook(runner, name, **given):
        steps.append(name == "after_train_iter")
        if name == "after_train_iter" and sum(steps) == step:
            raise RuntimeError("killed")
        update(runner, name, **given)

    monkeypatch.setattr(training.Runner, "call_hook", call_hook)


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class TestResume:
    @pytest.mark.slow
    def test_a_killed_search_goes_on_as_if_nothing_had_happened(self, config, tmp_path, monkeypatch):
        whole, search = train(config, tmp_path / "whole", searching=True)
        assert search.round == 2
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
            die_at(patch, 4)  # the last step of the second of three epochs
            train(config, tmp_path / "cut", searching=True)
        torch.randn(5)
        resumed, again = train(config, tmp_path / "cut", searching=True, resume=True)
        assert_same_weights(resumed.state_dict(), whole.state_dict())
        assert again.state_dict() == search.state_dict()
        assert again.structure() == search.structure()
        one, two = (torch.load(tmp_path / name / SELECTED, weights_only=True) for name in ("whole", "cut"))
        assert_same_weights(one["state_dict"], two["state_dict"])

    @pytest.mark.slow
    def test_the_beginning_of_a_longer_training_has_its_learning_rates(self, config, tmp_path, monkeypatch):
        config = dataclasses.replace(config, validate_every=9)
        rates = []
        update = training.Runner.call_hook

        def call_hook(runner, name, **given):
            if name == "before_train_iter":
                rates.append(runner.optim_wrapper.get_lr()["lr"][0])
            update(runner, name, **given)

        monkeypatch.setattr(training.Runner, "call_hook", call_hook)
        whole, _ = train(config, tmp_path / "whole")
        straight = rates.copy()
        rates.clear()
        first = dataclasses.replace(config, epochs=1)
        train(first, tmp_path / "halved", schedule_epochs=3)
        rest, _ = train(config, tmp_path / "halved", resume=True, schedule_epochs=3)
        assert rates == straight
        assert_same_weights(rest.state_dict(), whole.state_dict())
        rates.clear()
        train(first, tmp_path / "short")
        assert rates != straight[: len(rates)]  # a training in its own right

    def test_refuses_another_run_and_a_broken_checkpoint(self, config, tmp_path):
        config = dataclasses.replace(config, epochs=1)
        train(config, tmp_path)
        others: list[tuple[dict[str, Any], str]] = [
            ({"seed": 4}, "cannot resume: .*last.pth is of a training with the seed 3, this one has 4"),
            ({"searching": True}, "cannot resume: the checkpoint holds no local search"),
        ]
        for settings, message in others:
            with pytest.raises(ValueError, match=message):
                train(config, tmp_path, resume=True, **settings)
        (tmp_path / CHECKPOINT).write_bytes(b"x" * 300)
        with pytest.raises(ValueError, match=f"{CHECKPOINT} is not a readable checkpoint"):
            train(config, tmp_path, resume=True)

    def test_nothing_to_resume_from(self, config, tmp_path, caplog):
        with caplog.at_level(logging.INFO, logger="tasks.coco_detection"):
            train(dataclasses.replace(config, epochs=1), tmp_path, resume=True)
        assert "no epoch was finished, starting from the first" in caplog.text
        assert (tmp_path / CHECKPOINT).exists()


class TestFit:
    def test_selects_on_validation_and_keeps_the_last_epoch(self, config, tmp_path, monkeypatch):
        marks = iter([30.0, 10.0])
        seen = []

        def scored(model, dataset, part, config):
            seen.append((part, {name: value.clone() for name, value in model.state_dict().items()}))
            value = next(marks)
            return {"box_mAP": value, "mask_mAP": value}

        monkeypatch.setattr(training, "score", scored)
        model, _ = train(config, tmp_path)
        assert [part for part, _ in seen] == ["validation"] * 2  # after the second epoch and the last
        assert_same_weights(torch.load(tmp_path / SELECTED, weights_only=True)["state_dict"], seen[0][1])
        assert_same_weights(model.state_dict(), seen[1][1])

    def test_is_silent(self, config, tmp_path, capfd):
        train(dataclasses.replace(config, epochs=1), tmp_path)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(("logger", "pattern"), [("csv", "**/scalars.json"), ("tensorboard", "**/events*")])
    def test_loggers_get_losses_and_validation(self, config, tmp_path, logger, pattern):
        train(dataclasses.replace(config, epochs=1), tmp_path, logger=logger)
        (path,) = [p for p in tmp_path.glob(pattern) if p.stat().st_size]
        if logger == "csv":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            assert any("validation/box_mAP" in row for row in rows)
            assert any("loss" in row for row in rows)

    def test_learning_rate_is_scaled_with_the_batch(self, config):
        for batch, lr in ((16, 1.0), (4, 0.25)):
            changed = dataclasses.replace(config, lr=1.0, batch=batch)
            assert recipes.recipe(changed).optimizer(torch.device("cpu"))["optimizer"]["lr"] == lr


class TestScore:
    @pytest.mark.slow
    def test_equals_pycocotools(self, config, dataset, tmp_path):
        """A detector overfitted to one scene, whose detections are then scored by pycocotools without mmdet."""
        model, _ = train(dataclasses.replace(config, epochs=10, validate_every=10, lr=0.05), tmp_path)
        found = score(model, dataset, "train", config)
        truth = COCO(str(dataset.train.annotations))
        category = truth.getCatIds()
        rows = []
        for sample in predict(model, test_loader(dataset, dataset.train, config)):
            boxes = sample.pred_instances
            for label, mark, (left, top, right, bottom) in zip(
                boxes.labels.tolist(), boxes.scores.tolist(), boxes.bboxes.tolist(), strict=True
            ):
                box = [left, top, right - left, bottom - top]
                rows.append({"image_id": sample.img_id, "category_id": category[label], "score": mark, "bbox": box})
        evaluation = COCOeval(truth, truth.loadRes(cast(Any, rows)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        names = ("box_mAP", "box_mAP50", None, "box_mAP_s", "box_mAP_m", "box_mAP_l")
        expected = {name: 100 * value for name, value in zip(names, evaluation.stats, strict=False) if name}
        assert expected["box_mAP50"] > 0.5
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=0.051)  # mmdet rounds

    def test_of_nothing_detected_is_zero(self, config, dataset):
        model, _ = network(config)
        model.roi_head.test_cfg.score_thr = 2.0
        found = score(model, dataset, "validation", config)
        assert set(found.values()) == {0.0}
        assert found.keys() == {metric.name for metric in metrics.METRICS}

    def test_panoptic_segments(self, config):
        from mmdet.structures import DetDataSample
        from mmengine.structures import PixelData

        things = torch.tensor([[[0, 1000, 1002, 3]]])  # two instances of class 0 and 2; stuff 3; then void, 4
        sample = DetDataSample(pred_panoptic_seg=PixelData(sem_seg=torch.cat([things, torch.full((1, 1, 1), 4)], 2)))
        ids, segments = evaluation.panoptic_segments(sample, [10, 20, 30, 40])
        assert ids.tolist() == [[1, 1001, 1003, 4, 0]]
        assert {s["id"]: s["category_id"] for s in segments} == {1: 10, 1001: 10, 1003: 30, 4: 40}


TINY = [*get_args(Detector), "res2net-boxes", "pvtv2-boxes"]


@pytest.mark.parametrize(("detector", "size"), [*((name, "tiny") for name in TINY), ("res2net", "small")])
def test_every_detector_searches_trains_and_predicts(config, detector, size, tmp_path):
    """One epoch of two steps: every weight that is trained moves, branches among them; scores are finite.

    At the size small, a cascade has all of its stages.
    """
    rounds = dataclasses.replace(config.search, interval=2)
    config = dataclasses.replace(config, detector=detector, size=size, epochs=1, search=rounds)
    model, search = network(config, searching=True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    fit(model, config, Run(3, 1, tmp_path, search=search, device="cpu"))
    searched_names = set(search.initial)
    assert not any(name.startswith(("backbone.stem.", "backbone.layer1.")) for name in searched_names)
    assert any(name.startswith("backbone.") for name in searched_names)
    assert any(name.startswith(("roi_head.", "rpn_head.", "neck.")) for name in searched_names)
    still = [
        name
        for name, value in model.named_parameters()
        if torch.equal(value, before[name]) and len(value) > 1 and not torch.equal(value, torch.zeros_like(value))
    ]
    assert len(still) < 0.1 * len(before), still
    moved = [
        name
        for name in searched_names
        if not torch.equal(model.get_submodule(name).branch_weight, before[f"{name}.branch_weight"])
    ]
    assert len(moved) > 0.8 * len(searched_names)
    found = task.TASK.evaluate(model, config, Split("test", 1))
    assert found.keys() == {metric.name for metric in metrics.metrics_by_config(config)}
    assert all(np.isfinite(value) and 0 <= value <= 100 for value in found.values())
    assert Structure.read(model, searched).keys() == searched_names


@pytest.mark.slow
def test_a_one_shot_search_has_its_own_learning_rate_and_resumes(config, tmp_path, monkeypatch):
    def one_shot(folder, resume=False):
        torch.manual_seed(0)
        model = task.build(config)
        search = OneShotSearch(model, OneShotConfig(candidates=(1, 2, 4)), searched)
        folder.mkdir(exist_ok=True)
        fit(model, config, Run(0, 1, folder, search=search, resume=resume, device="cpu"))
        return model, search

    whole, search = one_shot(tmp_path / "whole")
    assert search.step == config.epochs
    groups = torch.load(tmp_path / "whole" / CHECKPOINT, weights_only=True)["optimizer"]["param_groups"]
    own = [group for group in groups if len(group["params"]) == len(search.branch_weights())]
    assert [group["initial_lr"] for group in own] == [search.parameter_groups()[1]["lr"]]
    assert sum(len(group["params"]) for group in groups) == len(list(whole.parameters()))
    assert any(not torch.equal(weight, weight[:1].expand_as(weight)) for weight in search.branch_weights())
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        die_at(patch, 3)
        one_shot(tmp_path / "cut")
    resumed, again = one_shot(tmp_path / "cut", resume=True)
    assert_same_weights(resumed.state_dict(), whole.state_dict())
    assert again.state_dict() == search.state_dict()


def test_mirrored_only_where_that_makes_sense(config, dataset):
    steps = [step["type"] for step in recipes.recipe(config).train_pipeline]
    assert "RandomFlip" not in steps
    own = dataclasses.replace(config, dataset="folder")
    assert "RandomFlip" in [step["type"] for step in recipes.recipe(own).train_pipeline]
    with quiet():
        data = read_part(dataset, dataset.train, config, training=True)
        assert data[0]["inputs"].shape == (3, 64, 64)
