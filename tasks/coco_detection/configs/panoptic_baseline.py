"""Res2Net-50 Panoptic FPN, 12 epochs, mixed precision.

OpenMMLab has no weights of this backbone. Those of its authors (res2net50_v1b_26w_4s-3cf99910.pth, which
Res2Net/Res2Net-PretrainedModels links to) call mmdet's `stem` differently and would leave it at random, frozen:
  import torch
  weights = torch.load("res2net50_v1b_26w_4s-3cf99910.pth")
  for old, new in (("conv1.", "stem."), ("bn1.", "stem.7.")):
      weights = {new + k[len(old):] if k.startswith(old) else k: v for k, v in weights.items()}
  torch.save(weights, "res2net50_v1b_26w_4s-mmdet.pth")
"""

_base_ = "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py"

model = {
    "backbone": {
        "type": "Res2Net",
        "depth": 50,
        "scales": 4,
        "base_width": 26,
        "init_cfg": {"type": "Pretrained", "checkpoint": "res2net50_v1b_26w_4s-mmdet.pth"},
    }
}
optim_wrapper = {"type": "AmpOptimWrapper"}
