"""Trainings that start from the network of a file: what is taken, what is named, and what is refused."""

import dataclasses
import json
import logging

import pytest
import torch

from benchmarks import run
from rfnext import LocalSearch
from rfnext.structure import searched_convs
from tasks import checkpoint
from tasks.coco_detection import datasets, task
from tasks.coco_detection.config import Config
from tasks.coco_detection.detectors import searched
from tasks.plain import plain, rebuild


@pytest.fixture
def given(config, tmp_path):
    """A searched network of three digits in a file, its branches and weights changed; and the config that made it."""
    torch.manual_seed(5)
    model = task.build(config)
    LocalSearch(model, config.search, searched)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    checkpoint.save(tmp_path / "model.pt", "coco_detection", config, model, datasets.facts(config))
    return tmp_path / "model.pt", model.eval()


def features(model):
    with torch.no_grad():
        return model.eval().extract_feat(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))


def test_the_whole_network_is_taken_with_its_branches(config, given):
    path, source = given
    model = task.build(dataclasses.replace(config, init=path))
    state = source.state_dict()
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert searched_convs(model).keys() == searched_convs(source).keys() != set()
    assert all(torch.equal(*pair) for pair in zip(features(model), features(source), strict=True))


def test_layers_of_other_classes_start_at_random_and_are_named(config, given, caplog):
    path, source = given
    other = dataclasses.replace(config, digits=4, init=path)
    with caplog.at_level(logging.WARNING):
        model = task.build(other)
    (line,) = [record.getMessage() for record in caplog.records if "start at random" in record.getMessage()]
    state, own = source.state_dict(), model.state_dict()
    fresh = {n for n in own if own[n].shape != state[n].shape or not torch.equal(own[n], state[n])}
    heads = {"roi_head.bbox_head.0.fc_cls", "roi_head.mask_head.0.conv_logits"}
    assert {name.rpartition(".")[0] for name in fresh} == heads
    assert all(head in line for head in heads)
    with pytest.raises(ValueError, match=r"model.pt has other classes \(3: digit 0, .*cannot be scored without"):
        task.build(dataclasses.replace(other, epochs=0))


def test_as_many_classes_of_other_names_are_other_classes(config, given, monkeypatch):
    path, source = given
    monkeypatch.setattr("tasks.coco_detection.datasets.facts", lambda config: {"classes": list("abc"), "things": 3})
    model = task.build(dataclasses.replace(config, init=path))
    name = "roi_head.bbox_head.0.fc_cls.weight"
    assert not torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_of_rtmdet_the_classes_are_told_apart_too(config, tmp_path, monkeypatch):
    config = dataclasses.replace(config, detector="rtmdet")
    source, path = task.build(config), tmp_path / "model.pt"
    checkpoint.save(path, "coco_detection", config, source, datasets.facts(config))
    monkeypatch.setattr("tasks.coco_detection.datasets.facts", lambda config: {"classes": list("abc"), "things": 3})
    own = task.build(dataclasses.replace(config, init=path)).state_dict()
    differing = {name for name, value in source.state_dict().items() if not torch.equal(value, own[name])}
    assert differing == {f"bbox_head.rtm_cls.{level}.weight" for level in range(3)}  # biases start alike
    with pytest.raises(ValueError, match=r"model.pt has other classes .*cannot be scored without"):
        task.build(dataclasses.replace(config, init=path, epochs=0))


def test_a_detector_without_masks_starts_from_one_with_masks(config, given):
    path, source = given
    model = task.build(dataclasses.replace(config, detector="res2net-boxes", init=path))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_another_detector_or_file_is_refused(config, given, tmp_path):
    path, _ = given
    with pytest.raises(ValueError, match=r"model.pt is of detector 'res2net', size 'tiny'; give --detector res2net"):
        task.build(dataclasses.replace(config, detector="hrnet", init=path))
    with pytest.raises(ValueError, match="is of detector"):
        task.build(dataclasses.replace(config, size="small", init=path))
    (tmp_path / "other.pt").write_bytes(b"x")
    with pytest.raises(ValueError, match="other.pt is not a readable checkpoint"):
        task.build(dataclasses.replace(config, init=tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="epochs is 0, .* --init FILE"):
        dataclasses.replace(config, epochs=0)
    assert "no such file" in str(task.unavailable(dataclasses.replace(config, init=tmp_path / "none.pt")))


def test_protocols_have_the_content_of_the_file_and_not_its_place(config, given):
    path, _ = given
    first = dataclasses.replace(config, init=path)
    moved = path.rename(path.with_name("moved.pt"))
    assert plain(first, "config") == plain(dataclasses.replace(config, init=moved), "config")
    assert "init" not in plain(first, "config")
    assert "init_fingerprint" not in plain(config, "config")  # older records stay valid
    back = rebuild(Config, plain(first, "config"))
    assert f"fingerprint {first.init_fingerprint}; name it by --init PATH" in str(task.unavailable(back))
    moved.write_bytes(b"other")
    with pytest.raises(ValueError, match="give the same files"):
        dataclasses.replace(back, init=moved)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11, numpy 2
def test_a_file_is_scored_as_it_is_from_the_command_line(config, given, tmp_path):
    path, source = given
    size = ["--scenes", "10", "--digits", "3", "--size", "tiny", "--image", "64", "--batch", "4"]
    arguments = ["coco_detection", "baseline", "--preset", "tiny", *size, "--init", str(path), "--epochs", "0"]
    arguments += ["--results", str(tmp_path / "results"), "--device", "cpu"]
    assert run.main(arguments) == 0
    (record,) = (tmp_path / "results").glob("runs/**/*seed0.json")
    content = json.loads(record.read_text())
    assert content["protocol"]["config"]["init_fingerprint"]
    (model,) = (tmp_path / "results").rglob("model.pt")
    scored = checkpoint.load(model, "coco_detection").model
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in scored.state_dict().items())
