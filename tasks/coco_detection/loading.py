"""Reading a part of the data as mmdet's datasets and batches."""

from tasks.coco_detection import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader

from tasks.coco_detection import recipes
from tasks.coco_detection.config import Config
from tasks.coco_detection.data import Dataset, PartFiles
from tasks.coco_detection.panoptic_quality import rgb_to_id


class LoadPanoptic(LoadPanopticAnnotations):
    """mmdet's transform, without the package panopticapi, of which it uses one function."""

    def __init__(self) -> None:
        LoadAnnotations.__init__(self, with_bbox=True, with_label=True, with_mask=True, with_seg=True)
        self.rgb2id = rgb_to_id


def test_loader(dataset: Dataset, files: PartFiles, config: Config) -> DataLoader:
    """Batches of a part for `predict`, in the order of its annotations."""
    data = read_part(dataset, files, config, training=False)
    return DataLoader(data, config.batch, num_workers=config.workers, collate_fn=pseudo_collate)


def read_part(dataset: Dataset, files: PartFiles, config: Config, *, training: bool) -> CocoDataset:
    """mmdet's dataset of a part: with annotations and without images that have none, or images alone."""
    recipe = recipes.recipe(config)
    pipeline = recipe.train_pipeline if training else recipe.test_pipeline
    things, stuff = dataset.classes[: dataset.things], dataset.classes[dataset.things :]
    with DefaultScope.overwrite_default_scope("mmdet"):  # registered transforms are looked up in the current scope
        return (CocoDataset if files.maps is None else CocoPanopticDataset)(
            ann_file=str(files.annotations),
            metainfo={"classes": dataset.classes, "thing_classes": things, "stuff_classes": stuff},
            data_prefix={"img": str(files.images)} | ({"seg": str(files.maps)} if files.maps else {}),
            pipeline=[LoadPanoptic() if step["type"] == "LoadPanopticAnnotations" else step for step in pipeline],
            filter_cfg={"filter_empty_gt": True, "min_size": 32} if training else None,
            test_mode=not training,
        )
