"""PVTv2-b0 Mask R-CNN, 12 epochs: retrained with the branches around a structure kept."""

_base_ = "pvtv2_search.py"

# What pvtv2_search.py leaves in its default work_dir; put the path of your structure here.
structure = "work_dirs/pvtv2_search/local_search_config_step10.json"
search = {"exp_rate": 0.5, "mmin": 1, "mmax": 24, "num_branches": 2, "skip_layer": []}
custom_hooks = [
    {
        "type": "RFSearchHook",
        "mode": "fixed_multi_branch",
        "rfstructure_file": structure,
        "config": {"search": search},
    }
]
