"""ConvNeXt-T Cascade Mask R-CNN, 36 epochs, mixed precision: mmdet's own config."""

_base_ = "mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py"
