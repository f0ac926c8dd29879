# Res2Net-50 Panoptic FPN, 12 epochs: retrained with the branches around a structure kept.
_base_ = "panoptic_search.py"

# What panoptic_search.py leaves in its default work_dir; put the path of your structure here.
structure = "work_dirs/panoptic_search/local_search_config_step10.json"
custom_hooks = [
    dict(
        type="RFSearchHook",
        mode="fixed_multi_branch",
        rfstructure_file=structure,
        config=dict(search={{_base_.search}}),
    )
]
