"""The five published detectors, and small versions of the same families that train from scratch within seconds.

mmdet is imported where it is used: it takes seconds that --help can do without.
"""

from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from rfnext.conv import Conv

Detector = Literal["convnext", "pvtv2", "res2net", "hrnet", "panoptic"]
Size = Literal["tiny", "small", "published"]

CONFIGS = Path(__file__).parent / "configs"

BASES: dict[Detector, str] = {
    "convnext": "convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py",
    "pvtv2": "_base_/models/mask-rcnn_r50_fpn.py",
    "res2net": "res2net/cascade-mask-rcnn_res2net-101_fpn_20e_coco.py",
    "hrnet": "hrnet/cascade-mask-rcnn_hrnetv2p-w32_20e_coco.py",
    "panoptic": "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
}


def searched(name: str, conv: Conv) -> bool:
    """Every conv of the detector, neck and heads included, but a backbone's `stem` and `layer1`, as published.

    Only Res2Net (stem, layer1) and HRNet (layer1) have modules of these names.
    """
    return not name.startswith(("backbone.stem.", "backbone.layer1."))


def build(name: Detector, size: Size, classes: int, things: int) -> nn.Module:
    """The initialised detector for so many classes (`things` of them are things; only panoptic ones have others)."""
    from tasks.coco_detection import compiled_ops

    compiled_ops.install()
    import mmpretrain.models  # noqa: F401  (registers ConvNeXt)
    from mmdet.registry import MODELS
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import DefaultScope

    from tasks.coco_detection import small_res2net  # noqa: F401

    from mmengine.logging import MMLogger
    MMLogger.get_current_instance().setLevel("ERROR")
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(model_config(name, size, classes, things))
        model.init_weights()
    return model


def model_config(name: Detector, size: Size, classes: int, things: int) -> dict[str, Any]:
    import mmdet
    from mmengine import Config
    c = Config.fromfile(Path(mmdet.__file__).parent / ".mim/configs" / BASES[name]).model
    if size != "published":
        shrink(name, c, size)
    set_classes(c, classes, things)
    return c
    

def set_classes(c, classes, things):
    heads = c.roi_head.bbox_head if isinstance(c.roi_head.bbox_head, list) else [c.roi_head.bbox_head]
    for head in [*heads, c.roi_head.mask_head]:
        head.num_classes = things
    if c.type == "PanopticFPN":
        for head in (c.semantic_head, c.panoptic_fusion_head):
            head.num_things_classes, head.num_stuff_classes = things, classes - things


def shrink(name, c, size):
    w = {"tiny": 8, "small": 16}[size]
    blocks = {"tiny": 1, "small": 2}[size]
    channels = {"tiny": 32, "small": 64}[size]
    if name in ("res2net", "panoptic"):
        c.backbone = dict(type="SmallRes2Net", depth=8*blocks, scales=4, base_width=w//2, base_channels=w, stem_channels=2*w, out_indices=(0,1,2,3), norm_cfg=dict(type="BN"))
        outs = [4*w*2**k for k in range(4)]
    elif name == "hrnet":
        ch = [w*2**k for k in range(4)]
        c.backbone.init_cfg=None
        for k in range(1,5):
            c.backbone.extra[f"stage{k}"].update(num_modules=1, num_blocks=(blocks,)*k, num_channels=tuple(ch[:k]))
        c.backbone.extra.stage1.num_channels=(16,)
        outs = ch
    elif name == "convnext":
        ch = [2*w*2**k for k in range(4)]
        c.backbone.update(arch=dict(depths=[blocks]*4, channels=ch), drop_path_rate=0.0, init_cfg=None)
        outs = ch
    else:
        c.backbone = dict(type="PyramidVisionTransformerV2", embed_dims=w, num_layers=[blocks]*4, drop_path_rate=0.0)
        outs=[w,2*w,5*w,8*w]
    c.neck.in_channels = outs
    c.neck.out_channels = channels
    c.rpn_head.update(in_channels=channels, feat_channels=channels)
    c.rpn_head.anchor_generator.scales=[2]
    r = c.roi_head
    r.bbox_roi_extractor.update(out_channels=channels, finest_scale=14)
    r.mask_roi_extractor.update(out_channels=channels, finest_scale=14)
    for h in (r.bbox_head if isinstance(r.bbox_head, list) else [r.bbox_head]):
        h.update(in_channels=channels, fc_out_channels=2*channels)
        if "conv_out_channels" in h:
            h.update(conv_out_channels=channels, num_shared_convs=2)
            h.norm_cfg=dict(type="BN")
    r.mask_head.update(in_channels=channels, conv_out_channels=channels, num_convs=2, roi_feat_size=7)
    if "semantic_head" in c:
        c.semantic_head.update(in_channels=channels, inner_channels=channels)
        c.semantic_head.norm_cfg.num_groups=8
    t = c.train_cfg
    t.rpn.sampler.num=64
    t.rpn_proposal.update(nms_pre=50, max_per_img=32)
    for s in (t.rcnn if isinstance(t.rcnn, list) else [t.rcnn]):
        s.sampler.num=16
    r.bbox_roi_extractor.roi_layer.sampling_ratio=1
    r.mask_roi_extractor.roi_layer.sampling_ratio=1
    r.mask_roi_extractor.roi_layer.output_size=7
    for s in (t.rcnn if isinstance(t.rcnn, list) else [t.rcnn]):
        s.mask_size=14
    c.test_cfg.rpn.update(nms_pre=50, max_per_img=32)
    c.test_cfg.rcnn.max_per_img=20
