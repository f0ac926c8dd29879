"""Res2Net-101 Cascade Mask R-CNN, 20 epochs: retrained with the branches around a structure kept."""

_base_ = "res2net_search.py"

# What res2net_search.py leaves in its default work_dir; put the path of your structure here.
structure = "work_dirs/res2net_search/local_search_config_step11.json"
search = {"exp_rate": 0.5, "mmin": 1, "mmax": 24, "num_branches": 2, "skip_layer": ["stem", "layer1"]}
custom_hooks = [
    {
        "type": "RFSearchHook",
        "mode": "fixed_multi_branch",
        "rfstructure_file": structure,
        "config": {"search": search},
    }
]
