# ConvNeXt-T Cascade Mask R-CNN, 36 epochs: retrained with the branches around a structure kept.
_base_ = "convnext_search.py"

# What convnext_search.py leaves in its default work_dir; put the path of your structure here.
structure = "work_dirs/convnext_search/local_search_config_step11.json"
custom_hooks = [
    dict(
        type="RFSearchHook",
        mode="fixed_multi_branch",
        rfstructure_file=structure,
        config=dict(search={{_base_.search}}),
    )
]
