"""RTMDet-tiny (Lyu et al., 2022) as mmdet has it: one stage, boxes only. Nothing was published on its search."""

_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"

# Its learning rate is for 8 GPUs x 32 images; mmdet's config inherits the 16 images of the older detectors.
auto_scale_lr = {"enable": False, "base_batch_size": 256}
