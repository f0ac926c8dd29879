"""HRNetV2p-W18 Cascade Mask R-CNN, 20 epochs: mmdet's own config."""

_base_ = "mmdet::hrnet/cascade-mask-rcnn_hrnetv2p-w18_20e_coco.py"
