"""Res2Net-101 Cascade Mask R-CNN, 20 epochs: mmdet's own config."""

_base_ = "mmdet::res2net/cascade-mask-rcnn_res2net-101_fpn_20e_coco.py"
