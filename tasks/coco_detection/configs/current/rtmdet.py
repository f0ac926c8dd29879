"""RTMDet-tiny (Lyu et al., 2022) as mmdet has it: one stage, boxes only. Nothing was published on its search."""

_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
