"""The stand-in for mmcv's compiled operators, through mmcv's own functions, against slow references."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmcv", reason="mmcv-lite is not installed")

from rfnext.integrations import compiled_ops

if not compiled_ops.install():
    pytest.skip("mmcv has its own operators here", allow_module_level=True)

import mmcv.ops


def boxes_of(n: int, size: float) -> Tensor:
    corner = torch.rand(n, 2) * size
    return torch.cat([corner, corner + 1 + torch.rand(n, 2) * size], dim=1)


def overlap(a: list[float], b: list[float], offset: int) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    both = max(width, 0) * max(height, 0)
    areas = [(x2 - x1 + offset) * (y2 - y1 + offset) for x1, y1, x2, y2 in (a, b)]
    return both / (sum(areas) - both)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_nms_keeps_what_a_greedy_loop_keeps(threshold: float, offset: int) -> None:
    boxes, scores = boxes_of(60, 8), torch.rand(60)
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i].tolist(), boxes[j].tolist(), offset) <= threshold for j in kept):
            kept.append(i)
    assert 1 < len(kept) < 60
    found, indices = mmcv.ops.nms(boxes, scores, threshold, offset)
    assert indices.tolist() == kept
    assert torch.equal(torch.as_tensor(found), torch.cat([boxes, scores[:, None]], dim=1)[kept])


def test_an_offset_of_one_makes_pixels_at_a_corner_overlap() -> None:
    """By hand: 2 x 2 and 2 x 2 pixels, 1 in common, 7 in all."""
    boxes, scores = torch.tensor([[0.0, 0, 1, 1], [1, 1, 2, 2]]), torch.tensor([0.9, 0.8])
    assert len(mmcv.ops.nms(boxes, scores, 0.1, 0)[1]) == 2
    assert len(mmcv.ops.nms(boxes, scores, 1 / 7 - 0.01, 1)[1]) == 1
    assert len(mmcv.ops.nms(boxes, scores, 1 / 7 + 0.01, 1)[1]) == 2


def test_batched_nms_of_mmcv_runs_on_it() -> None:
    boxes, scores, labels = boxes_of(40, 4), torch.rand(40), torch.randint(3, (40,))
    found, kept = mmcv.ops.batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.3, "max_num": 12})
    assert 1 < len(kept) <= 12
    assert torch.equal(found[:, 4], scores[kept])
    for i, j in itertools.combinations(kept.tolist(), 2):
        assert labels[i] != labels[j] or overlap(boxes[i].tolist(), boxes[j].tolist(), 0) <= 0.3


def align(image: Tensor, roi: list[float], size: tuple[int, int], scale: float, ratio: int, aligned: bool) -> Tensor:
    """RoI align of one region, (channels, *size): means of bilinear samples (Mask R-CNN, section 3)."""
    x1, y1, x2, y2 = (c * scale - (0.5 if aligned else 0) for c in roi)
    spans = y2 - y1, x2 - x1
    if not aligned:
        spans = max(spans[0], 1.0), max(spans[1], 1.0)
    steps = [span / bins for span, bins in zip(spans, size, strict=True)]
    counts = [ratio or math.ceil(span / bins) for span, bins in zip(spans, size, strict=True)]
    result = image.new_zeros(image.shape[0], *size)
    for row, column in itertools.product(*map(range, size)):
        for i, j in itertools.product(*map(range, counts)):
            y = y1 + steps[0] * (row + (i + 0.5) / counts[0])
            x = x1 + steps[1] * (column + (j + 0.5) / counts[1])
            result[:, row, column] += bilinear(image, y, x)
    return result / max(counts[0] * counts[1], 1)


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    height, width = image.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return image.new_zeros(image.shape[0])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    value = image.new_zeros(image.shape[0])
    for row, column in itertools.product({int(y), min(int(y) + 1, height - 1)}, {int(x), min(int(x) + 1, width - 1)}):
        value += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align_equals_its_definition(ratio: int, aligned: bool) -> None:
    images = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    rois = torch.tensor(
        [[0, 1.5, 2, 15, 13], [1, 0, 0, 21, 17], [1, -4, 3, 30, 9], [0, 5, 5, 5.2, 5.1]], dtype=torch.float64
    )
    found = mmcv.ops.roi_align(images, rois, (2, 3), 0.5, ratio, "avg", aligned)
    expected = [align(images[int(i)], box, (2, 3), 0.5, ratio, aligned) for i, *box in rois.tolist()]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("aligned", [True, False])
def test_gradient_of_roi_align(aligned: bool) -> None:
    images = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1, 1, 8, 7], [1, 2, 0, 11, 9.5]], dtype=torch.float64)
    layer = mmcv.ops.RoIAlign((2, 2), spatial_scale=0.5, sampling_ratio=2, aligned=aligned)
    assert torch.autograd.gradcheck(lambda x: layer(x, rois), images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions(dtype: torch.dtype) -> None:
    images = torch.randn(1, 2, 8, 8, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 1, 6, 7]])
    half = images.detach().to(dtype).requires_grad_()
    found = mmcv.ops.roi_align(half, rois.to(dtype), (2, 2), 1.0, 2, "avg", True)
    expected = mmcv.ops.roi_align(images, rois, (2, 2), 1.0, 2, "avg", True)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)
    found.float().square().sum().backward()
    expected.square().sum().backward()
    assert half.grad is not None
    torch.testing.assert_close(half.grad.float(), images.grad, rtol=0.05, atol=0.05)


def test_other_operators_fail_when_called_and_are_named() -> None:
    with pytest.raises(NotImplementedError, match="operator 'softnms' has no stand-in; install mmcv instead"):
        mmcv.ops.soft_nms(boxes_of(3, 2), torch.rand(3))
    with pytest.raises(NotImplementedError, match="RoI align by the maximum"):
        mmcv.ops.roi_align(torch.randn(1, 1, 4, 4), torch.tensor([[0, 0.0, 0, 2, 2]]), (1, 1), 1.0, 0, "max", True)


def test_installing_twice_keeps_the_first() -> None:
    first = sys.modules["mmcv._ext"]
    assert compiled_ops.install()
    assert sys.modules["mmcv._ext"] is first


@pytest.mark.slow
def test_real_operators_are_left_alone(tmp_path: Path) -> None:
    """With a module mmcv._ext on mmcv's path, as the full mmcv has one."""
    names = {name for source in Path(mmcv.ops.__file__).parent.glob("*.py") for name in quoted(source)}
    (tmp_path / "_ext.py").write_text("".join(f"def {name}(*args): ...\n" for name in sorted(names)))
    script = f"""
import mmcv
mmcv.__path__.append({str(tmp_path)!r})
from rfnext.integrations import compiled_ops
print(compiled_ops.install(), compiled_ops.install())
import mmcv._ext, mmcv.ops
print(mmcv._ext.__file__)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", str(tmp_path / "_ext.py")]


FEW_NAMES = """
class AutoConfig:
    from_pretrained = None
class PreTrainedModel(AutoConfig):
    config_class = AutoConfig
def __getattr__(name):
    return type(name, (PreTrainedModel,), {})
"""
"""Of a package transformers that lacks what mmpretrain's models of images and text import, as transformers 5 does."""


@pytest.mark.slow
def test_mmpretrain_can_be_imported_beside_a_newer_transformers(tmp_path: Path) -> None:
    pytest.importorskip("mmpretrain")
    for folder in ("transformers/models/auto", "transformers-5.24.0.dist-info"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in {
        "transformers-5.24.0.dist-info/METADATA": "Name: transformers\nVersion: 5.24.0\n",
        "transformers/__init__.py": FEW_NAMES,
        "transformers/modeling_utils.py": "class PreTrainedModel: ...\n",
        "transformers/models/auto/auto_factory.py": "class _BaseAutoModelClass: ...\n",
    }.items():
        (tmp_path / name).write_text(text)
    script = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from rfnext.integrations import compiled_ops
compiled_ops.install()
import mmpretrain.models
print(mmpretrain.registry.MODELS.get("ConvNeXt").__name__)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["ConvNeXt"], done.stderr


def quoted(source: Path) -> list[str]:
    """Names that a module of mmcv.ops looks up in mmcv._ext."""
    _, found, rest = source.read_text(encoding="utf-8").partition("load_ext(")
    return [part for part in rest.partition(")")[0].split("'")[1::2] if part != "_ext"] if found else []
