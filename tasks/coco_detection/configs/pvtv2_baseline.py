"""PVTv2-b0 Mask R-CNN, 12 epochs. mmdet has this backbone with RetinaNet only; optimizer as in PVT's own repository."""

_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"

model = {
    "backbone": {
        "_delete_": True,
        "type": "PyramidVisionTransformerV2",
        "embed_dims": 32,
        "num_layers": [2, 2, 2, 2],
        "init_cfg": {"checkpoint": "https://github.com/whai362/PVT/releases/download/v2/pvt_v2_b0.pth"},
    },
    "neck": {"in_channels": [32, 64, 160, 256]},
}
optim_wrapper = {"optimizer": {"_delete_": True, "type": "AdamW", "lr": 0.0002, "weight_decay": 0.0001}}
