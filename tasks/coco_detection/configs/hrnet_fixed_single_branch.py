"""HRNetV2p-W18 Cascade Mask R-CNN, 20 epochs: retrained with plain convs at the dilations of a structure."""

_base_ = "hrnet_search.py"

# What hrnet_search.py leaves in its default work_dir; put the path of your structure here.
structure = "work_dirs/hrnet_search/local_search_config_step11.json"
search = {"exp_rate": 0.5, "mmin": 1, "mmax": 24, "num_branches": 2, "skip_layer": ["layer1"]}
custom_hooks = [
    {
        "type": "RFSearchHook",
        "mode": "fixed_single_branch",
        "rfstructure_file": structure,
        "config": {"search": search},
    }
]
