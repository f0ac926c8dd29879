"""MMDetection's own tools/train.py with the lines of docs/mmdetection.md, copied as they stand, under any detector."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rfnext import Structure

ROOT = Path(__file__).parents[3]
PIL = pytest.importorskip("PIL.Image")
pytest.importorskip("pycocotools")

DETECTORS = ["retinanet/retinanet_r18_fpn_1x_coco", "rtmdet/rtmdet_tiny_8xb32-300e_coco"]


def snippet() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "mmdetection.md").read_text("utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if "RFSearchRunner" in block]
    return found


def images(folder: Path) -> None:
    """Two images with one box each, in COCO's format."""
    (folder / "train2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    listed: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for number in (1, 2):
        PIL.new("RGB", (64, 64), (90 * number, 40, 0)).save(folder / "train2017" / f"{number}.png")
        listed.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        box = {"bbox": [8, 8, 40, 32], "area": 1280, "iscrowd": 0, "category_id": 1}
        boxes.append({"id": number, "image_id": number, **box})
    categories = [{"id": 1, "name": "person"}]
    content = {"images": listed, "annotations": boxes, "categories": categories}
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


SMALL = """
val_cfg = val_dataloader = val_evaluator = test_cfg = test_dataloader = test_evaluator = None
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2)
train_dataloader = dict(_delete_=True, batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler"), dataset=dict(
    type="CocoDataset", data_root="data/", ann_file="annotations/instances_train2017.json",
    data_prefix=dict(img="train2017/"), metainfo=dict(classes=("person",)), pipeline=[
        dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True),
        dict(type="Resize", scale=(64, 64)), dict(type="PackDetInputs")]))
param_scheduler = []
model = dict(backbone=dict(init_cfg=None))
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("detector", DETECTORS, ids=lambda name: name.partition("/")[0])
def test_their_own_tool_searches_with_the_lines_of_the_page(detector: str, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("mmdet")
    if spec is None or spec.origin is None:
        pytest.skip("mmdet is not installed")
    theirs = Path(spec.origin).parent / ".mim"
    images(tmp_path / "data")
    base = f"_base_ = [{str(theirs / 'configs' / (detector + '.py'))!r}]\n"
    (tmp_path / "config.py").write_text(base + SMALL + snippet())
    command = [sys.executable, "-W", "ignore", str(theirs / "tools" / "train.py"), "config.py", "--work-dir", "work"]
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    structure = Structure.load(tmp_path / "work" / "local_search_config_step1.json")
    state = torch.load(tmp_path / "work" / "epoch_2.pth", weights_only=True)["state_dict"]
    assert {f"{name.removeprefix('module.')}.branch_weight" for name in structure} <= state.keys()
    assert any(name.startswith("backbone.") for name in structure)
