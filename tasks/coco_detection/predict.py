"""Detect on images: `python -m tasks.coco_detection.predict IMAGE... --checkpoint FILE [--config FILE] [--out DIR]`,
or with a released detector: `python -m tasks.coco_detection.predict IMAGE... --published res2net-multi`.

Writes a picture with boxes and masks (or panoptic segments) for each image, and predictions.json with all of them:
boxes as [x1, y1, x2, y2] in pixels of the upright image, masks as COCO's compressed RLE.

The model.pt of a benchmark's cell and the selected.pt of a training open alone, whatever data and settings they were
trained with. A released one is fetched into the cache (`tasks.coco_detection.published`). A checkpoint of mmengine (of
`train_published`) needs its config. One of a search or of a multi-branch training holds its branches, and is opened
with them whatever the config says; in the published tools it loads into the plain config without an error, and the
network computes something else. The dilations of a single-branch network are not in an mmengine checkpoint: they are in
its config, or in the file of --structure.
"""

import argparse
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rfnext.integrations import compiled_ops

compiled_ops.install()  # before anything of mmdet is imported

import numpy as np
from mmdet.evaluation.functional import INSTANCE_OFFSET
from mmdet.registry import MODELS
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image
from pycocotools import mask as rle
from torch import Tensor, nn

from rfnext import Structure, tensor_files
from rfnext.convs.branch_state import BranchState
from rfnext.convs.conv import SearchConv
from rfnext.convs.searchable import is_conv, unsearchable
from rfnext.convs.take_over import take_over
from rfnext.files import write_bytes, write_text
from rfnext.integrations.mmengine import DILATIONS, RFSearchHook, checkpoint_globals
from rfnext.published.formats import operator_padding
from rfnext.structure import named_convs
from tasks import checkpoint
from tasks.coco_detection import configs, illustrate, published, task
from tasks.coco_detection.coco_format import images
from tasks.coco_detection.evaluation import Sample, predict
from tasks.coco_detection.mmdetection import recipes
from tasks.coco_detection.mmdetection.quiet import quiet
from tasks.command_line import add_device, status_of
from tasks.diverged import on_file
from tasks.file_names import real_path
from tasks.ranges import Range, number_in
from tasks.spec import device_of


class Detector(NamedTuple):
    """An opened detector: its transforms of mmdet for an image, and the names of its classes."""

    model: nn.Module
    pipeline: list[dict[str, Any]]
    classes: tuple[str, ...]


def open_config(config: Path, weights: Path, structure: Path | None = None) -> Detector:
    """The detector of an mmengine config file, ours or mmdet's, with the weights of a checkpoint.

    Raises:
        ValueError: if the checkpoint is not one, or does not fit the config's detector.
        OSError: if a file cannot be read.
    """
    given = configs.load(config)
    with quiet(), DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(given.model)
    state, extra = read_checkpoint(weights)
    hooks = [hook for hook in given.get("custom_hooks") or () if str(hook.get("type")).endswith("RFSearchHook")]
    if structure is not None:
        Structure.load(structure).apply(model)
    elif hooks and hooks[0].get("mode") == "fixed_single_branch":
        RFSearchHook(**{key: value for key, value in hooks[0].items() if key not in ("type", "priority")}).prepare(
            model
        )
    elif "fixed_single_branch" in str(extra.get("meta", {}).get("cfg")):
        raise ValueError(
            f"{weights} was trained with the dilations of a structure, which {config} does not have: give its "
            "structure file by --structure, or the config that it was trained by"
        )
    single = structure is not None or (hooks and hooks[0].get("mode") == "fixed_single_branch")
    if single and DILATIONS not in extra:
        _check_paddings(model, weights)
    elif single and extra[DILATIONS] != {name: list(d) for name, d in Structure.read(model).items()}:
        raise ValueError(f"{weights} was trained at other dilations; give the structure file of its training")
    load_with_branches(model, state, weights)
    classes = extra.get("meta", {}).get("dataset_meta", {}).get("classes") or _classes(given)
    return Detector(model, _image_pipeline(given.test_dataloader.dataset.pipeline), tuple(classes))


def _check_paddings(model: nn.Module, weights: Path) -> None:
    """Raise ValueError for a single-branch network that mmcv's tools pad otherwise than its design."""
    for name, conv in named_convs(model).items():
        theirs = operator_padding(conv, conv.dilation)
        if task.TASK.where(name, conv) and not unsearchable(conv) and theirs != conv.padding:
            raise ValueError(
                f"{weights} does not say that it was trained here, and mmcv's tools pad layer {name!r} by {theirs} "
                f"where its design has {conv.padding}. Open a checkpoint that they trained by rfnext.open_published, a "
                "released one by --published NAME; give one that was trained here as it was written"
            )


def _classes(given: Any) -> Sequence[str]:
    """The classes that the config names for its data, or COCO's."""
    from mmdet.datasets import CocoDataset, CocoPanopticDataset

    dataset = given.test_dataloader.dataset
    if dataset.get("metainfo"):
        return dataset.metainfo["classes"]
    return (CocoPanopticDataset if "Panoptic" in dataset.type else CocoDataset).METAINFO["classes"]


def open_trained(path: Path) -> Detector:
    """The detector of a file that a training of this task or a cell of the benchmark wrote (selected.pt, model.pt).

    Raises:
        ValueError: if it is another file. OSError: if it cannot be read.
    """
    return _detector(checkpoint.load(path, task.TASK.name))


def _detector(opened: checkpoint.Checkpoint) -> Detector:
    pipeline = _image_pipeline(recipes.recipe(opened.config).test_pipeline)
    return Detector(opened.model, pipeline, tuple(opened.facts["classes"]))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State_dict of a checkpoint (of mmengine, or a state_dict alone), and what else it holds.

    Raises:
        ValueError: if it is no checkpoint. OSError: if the file cannot be read.
    """
    try:
        with checkpoint_globals():
            content = tensor_files.read(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable checkpoint ({error}); was its download cut off?") from error
    extra = content if isinstance(content, dict) and isinstance(content.get("state_dict"), Mapping) else {}
    state = extra.get("state_dict", content)
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path} holds no state_dict; give a checkpoint of mmengine or a state_dict saved by torch.save"
        )
    try:
        tensor_files.check_tensors(state)
        return {name.removeprefix("module."): value for name, value in state.items()}, extra
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}; give a whole checkpoint") from error


def load_with_branches(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights, first giving the model the branches that the state_dict holds.

    Raises:
        ValueError: if the state_dict is of another detector.
    """
    modules = dict(model.named_modules())
    for key in state:
        name = key.removesuffix("._extra_state")
        if name == key or f"{name}.branch_weight" not in state:
            continue
        conv = modules.get(name)
        if conv is None or not is_conv(conv):
            raise ValueError(f"{path} has branches for layer {name!r}, which is no conv of the config's detector")
        own = BranchState.read(state[key])
        entries = state[f"{name}.branch_weight"].numel()
        take_over(conv, own.branches, entries=entries, rule=own.rule, anchor=own.anchor)
    try:
        tensor_files.refuse_wrong_values(state, model)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        # torch lists every key on a line of its own; the first few are enough.
        lines = str(error).splitlines()
        raise ValueError(f"{path} does not fit the config's detector: {' '.join(lines[:2])[:400]}") from None


def _image_pipeline(pipeline: Sequence[Any]) -> list[dict[str, Any]]:
    """The transforms without those that read annotations, and with the meta data that drawing needs."""
    steps = [dict(step) for step in pipeline if "Annotations" not in step["type"]]
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    return [step | {"meta_keys": keys} if step["type"].endswith("PackDetInputs") else step for step in steps]


def detect(detector: Detector, paths: Sequence[Path]) -> Iterator[Sample]:
    """Predictions image by image; `img_path` names the image."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        pipeline = Compose(detector.pipeline)
    batches = (
        pseudo_collate([pipeline({"img_path": str(path), "img_id": number})]) for number, path in enumerate(paths)
    )
    return predict(detector.model, batches)


def as_json(sample: Sample, classes: Sequence[str], threshold: float) -> dict[str, Any]:
    """A prediction as JSON values."""
    result: dict[str, Any] = {"image": sample.img_path}
    if "pred_panoptic_seg" in sample:
        found = sample.pred_panoptic_seg.sem_seg[0].cpu().numpy()
        ids = [id_ for id_ in np.unique(found).tolist() if id_ % INSTANCE_OFFSET < len(classes)]
        segments = [{"class": classes[id_ % INSTANCE_OFFSET], "mask": _encoded(found == id_)} for id_ in ids]
        return result | {"segments": segments}
    found = illustrate.confident(sample, threshold)
    masks = found.masks.cpu().numpy() if "masks" in found else [None] * len(found)
    rows = zip(found.labels.tolist(), found.scores.tolist(), found.bboxes.tolist(), masks, strict=True)
    return result | {
        "instances": [
            {"class": classes[label], "score": round(score, 4), "box": [round(v, 2) for v in box]}
            | ({} if mask is None else {"mask": _encoded(mask)})
            for label, score, box, mask in rows
        ]
    }


def _encoded(mask: Any) -> dict[str, Any]:
    encoded: dict[str, Any] = rle.encode(np.asfortranarray(mask, dtype=np.uint8))  # type: ignore[assignment]
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.coco_detection.predict",
        description="Detect on images. Writes a picture with boxes and masks for each, and predictions.json.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    network = parser.add_mutually_exclusive_group(required=True)
    network.add_argument("--checkpoint", type=Path, help="model.pt or selected.pt, or with --config others")
    rows = published.released()
    network.add_argument("--published", choices=list(rows), metavar="NAME", help=f"a released one: {', '.join(rows)}")
    parser.add_argument("--config", type=Path, help="mmengine config of the detector, for a checkpoint of mmengine")
    parser.add_argument(
        "--structure",
        type=Path,
        help="structure file of a single-branch --config, or of --published",
    )
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="output folder (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=number_in(Range(least=0, most=1)), default=0.3, help="least score (default: %(default)s)"
    )
    add_device(parser)
    given = parser.parse_args(arguments)
    if len({path.stem for path in given.images}) < len(given.images):
        parser.error("two images have the same name, and so would their pictures; predict them one by one")
    written = {real_path(given.out / f"{path.stem}.png") for path in given.images}
    if not written.isdisjoint(map(real_path, given.images)):
        parser.error("argument --out: pictures of predictions would replace the images that are there; give another")
    if given.config is not None and given.published is not None:
        parser.error("--config is for --checkpoint alone: a released detector has its own")
    if given.structure is not None and given.config is None and given.published is None:
        parser.error("--structure is for --config and --published alone: model.pt and selected.pt hold their structure")
    return status_of(lambda: _predict(given))


def _predict(given: argparse.Namespace) -> int:
    for path in given.images:
        images.read(path)  # before anything is written: a broken one would be found after the pictures of others
    if given.published is not None:
        detector = _detector(published.open_released(published.released()[given.published], structure=given.structure))
    elif given.config is not None:
        detector = open_config(given.config, given.checkpoint, given.structure)
    else:
        detector = open_trained(given.checkpoint)
    branches = sum(isinstance(module, SearchConv) for module in detector.model.modules())
    if branches:
        print(f"{given.published or given.checkpoint} holds the branches of {branches} convs; opened with them")
    detector.model.to(device_of(given.device))
    results = []
    for path in given.images:
        pixels = images.read(path)
        with on_file(path):
            found = list(detect(detector, [path]))
        for sample in found:
            buffer = io.BytesIO()
            Image.fromarray(illustrate.draw(pixels, sample, detector.classes, given.threshold)).save(buffer, "PNG")
            write_bytes(given.out / f"{path.stem}.png", buffer.getvalue())
            results.append(as_json(sample, detector.classes, given.threshold))
    write_text(given.out / "predictions.json", json.dumps(results, indent=1) + "\n")
    print(f"{len(results)} images: {given.out / 'predictions.json'} and pictures beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
