"""The data of an mmengine config, checked like that of every other training.

mmdet and pycocotools read annotations as they are: some end the process, others are lost or count as missed, an id of 0
for one. So a config is given copies in the cache, in which everything is as it is meant.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.coco_detection.coco_format.annotations import Kind
from tasks.coco_detection.coco_format.layout import PartFiles
from tasks.coco_detection.data import uniform_copy

DATASETS = ("CocoDataset", "CocoPanopticDataset")
"""Types of mmdet whose annotations are read here. Those of other types are left to mmdet."""


def place(config: Any) -> None:
    """Check what a config trains and validates on, and have it read the checked copies.

    Raises:
        DataError: with file and how to fix it, at the first problem; see `layout.read_files`.
        ValueError: if the validation's metric reads other annotations than its data set.
    """
    loaders = {part: config.get(f"{part}_dataloader") for part in ("train", "val")}
    masks = any(entry.get("with_mask") or "segm" in (entry.get("metric") or ()) for entry in _dicts(config.to_dict()))
    copies: dict[Path, Path] = {}
    for part, loader in loaders.items():
        for dataset in _dicts(loader):
            if dataset.get("type") in DATASETS and dataset.get("ann_file"):
                kind: Kind = "panoptic" if dataset["type"] == DATASETS[1] else "instances" if masks else "boxes"
                files = _files(dataset, kind)
                copy = uniform_copy(files, kind, training=part == "train")
                copies |= {files.annotations.resolve(): copy} if part == "val" else {}
                dataset["ann_file"] = str(copy)
    for metric in _dicts(config.get("val_evaluator")):
        if copies and metric.get("ann_file"):
            if (path := Path(metric["ann_file"]).resolve()) not in copies:
                raise ValueError(f"val_evaluator reads {path}, val_dataloader {', '.join(map(str, copies))}; name one")
            metric["ann_file"] = str(copies[path])


def _dicts(value: Any) -> Iterator[Any]:
    """All dicts in a value, the outer ones first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _dicts(inner)


def _files(dataset: Any, kind: Kind) -> PartFiles:
    """The files of an entry of a config, as mmdet puts their names together."""
    root, prefix = dataset.get("data_root") or "", dataset.get("data_prefix") or {}
    images, maps = (Path(os.path.join(root, prefix.get(key) or "")) for key in ("img", "seg"))
    return PartFiles(Path(os.path.join(root, dataset["ann_file"])), images, maps if kind == "panoptic" else None)
