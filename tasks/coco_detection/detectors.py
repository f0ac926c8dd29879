"""The five published detectors and RTMDet, and small versions of them that train from scratch within seconds.

mmdet is imported where it is used: it takes seconds that --help can do without.
"""

import copy
import functools
from typing import Any, cast, get_args

from torch import nn

from rfnext import Conv
from tasks.coco_detection import configs
from tasks.coco_detection.detector_names import BoxDetector, Detector, Size


def searched(name: str, conv: Conv) -> bool:
    """Every conv of the detector, neck and heads included, but a backbone's `stem` and `layer1`, as published.

    Only Res2Net (stem, layer1), HRNet (layer1) and RTMDet (stem) have modules of these names.
    """
    return not name.startswith(("backbone.stem.", "backbone.layer1."))


def family(name: Detector | BoxDetector) -> str:
    """The published detector that one without masks is made of; itself otherwise."""
    return name.removesuffix("-boxes")


@functools.cache
def published(name: Detector | BoxDetector) -> Any:
    """mmengine's Config of the published training without a search, masks included; not to be changed."""
    current = configs.FOLDER / "current" / f"{name}.py"
    return configs.load(current if current.exists() else configs.FOLDER / f"{family(name)}_baseline.py")


def build(name: Detector | BoxDetector, size: Size, classes: int, things: int) -> nn.Module:
    """The detector for so many classes, of which `things` are things; `initialise` gives it its weights."""
    model = model_config(name, size, classes, things)
    from mmdet.registry import MODELS
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope

    from tasks.coco_detection.mmdetection.quiet import quiet

    if size != "published":
        from tasks.coco_detection import small_res2net  # noqa: F401  (registers it)

    with quiet(), DefaultScope.overwrite_default_scope("mmdet"):
        # RTMDet's normalises over the images of all devices; a training of ours has one, perhaps a CPU.
        return revert_sync_batchnorm(MODELS.build(model))


def initialise(detector: nn.Module) -> None:
    """Initialise in place. Published sizes start from pretrained weights, which mmengine downloads on first use."""
    from mmengine.registry import DefaultScope

    from tasks.coco_detection.mmdetection.quiet import quiet

    with quiet(), DefaultScope.overwrite_default_scope("mmdet"):
        cast(Any, detector).init_weights()


def model_config(name: Detector | BoxDetector, size: Size, classes: int, things: int) -> Any:
    """mmdet's model config: the published one, or small with the same modules and losses.

    At the size "tiny" a cascade is cut to its first stage, since each stage costs a fifth of a step, and the loss of
    the masks weighs three times as much, from which boxes are learnt faster, too.
    """
    model = copy.deepcopy(published(name).model)
    if size != "published":
        _shrink(family(name), model, size)
    if name == "rtmdet":
        model.bbox_head.num_classes = things
        # Its neck doubles maps and joins them with finer ones. mmdet pads all images to 640 x 640 instead.
        model.data_preprocessor.pad_size_divisor = 32
        return model
    for head in [*_each(model.roi_head.bbox_head), model.roi_head.mask_head]:
        head.num_classes = things
    if name in get_args(BoxDetector):
        model.roi_head.mask_head = model.roi_head.mask_roi_extractor = None
    if name == "panoptic":
        for head in (model.semantic_head, model.panoptic_fusion_head):
            head.update(num_things_classes=things, num_stuff_classes=classes - things)
    return model


def _each(heads: Any) -> list[Any]:
    """The heads of a cascade, or the one of a detector without."""
    return heads if isinstance(heads, list) else [heads]


def _shrink(name: str, model: Any, size: Size) -> None:
    """Narrow and shallow, for images of 96 to 256 pixels; from scratch, so with all norms trained."""
    if name == "rtmdet":
        _shrink_rtmdet(model, 0.125 if size == "tiny" else 0.25)
        return
    width, blocks, channels = (8, 1, 32) if size == "tiny" else (16, 1, 48)
    norm = {"type": "GN", "num_groups": 8}
    match name:
        case "convnext":
            outputs = [2 * width * 2**stage for stage in range(4)]
            arch = {"depths": [blocks] * 4, "channels": outputs}
            model.backbone.update(arch=arch, drop_path_rate=0.0, init_cfg=None)
        case "pvtv2":
            outputs = [width * heads for heads in (1, 2, 5, 8)]
            model.backbone.update(embed_dims=width, num_layers=[blocks] * 4, drop_path_rate=0.0, init_cfg=None)
        case "hrnet":
            outputs = [width * 2**stage for stage in range(4)]
            for stage in range(1, 5):
                shape = {"num_modules": 1, "num_blocks": (blocks,) * stage, "num_channels": tuple(outputs[:stage])}
                model.backbone.extra[f"stage{stage}"].update(shape)
            model.backbone.init_cfg = None
        case "res2net" | "panoptic":
            outputs = [4 * width * 2**stage for stage in range(4)]
            model.backbone.update(
                type="SmallRes2Net",
                depth=8 * blocks,
                base_width=width // 2,
                base_channels=width,
                stem_channels=2 * width,
                frozen_stages=-1,
                norm_eval=False,
                init_cfg=None,
            )
    model.neck.update(in_channels=outputs, out_channels=channels, norm_cfg=norm)
    # Anchors of 8 to 128 pixels, and features for a box from the level where it is 3.5 to 7 pixels wide.
    model.rpn_head.update(in_channels=channels, feat_channels=channels)
    model.rpn_head.anchor_generator.scales = [2]
    roi = model.roi_head
    for extractor in (roi.bbox_roi_extractor, roi.mask_roi_extractor):
        extractor.update(out_channels=channels, finest_scale=14)
        extractor.roi_layer.update(output_size=7, sampling_ratio=1)
    for head in _each(roi.bbox_head):
        head.update(in_channels=channels, fc_out_channels=2 * channels)
        if "conv_out_channels" in head:
            head.update(conv_out_channels=channels, num_shared_convs=2, norm_cfg=norm)
    if size == "tiny":
        roi.mask_head.loss_mask.loss_weight = 3.0
    if size == "tiny" and "num_stages" in roi:
        roi.update(num_stages=1, stage_loss_weights=roi.stage_loss_weights[:1], bbox_head=roi.bbox_head[:1])
        model.train_cfg.rcnn = model.train_cfg.rcnn[:1]
    roi.mask_head.update(in_channels=channels, conv_out_channels=channels, num_convs=2, roi_feat_size=7)
    if name == "panoptic":
        model.semantic_head.update(in_channels=channels, inner_channels=channels, norm_cfg=norm)
        model.test_cfg.panoptic.stuff_area_limit = 256
        model.test_cfg.rcnn.score_thr = 0.3
    train, test = model.train_cfg, model.test_cfg
    train.rpn.sampler.num = 64
    for stage in _each(train.rcnn):
        stage.sampler.num = 16
        stage.mask_size = 14
    for proposals in (train.rpn_proposal, test.rpn):
        proposals.update(nms_pre=50, max_per_img=32)
    test.rcnn.max_per_img = 20


def _shrink_rtmdet(model: Any, width: float) -> None:
    """width: share of the channels of RTMDet-l, of which RTMDet-tiny has 0.375."""
    channels = [round(width * full) for full in (256, 512, 1024)]
    model.backbone.update(widen_factor=width, init_cfg=None)
    model.neck.update(in_channels=channels, out_channels=channels[0])
    model.bbox_head.update(in_channels=channels[0], feat_channels=channels[0])
    model.test_cfg.update(nms_pre=200, score_thr=0.01, max_per_img=20)
