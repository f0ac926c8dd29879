"""Reading a part of the data as mmdet's datasets and batches."""

from rfnext.integrations import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

from pathlib import Path
from typing import Any

from mmcv.transforms import BaseTransform
from mmdet.datasets import CocoDataset, CocoPanopticDataset
from mmdet.datasets.base_det_dataset import BaseDetDataset
from mmdet.datasets.transforms import LoadAnnotations, LoadPanopticAnnotations
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader

from tasks import image_files
from tasks.coco_detection.coco_format import images
from tasks.coco_detection.coco_format.layout import PartFiles
from tasks.coco_detection.config import Config
from tasks.coco_detection.data import Dataset
from tasks.coco_detection.mmdetection import recipes
from tasks.coco_detection.panoptic_quality import rgb_to_id
from tasks.spec import DataError, fail


class _NoneLost(BaseDetDataset):
    """Raises DataError where mmdet passes over a sample or takes another one."""

    def prepare_data(self, idx: int) -> Any:
        path = Path(self.get_data_info(idx)["img_path"])
        try:
            data = super().prepare_data(idx)
        except DataError:
            raise
        except Exception as error:  # of OpenCV, pycocotools, numpy: of any kind
            raise DataError(f"{path}: cannot be used ({error!r}); {_CHECK}") from error
        if data is None:
            fail(path, None, "was dropped by the transforms of its pipeline", _CHECK)
        return data


_CHECK = "python -m tasks.coco_detection.check ROOT --pixels reads every image"


class _Instances(_NoneLost, CocoDataset):
    pass


class _Panoptic(_NoneLost, CocoPanopticDataset):
    """With the PNGs that the annotations name, where mmdet takes the image's name with another ending."""

    def parse_data_info(self, raw_data_info: dict) -> dict:
        data = super().parse_data_info(raw_data_info)
        return data | {"seg_map_path": str(Path(self.data_prefix["seg"]) / raw_data_info["raw_img_info"]["map"])}


class LoadImage(BaseTransform):
    """mmcv's transform LoadImageFromFile, through `images`; raises DataError if the size is not what its entry says."""

    def transform(self, results: dict) -> dict:
        path, size = Path(results["img_path"]), (results["width"], results["height"])
        image = images.read_bgr(path)
        height, width, _ = image.shape
        if (width, height) != size:
            fail(path, None, *images.mismatch(image_files.header(path)._replace(size=(width, height)), size))
        return results | {"img": image, "img_shape": (height, width), "ori_shape": (height, width)}


class LoadPanoptic(LoadPanopticAnnotations):
    """mmdet's transform, without the package panopticapi, of which it uses one function."""

    def __init__(self) -> None:
        LoadAnnotations.__init__(self, with_bbox=True, with_label=True, with_mask=True, with_seg=True)
        self.rgb2id = rgb_to_id

    def transform(self, results: dict) -> dict:
        try:
            return super().transform(results)
        except Exception:
            images.read_bgr(results["seg_map_path"])  # says so if it is at fault
            raise


def test_loader(dataset: Dataset, files: PartFiles, config: Config) -> DataLoader:
    """Batches of a part for `predict`, in the order of its annotations."""
    data = read_part(dataset, files, config, training=False)
    return DataLoader(data, config.batch, num_workers=config.workers, collate_fn=pseudo_collate)


def read_part(dataset: Dataset, files: PartFiles, config: Config, *, training: bool) -> CocoDataset:
    """mmdet's dataset of a part: with annotations and without images that have none, or images alone."""
    recipe = recipes.recipe(config)
    pipeline = recipe.train_pipeline if training else recipe.test_pipeline
    ours = {"LoadPanopticAnnotations": LoadPanoptic, "LoadImageFromFile": LoadImage}
    things, stuff = dataset.classes[: dataset.things], dataset.classes[dataset.things :]
    with DefaultScope.overwrite_default_scope("mmdet"):  # registered transforms are looked up in the current scope
        return (_Instances if files.maps is None else _Panoptic)(
            ann_file=str(files.annotations),
            metainfo={"classes": dataset.classes, "thing_classes": things, "stuff_classes": stuff},
            data_prefix={"img": str(files.images)} | ({"seg": str(files.maps)} if files.maps else {}),
            pipeline=[ours[step["type"]]() if step["type"] in ours else step for step in pipeline],
            filter_cfg={"filter_empty_gt": True} if training else None,
            test_mode=not training,
            serialize_data=config.workers > 0,  # saves memory where processes share it, and takes a second
        )
