"""The trainer of mmengine configs: on a small config with a search, from the command line; and its estimate."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from rfnext import pin_implementation
from tasks.coco_detection import datasets, detectors, train_published
from tasks.coco_detection.configs import load
from tasks.coco_detection.detectors import model_config
from tasks.coco_detection.mmdetection import estimate
from tests.checkpoints import differences
from tests.tasks.coco_detection import small_configs

ROOT = Path(__file__).parents[3]

CONFIG = """
custom_imports = dict(imports=["tasks.coco_detection.small_res2net", "rfnext.integrations.mmengine"],
    allow_failed_imports=False)
runner_type = "RFSearchRunner"
default_scope = "mmdet"
model = {model}
pipeline = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(64, 64), keep_ratio=True), dict(type="PackDetInputs")]
def part(name):
    return dict(type="CocoDataset", data_root="data/coco/", metainfo=dict(classes=("digit 0", "digit 1", "digit 2")),
        ann_file=f"annotations/instances_{{name}}.json", data_prefix=dict(img=f"{{name}}/"), pipeline=pipeline)
train_dataloader = dict(batch_size=4, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=part("train"))
val_dataloader = dict(batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(part("test"), test_mode=True))
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoMetric", ann_file="data/coco/annotations/instances_test.json", metric="bbox")
test_evaluator = val_evaluator
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=2)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.016))
auto_scale_lr = dict(enable=False, base_batch_size=16)
custom_hooks = [dict(type="RFSearchHook", mode="search",
    config=dict(search=dict(max_step=3, skip_layer=["stem", "layer1"])))]
"""


@pytest.fixture
def path(config, tmp_path):
    path = tmp_path / "small_search_config.py"
    path.write_text(CONFIG.format(model=model_config("res2net", "tiny", 3, 3).to_dict()))
    return path


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11, numpy 2
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")  # mmdet 3.3
def test_searches_scores_and_resumes(path, config, tmp_path, monkeypatch):
    data, work = datasets.layout_of(config, 1).root, tmp_path / "work"
    arguments = [str(path), "--data", str(data), "--work-dir", str(work), "--resume"]
    assert train_published.main([*arguments, "--set", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]) == 0
    first = json.loads((work / "local_search_config_step1.json").read_text())
    assert not (work / "local_search_config_step2.json").exists()
    assert train_published.main(arguments) == 0
    second = json.loads((work / "local_search_config_step2.json").read_text())
    assert first["structure"].keys() == second["structure"].keys()
    assert (work / "last_checkpoint").read_text().endswith("epoch_2.pth")
    rows = [json.loads(line) for file in work.glob("*/vis_data/scalars.json") for line in file.read_text().splitlines()]
    assert any("coco/bbox_mAP" in row for row in rows)
    assert {row["lr"] for row in rows if "lr" in row} <= {0.004}  # 4 of the 16 images that the config is for


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.filterwarnings("ignore")  # of mmdet 3.3, mmengine 0.10 and pycocotools, with the published pipeline
def test_a_search_that_is_killed_goes_on_as_if_nothing_had_happened(config, tmp_path, monkeypatch):
    """With the published pipeline and a loading process; resume_table.py does it for all 20 configs."""
    small = small_configs.small(dataclasses.replace(config, detector="pvtv2"), "search")
    small_configs.write(small, tmp_path / "config.py")
    small.custom_hooks.append({"type": "Stop", "at": 7, "by": int(signal.SIGKILL)})  # 5 an epoch
    small_configs.write(small, tmp_path / "killed.py")
    arguments = ["--data", str(datasets.layout_of(config, 1).root), "--resume", "--work-dir"]
    command = [sys.executable, "-m", "tasks.coco_detection.train_published", str(tmp_path / "killed.py"), *arguments]
    # Its end of the pipe is closed when its loading processes have ended, too.
    monkeypatch.setenv("RFNEXT_IMPLEMENTATION", "taps")  # without compiling kernels
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in this process
    killed = subprocess.run([*command, str(tmp_path / "parts")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    monkeypatch.setattr(Runner, "_log_env", lambda runner, env_cfg: None)  # these two take mmengine seconds
    monkeypatch.setattr(Config, "pretty_text", property(repr))
    for folder in ("parts", "whole"):
        with pin_implementation("taps"):
            assert train_published.main([str(tmp_path / "config.py"), *arguments, str(tmp_path / folder)]) == 0
    parts, whole = (torch.load(tmp_path / name / "epoch_3.pth", weights_only=True) for name in ("parts", "whole"))
    first = torch.load(tmp_path / "whole/epoch_1.pth", weights_only=True)
    assert len(differences(first["state_dict"], whole["state_dict"], "state_dict")) > 100
    assert differences(parts, whole) == []


@pytest.mark.slow
@pytest.mark.fault
def test_two_processes_go_on_as_if_nothing_had_happened():
    command = [sys.executable, "-m", "tests.tasks.coco_detection.resume_table", "--processes", "2"]
    command += ["--detectors", "pvtv2", "--modes", "baseline"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"what"')]
    assert (line["processes"], line["different"]) == (2, 0)
    assert line["moved"] > 100


def test_estimate(path, monkeypatch, capsys):
    seconds = estimate.seconds_per_image(load(path), size=(3, 64, 96), steps=2)
    assert 0.001 < seconds < 5
    monkeypatch.setattr(estimate, "seconds_per_image", lambda config: 0.1)
    assert train_published.main([str(path), "--estimate"]) == 0
    # 0.1 s x 117,266 images x 2 epochs
    assert capsys.readouterr().out.startswith("small_search_config: about 7 hours of one ")


def test_an_estimate_ends_early_where_steps_are_slow(path, monkeypatch):
    monkeypatch.setattr(estimate, "ENOUGH", 1e-9)
    steps = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *given: (steps.append(1), step(*given)))
    assert estimate.seconds_per_image(load(path), size=(3, 64, 96)) > 0
    assert len(steps) == 2  # the first is not counted


def test_a_config_that_is_missing_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        train_published.main([str(tmp_path / "none.py"), "--estimate"])
    assert "none.py" in capsys.readouterr().err.splitlines()[-1]


def test_an_estimate_of_a_detector_without_masks():
    config = detectors.published("rtmdet")
    assert estimate.shape_of(config) == (3, 640, 640)
    assert estimate.seconds_per_image(config, size=(3, 64, 64), steps=1) > 0


def test_search_is_part_of_the_estimate(path, monkeypatch):
    config = load(path)
    seen = []

    def forward(module, *given):
        seen.append(type(module).__name__)

    handle = torch.nn.modules.module.register_module_forward_pre_hook(forward)
    try:
        estimate.seconds_per_image(config, size=(3, 64, 64), steps=1)
    finally:
        handle.remove()
    assert "SearchConv2d" in seen
