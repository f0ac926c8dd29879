"""The five detectors wrapped and trained by mmcv's own hook, opened here: equal outputs and equal next steps."""

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("mmdet", reason="mmdet is not installed")

from rfnext.integrations import compiled_ops

compiled_ops.install()
from mmcv.cnn.rfsearch import RFSearchHook  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.optim import OptimWrapper  # noqa: E402

import rfnext  # noqa: E402
from rfnext.ops.pins import pin_implementation  # noqa: E402
from rfnext.structure import searched_convs  # noqa: E402
from tasks.coco_detection import detectors  # noqa: E402
from tasks.coco_detection.detector_names import Detector, Size  # noqa: E402
from tasks.coco_detection.mmdetection.quiet import quiet  # noqa: E402

SKIPPED = {"res2net": ["stem", "layer1"], "panoptic": ["stem", "layer1"], "hrnet": ["layer1"]}
THINGS, CLASSES = 3, 5


def built(name: Detector, size: Size, things: int = THINGS) -> nn.Module:
    torch.manual_seed(0)
    model = revert_sync_batchnorm(detectors.build(name, size, CLASSES if name == "panoptic" else things, things))
    for module in model.modules():
        if type(module).__name__ in ("DropPath", "Dropout"):
            module.eval().train = lambda mode=True, module=module: module  # type: ignore[method-assign]
    return model


def wrapped(
    name: Detector, size: Size, mode: str, structure: Path | None, classes: int = THINGS
) -> tuple[nn.Module, RFSearchHook]:
    search = {"step": 0, "max_step": 12, "search_interval": 1, "exp_rate": 0.5, "init_alphas": 0.01}
    search |= {"mmin": 1, "mmax": 24, "num_branches": 2, "skip_layer": SKIPPED.get(name, [])}
    model = built(name, size, classes)
    hook = RFSearchHook(mode, {"search": search}, structure and str(structure), verbose=False)
    hook.init_model(model)
    return model, hook


def inputs(name: Detector, side: int = 64) -> Any:
    shape = [(3, side, side)]
    return demo_mm_inputs(
        1, shape, num_classes=THINGS, with_mask=True, with_semantic=name == "panoptic", use_box_type=False
    )


def to_double(model: nn.Module) -> nn.Module:
    """A detector that computes in float64: its preprocessor makes images float32, whatever the network is."""
    model.double().backbone.register_forward_pre_hook(lambda _, given: (given[0].double(),))  # type: ignore[union-attr]
    return model


def step(model: nn.Module, name: Detector) -> None:
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-3))
    torch.manual_seed(0)  # of the heads' samplers
    with quiet():
        model.train().train_step(copy.deepcopy(inputs(name)), optimizer)  # type: ignore[operator]


def outputs(model: Any, x: Tensor) -> list[Tensor]:
    """Of backbone and neck, and of the heads that take their feature maps."""
    with torch.no_grad():
        features = model.eval().extract_feat(x)
        found = [*features, *(value for part in model.rpn_head(features) for value in part)]
        pooled = torch.nn.functional.adaptive_avg_pool2d(features[0], 7)
        heads = model.roi_head.mask_head
        found += [head(pooled) for head in (heads if isinstance(heads, nn.ModuleList) else [heads])]
        heads = model.roi_head.bbox_head
        found += [out for head in (heads if isinstance(heads, nn.ModuleList) else [heads]) for out in head(pooled)]
        if hasattr(model, "semantic_head"):
            found.append(model.semantic_head(features)["seg_preds"])
    return found


def difference(name: Detector, size: Size, mode: str, structure: Path, folder: Path, *, double: bool = False) -> float:
    """Train by mmcv's hook, open here, and compare before and after another step; returns the largest difference."""
    theirs, _ = wrapped(name, size, mode, structure)
    if double:
        to_double(theirs)
    with pin_implementation("taps"):
        step(theirs, name)
        torch.save({"meta": {}, "state_dict": theirs.state_dict()}, folder / "checkpoint.pth")
        ours = to_double(built(name, size)) if double else built(name, size)
        rfnext.open_published(ours, folder / "checkpoint.pth", structure)
        assert bool(searched_convs(ours)) == (mode != "fixed_single_branch")
        x = torch.randn(1, 3, 64, 64, dtype=torch.float64 if double else torch.float32)
        largest = 0.0
        for training in (False, True):
            if training:
                step(theirs, name)
                step(ours, name)
            for a, b in zip(outputs(ours, x), outputs(theirs, x), strict=True):
                scale = b.abs().max().clamp_min(1e-6)
                largest = max(largest, float((a - b).abs().max() / scale))
    return largest


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["search", "fixed_single_branch", "fixed_multi_branch"])
@pytest.mark.parametrize("name", get_args(Detector))
def test_a_detector_that_mmcv_trained_opens(name: Detector, mode: str, tmp_path: Path) -> None:
    model, hook = wrapped(name, "tiny", "search", None)
    hook.step(nn.ModuleDict({"module": model}), str(tmp_path))
    structure = tmp_path / "local_search_config_step1.json"
    content = json.loads(structure.read_text())
    for number, layer in enumerate(content["structure"]):  # not all alike
        content["structure"][layer] = [1 + number % 3, 1 + number % 2]
    structure.write_text(json.dumps(content))
    assert difference(name, "tiny", mode, structure, tmp_path) < 1e-5
