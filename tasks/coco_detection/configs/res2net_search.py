"""Res2Net-101 Cascade Mask R-CNN, 20 epochs: local search."""

_base_ = "res2net_baseline.py"

custom_imports = {"imports": ["rfnext.integrations.mmengine"], "allow_failed_imports": False}
runner_type = "RFSearchRunner"
search = {
    "step": 0,
    "max_step": 12,
    "search_interval": 1,
    "exp_rate": 0.5,
    "init_alphas": 0.01,
    "mmin": 1,
    "mmax": 24,
    "num_branches": 2,
    "skip_layer": ["stem", "layer1"],
}
custom_hooks = [{"type": "RFSearchHook", "mode": "search", "config": {"search": search}}]
