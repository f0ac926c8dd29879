"""RTMDet-tiny: its published size, and its networks with several branches and with these merged."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet", reason="mmdet is not installed")

from rfnext import LocalSearch, Structure, keep_branches, merge
from tasks.coco_detection import datasets, detectors, task
from tasks.coco_detection.config import PRESETS, Config
from tasks.coco_detection.mmdetection import recipes
from tasks.coco_detection.mmdetection.loading import pseudo_collate, read_part
from tasks.coco_detection.mmdetection.quiet import quiet
from tasks.spec import Run, Split

CONFIG = PRESETS["small-rtmdet"]


def test_has_the_published_size() -> None:
    """mmdet's table, configs/rtmdet/README.md: 4.8 M parameters with COCO's 80 classes."""
    with torch.device("meta"):
        model = detectors.build("rtmdet", "published", 80, 80)
    assert int(sum(parameter.numel() for parameter in model.parameters()) / 1e5) / 10 == 4.8
    found = Structure.read(model, detectors.searched)
    assert not any(name.startswith("backbone.stem.") for name in found)
    assert {name.partition(".")[0] for name in found} == {"backbone", "neck", "bbox_head"}


def test_is_multi_branch_and_merged() -> None:
    x = torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    model = detectors.build("rtmdet", "tiny", 3, 3)
    search = LocalSearch(model, replace(CONFIG.search, rule="paper"), detectors.searched)
    with torch.no_grad():
        for weight in search.branch_weights():
            weight.copy_(torch.tensor([1.0, 3.0])[: weight.numel()])
    assert search.after_step()
    structure = search.structure()
    assert any(structure[name] != search.initial[name] for name in structure)
    multi = detectors.build("rtmdet", "tiny", 3, 3).eval()
    keep_branches(multi, structure, CONFIG.search)
    with torch.no_grad(), quiet():
        before = multi(x)
        merge(multi)
        torch.testing.assert_close(multi(x), before, rtol=1e-4, atol=1e-4)


def test_images_of_any_size_are_read() -> None:
    """3 : 2, as of cameras, is 43 rows at 64 columns: maps of 6, 3 and 2 rows, which do not double into each other."""
    model = detectors.build("rtmdet", "tiny", 3, 3).eval()
    data = {"inputs": [torch.zeros(3, 43, 64, dtype=torch.uint8)], "data_samples": None}
    with torch.no_grad(), quiet():
        x = model.data_preprocessor(data, False)["inputs"]  # type: ignore[operator]
        assert x.shape == (1, 3, 64, 64)
        assert [scores.shape[2:] for scores in model(x)[0]] == [(8, 8), (4, 4), (2, 2)]


def test_crops_without_an_object_are_trained_on(own_data) -> None:
    """At the published size, of images with one object near a corner."""
    root = own_data(lambda content: content.update(annotations=content["annotations"][::2]))
    config = replace(PRESETS["folder-rtmdet"], root=root, size="published")
    dataset = datasets.open_fold(config, 1)
    np.random.seed(0)  # noqa: NPY002  (mmdet draws from it)
    with quiet():
        data = read_part(dataset, dataset.train, config, training=True)
        samples = [data[index % len(data)] for index in range(60)]
        (empty, *_) = [sample for sample in samples if not len(sample["data_samples"].gt_instances)]
        model = detectors.build("rtmdet", "tiny", 1, 1).train()
        losses = model(**model.data_preprocessor(pseudo_collate([empty]), True), mode="loss")  # type: ignore[operator]
    assert all(torch.isfinite(value).all() for values in losses.values() for value in values)


def test_the_published_schedule_ends_at_a_share_of_the_learning_rate() -> None:
    """mmdet: 0.004 for 8 x 32 images, and from epoch 150 of 300 on a cosine to 0.0002."""
    published = PRESETS["coco-rtmdet"]
    assert (published.epochs, published.lr, published.batch) == (300, 0.004, 32)
    optimizer = recipes.recipe(published).optimizer(torch.device("cpu"))["optimizer"]
    assert (optimizer["type"], optimizer["lr"]) == ("AdamW", 0.004 * 32 / 256)
    assert published.search.interval * published.search.rounds <= 150
    config = replace(CONFIG, size="published", epochs=30, lr=1e-4)
    warmup, cosine = recipes.recipe(config).schedule(1000)
    assert warmup["end"] == 1000
    assert {name: cosine[name] for name in ("begin", "end", "T_max")} == {"begin": 15, "end": 30, "T_max": 15}
    assert cosine["eta_min_ratio"] == pytest.approx(0.05)
    assert "eta_min" not in cosine  # mmengine takes one of the two


def test_trains_with_a_search_and_is_scored(config: Config, tmp_path: Path) -> None:
    """Two steps: all branch weights move, also those of convs that the levels of the head share."""
    config = replace(config, detector="rtmdet", epochs=1, search=replace(config.search, interval=2))
    model = task.build(config)
    search = LocalSearch(model, config.search, detectors.searched)
    before = [weight.detach().clone() for weight in search.branch_weights()]
    task.TASK.fit(model, config, Run(3, 1, tmp_path, search=search, device="cpu"))
    moved = [not torch.equal(*pair) for pair in zip(before, search.branch_weights(), strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    scores = task.TASK.evaluate(model, config, Split("test", 1))
    assert set(scores) >= {"box_mAP", "box_mAP50"}
    assert all(name.startswith("box") and math.isfinite(value) for name, value in scores.items())
