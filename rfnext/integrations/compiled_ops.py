"""Stand-in for `mmcv._ext`, mmcv's compiled operators, so that mmdet runs with mmcv-lite and needs no compiler.

mmdet 3.3 requires mmcv below 2.2, for which no wheels fit today's PyTorch; mmcv-lite has everything of it but the
compiled module. What the five detectors call of that module, non-maximum suppression and RoI align, torchvision has as
well, on CPU and GPU. Nothing else is replaced: any other operator raises NotImplementedError when it is called.

mmpretrain 1.2, whose ConvNeXt mmdet uses, cannot be imported beside transformers 5: its networks of images and text
need names that are gone. There these networks, which no detector uses, are left out.
"""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
import torchvision
from torch import Tensor

NAME = "mmcv._ext"

IMAGES_AND_TEXT = "mmpretrain.models.multimodal"


def install() -> bool:
    """Make `mmcv.ops` importable. Call it before mmdet or mmpretrain is imported; again does no harm.

    Returns:
        Whether the stand-in is in use: False where mmcv brings its own operators, which are left alone.

    Raises:
        ModuleNotFoundError: if there is no mmcv at all.
    """
    if "mmpretrain" not in sys.modules and _transformers_is_too_new():
        sys.modules[IMAGES_AND_TEXT] = ModuleType(IMAGES_AND_TEXT, "Left out: see `rfnext.integrations.compiled_ops`.")
    present = sys.modules.get(NAME)
    if present is None and importlib.util.find_spec(NAME) is None:
        sys.modules[NAME] = present = _StandIn()
    with warnings.catch_warnings():
        # What it says at its first import, about an import of its own.
        warnings.filterwarnings("ignore", "``MultiScaleDeformableAttention`` has been moved", ImportWarning)
        importlib.import_module("mmcv.cnn.bricks.transformer")
    return isinstance(present, _StandIn)


def _transformers_is_too_new() -> bool:
    """Whether transformers is installed without what mmpretrain imports of it; told by its text."""
    found = importlib.util.find_spec("transformers")
    sources = [Path(folder) / "modeling_utils.py" for folder in (found and found.submodule_search_locations) or ()]
    texts = [source.read_text(encoding="utf-8") for source in sources if source.is_file()]
    return any("find_pruneable_heads_and_indices" not in text for text in texts)


class _StandIn(ModuleType):
    def __init__(self) -> None:
        super().__init__(NAME, __doc__)
        self.__spec__ = ModuleSpec(NAME, loader=None, origin=__file__)
        self.nms = nms
        self.roi_align_forward = roi_align_forward
        self.roi_align_backward = roi_align_backward

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        # mmcv looks up all operators on import, hence no error before the call.
        if name.startswith("__"):
            raise AttributeError(f"module {NAME} has no attribute {name!r}")

        def missing(*args: Any, **kwargs: Any) -> NoReturn:
            raise NotImplementedError(
                f"mmcv's compiled operator {name!r} has no stand-in; install mmcv instead of mmcv-lite to use it"
            )

        return missing


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that are kept, by falling score.

    Args:
        boxes: (N, 4), x1 y1 x2 y2.
        scores: (N,).
        iou_threshold: a box that overlaps a better one by more is dropped.
        offset: 0, or 1 where x2 and y2 are pixels inside the box: its width is then x2 - x1 + 1.
    """
    # An offset widens boxes and intersections alike, which is what moving the far corners does.
    corners = _computable(boxes) + boxes.new_tensor([0, 0, offset, offset], dtype=_computable(boxes).dtype)
    return torchvision.ops.nms(corners, _computable(scores), iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the averages over the regions into `output`.

    Args:
        input: (batch, channels, H, W).
        rois: (N, 5), index in the batch, x1 y1 x2 y2.
        output: (N, channels, aligned_height, aligned_width).
        argmax_y, argmax_x: empty; of use for pooling by the maximum only.
        pool_mode: 1, the average.

    Raises:
        NotImplementedError: for pool_mode 0, the maximum, which torchvision does not have.
    """
    _check_average(pool_mode)
    output.copy_(
        torchvision.ops.roi_align(
            _computable(input),
            _computable(rois),
            (aligned_height, aligned_width),
            spatial_scale=spatial_scale,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of `input` into `grad_input`; the arguments are those of `roi_align_forward`."""
    _check_average(pool_mode)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            _computable(grad_output),
            _computable(rois).to(_computable(grad_output).dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def _computable(tensor: Tensor) -> Tensor:
    """Half precisions as float32: torchvision has no kernels for bfloat16."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError("RoI align by the maximum has no stand-in; install mmcv instead of mmcv-lite")
