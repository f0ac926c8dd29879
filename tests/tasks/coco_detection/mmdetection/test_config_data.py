"""The data of mmengine configs: faults end with one line before mmdet sees them, and it reads annotations as meant."""

import json
from pathlib import Path

import pytest

from tasks.coco_detection import train_published
from tasks.coco_detection.mmdetection import config_data

PIPELINE = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}]


def parts(root):
    return {
        name: {
            "type": "CocoDataset",
            "data_root": str(root),
            "ann_file": f"annotations/instances_{name}.json",
            "data_prefix": {"img": f"{name}/"},
            "pipeline": PIPELINE,
        }
        for name in ("train2017", "val2017")
    }


def config(root, evaluated="val2017"):
    from mmengine.config import Config

    train, val = parts(root).values()
    return Config(
        {
            "train_dataloader": {"dataset": {"type": "RepeatDataset", "times": 2, "dataset": train}},
            "val_dataloader": {"dataset": val},
            "val_evaluator": [{"type": "CocoMetric", "ann_file": f"{root}/annotations/instances_{evaluated}.json"}],
        }
    )


def zero(content):
    for entry in content["annotations"]:
        entry["id"] -= 1
        del entry["iscrowd"], entry["area"]


def test_mmdet_reads_what_is_meant(own_data):
    given = config(own_data(zero))
    config_data.place(given)
    train, val = given.train_dataloader.dataset.dataset.ann_file, given.val_dataloader.dataset.ann_file
    assert given.val_evaluator[0].ann_file == val
    for path, count in ((train, 12), (val, 8)):
        entries = json.loads(Path(path).read_text())["annotations"]
        assert [entry["id"] for entry in entries] == list(range(1, count + 1))
        assert {(entry["iscrowd"], entry["area"]) for entry in entries} == {(0, 480)}


def test_boxes_alone_need_no_masks(own_data):
    given = config(own_data(lambda content: [entry.pop("segmentation") for entry in content["annotations"]]))
    for loader in (given.train_dataloader.dataset.dataset, given.val_dataloader.dataset):
        loader.pipeline = PIPELINE[:1]
    config_data.place(given)


def test_the_metric_of_other_annotations_is_refused(own_data):
    with pytest.raises(ValueError, match=r"val_evaluator reads .*_train2017.json, val_dataloader .*_val2017.json"):
        config_data.place(config(own_data(), "train2017"))


FAULTS = {
    "not finite pairs": [[0, 0, float("nan"), 0, 5, 5]],
    "a polygon outside its image": [[0, 0, 1e9, 0, 1e9, 1e9]],
    "run lengths of size": {"size": [2**31, 2**31], "counts": "5"},
    "malformed run lengths": {"size": [64, 96], "counts": "~~~~~~~~"},
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_end_the_command_with_one_line(own_data, tmp_path, message, capsys):
    root = own_data(lambda content: content["annotations"][0].update(segmentation=FAULTS[message]))
    given = config(root).to_dict() | {"test_dataloader": {}, "test_evaluator": {}}
    (tmp_path / "given.json").write_text(json.dumps(given))
    assert train_published.main([str(tmp_path / "given.json"), "--work-dir", str(tmp_path / "work")]) == 3
    error = capsys.readouterr().err
    assert f"error: {root}/annotations/instances_train2017.json: annotations[0]" in error
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "work").exists()


def test_a_config_from_the_data_is_not_read(own_data, tmp_path, capsys):
    root, ran = own_data(), tmp_path / "ran"
    (root / "config.py").write_text(f"open({str(ran)!r}, 'w')")
    (tmp_path / "link.py").symlink_to(root / "config.py")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.py").write_text(f"open({str(ran)!r}, 'w')")
    for path, data in ((root / "config.py", other), (tmp_path / "link.py", other), (other / "config.py", other)):
        with pytest.raises(SystemExit, match="2"):
            train_published.main([str(path), "--data", str(data)])
        assert f"{path} lies in a folder of data, " in capsys.readouterr().err
    assert not ran.exists()
