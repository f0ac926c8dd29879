"""Trainings: what a search counts, exact continuation, the loss, what is cut, and scores on own data."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from rfnext import LocalConfig, LocalSearch, OneShotConfig, OneShotSearch, Structure, keep_branches, merge
from tasks import checkpoint
from tasks.semantic_segmentation import predict
from tasks.semantic_segmentation.config import PRESETS, Config, Network
from tasks.semantic_segmentation.data import Sample
from tasks.semantic_segmentation.datasets import open_fold, search_length
from tasks.semantic_segmentation.evaluation import evaluate, highest
from tasks.semantic_segmentation.models import build, searched
from tasks.semantic_segmentation.training import Order, batches, cut, fit, loss
from tasks.spec import SELECTED, Run, Split

CONFIG = Config(dataset="folder", width=8, image=32, batch=2, epochs=2, validate_every=1, lr=0.01)
SEARCH = LocalConfig(interval=3, rounds=2, spread=0.5, branches=3)


def trained(config: Config, folder: Path, kind: str = "local", **run: object):
    torch.manual_seed(0)
    model = build(config)
    search = None
    if kind == "local":
        search = LocalSearch(model, SEARCH, searched)
    elif kind == "one_shot":
        search = OneShotSearch(model, OneShotConfig((1, 2), interval=1), searched)
    folder.mkdir(exist_ok=True)
    fit(model, config, Run(seed=0, fold=1, folder=folder, search=search, device="cpu", **run))  # type: ignore[arg-type]
    return model, search


def test_a_local_search_counts_iterations_and_goes_on_exactly(
    own_data: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """5 images in batches of 2 are 2 iterations an epoch: the rounds, after 3 and 6, lie within and at the end."""
    config = replace(CONFIG, root=own_data(), epochs=4)
    model, search = trained(config, tmp_path / "whole")
    assert search is not None
    assert search.step == 8
    assert [seen.step for seen in search.history] == [3, 6]
    assert "rounds of its search" not in caplog.text
    assert search_length(config) == (8, "iterations")
    assert search_length(replace(config, search_counts="epochs")) == (4, "epochs")
    trained(replace(config, epochs=2), tmp_path / "parts", schedule_epochs=4)
    assert "the training has 4 iterations, so 1 of the 2 rounds of its search are run, one every 3" in caplog.text
    again, rest = trained(config, tmp_path / "parts", resume=True)
    assert rest is not None
    assert rest.state_dict() == search.state_dict()
    for name, value in model.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, again.state_dict()[name]), name
    _, slower = trained(replace(config, epochs=3, search_counts="epochs"), tmp_path / "epochs")
    assert slower is not None
    assert [seen.step for seen in slower.history] == [3]
    _, other = trained(replace(config, epochs=1), tmp_path / "one_shot", "one_shot")
    assert other is not None
    assert other.step == 1, "its settings are in epochs"


@pytest.mark.parametrize("network", get_args(Network))
def test_each_network_is_searched_retrained_and_opened_again(
    own_data: Callable[..., Path], tmp_path: Path, network: Network
):
    """And its branches are kept, trained and merged, and score as before."""
    config = replace(CONFIG, root=own_data(), network=network, epochs=3)
    _, search = trained(config, tmp_path / "search")
    assert search is not None
    found = search.structure()
    assert found != search.initial

    again, multi = build(config), build(config)
    found.apply(again)
    fit(again, config, Run(seed=0, fold=1, folder=tmp_path / "again", device="cpu"))
    opened = checkpoint.load(tmp_path / "again" / SELECTED, "semantic_segmentation")
    assert type(opened.model) is type(again)
    assert Structure.read(opened.model, searched) == found
    assert all(0 <= value <= 100 for value in evaluate(opened.model, config, Split("test", 1)).values())

    keep_branches(multi, found, SEARCH)
    fit(multi, config, Run(seed=0, fold=1, folder=tmp_path / "multi", device="cpu"))
    scores = evaluate(multi, config, Split("test", 1))
    merge(multi)
    assert evaluate(multi, config, Split("test", 1)) == pytest.approx(scores, abs=0.1)


def test_the_length_of_a_search_on_scenes_is_known_without_them():
    config = replace(PRESETS["tiny"], scenes=12, batch=4, epochs=3)
    loader = batches(open_fold(config, 1).train, config, 0)
    assert search_length(config) == (3 * len(loader), "iterations")


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("folder")])
def test_a_training_on_own_data_has_all_rounds_whatever_its_size(preset: str):
    config = PRESETS[preset]
    assert config.search_counts == "epochs"
    assert config.search.interval * config.search.rounds <= config.epochs


def test_learns_and_predicts(own_data: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = own_data(images=12)
    config = replace(CONFIG, root=root, epochs=10, validate_every=10)
    model, _ = trained(config, tmp_path / "run", "plain")
    scores = evaluate(model, config, Split("test", 1))
    assert scores["mIoU"] > 60  # 38 where all is ground
    paths = [str(path) for path in sorted((root / "images").iterdir())]
    network = str(tmp_path / "run" / SELECTED)
    given = ["--checkpoint", network, "--out", str(tmp_path / "out"), "--device", "cpu"]
    shutil.copytree(root / "labels", tmp_path / "cut")
    Image.new("L", (8, 8)).save(tmp_path / "cut/9.png")
    assert predict.main([*paths, *given, "--labels", str(tmp_path / "cut")]) == 3
    assert "cut/9.png: is not of the size of its image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "nothing is written before all is read"
    assert predict.main([*paths, *given, "--labels", str(root / "labels")]) == 0
    said = capsys.readouterr().out
    found, truth = (
        np.stack([np.asarray(Image.open(folder / f"{number}.png")) for number in range(12)])
        for folder in (tmp_path / "out", root / "labels")
    )
    for label, name in enumerate(("ground", "square")):
        iou = jaccard_score(truth[truth < 255], found[truth < 255], labels=[label], average="macro")
        assert f"{name}: IoU {100 * iou:.1f} %" in said
    assert (tmp_path / "out" / "classes.txt").read_text() == "ground\nsquare\n"
    for folder in ("images", "labels"):
        with pytest.raises(SystemExit, match="2"):
            predict.main([*paths, *given, "--out", str(root / folder), "--labels", str(root / "labels")])
        assert "predictions would replace the images or labels" in capsys.readouterr().err
    (root / "classes.txt").write_text("square\nground\n")
    assert predict.main([*paths, *given, "--labels", str(root / "labels")]) == 3
    assert "classes.txt: has other classes than the network, or another order" in capsys.readouterr().err
    (root / "images" / "0.png").write_bytes(b"nothing")
    assert predict.main([paths[0], *given]) == 3
    assert "0.png: cannot be read" in capsys.readouterr().err
    assert predict.main([paths[1], "--checkpoint", str(root / "classes.txt")]) == 1


def test_loss_by_hand():
    """Pixels of probabilities 1/4 and 3/4 for their class, and one without a class."""
    logits = torch.tensor([[[[0.0, 0.0, 5.0]], [[np.log(3), np.log(3), 1.0]]]])
    labels = torch.tensor([[[0, 1, 255]]])
    main = -(np.log(1 / 4) + np.log(3 / 4)) / 2
    assert loss({"out": logits}, labels).item() == pytest.approx(main, rel=1e-5)
    both = loss({"out": logits, "aux": 0 * logits}, labels).item()
    assert both == pytest.approx(main + 0.4 * np.log(2), rel=1e-5)
    assert loss({"out": logits}, torch.full((1, 1, 3), 255)).item() == 0


def test_highest_is_the_argmax_of_scaled_logits():
    logits = torch.randn(1, 5, 6, 7)
    scaled = torch.nn.functional.interpolate(logits, (40, 31), mode="bilinear")
    assert np.array_equal(highest(logits, 40, 31), scaled[0].argmax(0).numpy())


def test_cuts_keep_image_and_labels_together():
    """Each class has a brightness of its own, which the cut's pixels inside the class still have."""
    labels = np.kron(np.arange(6).reshape(2, 3), np.ones((40, 40))).astype(np.uint8)
    image = np.repeat(40 * labels[..., None], 3, 2)
    sizes = set()
    for seed in range(20):
        x, y = cut(Sample(image, labels), 48, 2.0, random.Random(seed), flips=True)
        assert x.shape == (3, 48, 48)
        assert y.shape == (48, 48)
        brightness = (x[0] * 0.229 + 0.485) * 255
        known = y != 255
        near = (brightness - 40 * y).abs()[known] < 3
        assert near.float().mean() > 0.75  # others lie at the borders of classes
        assert (x[:, ~known] == 0).all()
        sizes.add(int(known.sum()))
    assert len(sizes) > 5
    x, y = cut(Sample(image, labels), 60, 1.0, random.Random(0), flips=False)
    assert (y[:40] != 255).all()
    assert (y[40:] == 255).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_training_reads_its_own_epoch(workers: int):
    """Lightning asks for the batches of the first epoch before it says which one that is."""
    samples = [Sample(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), label, np.uint8)) for label in range(6)]
    loader = batches(samples, replace(CONFIG, image=8, workers=workers), seed=0)
    coming = iter(loader)
    assert isinstance(loader.sampler, Order)
    first = [index for index, _ in loader.sampler]
    loader.sampler.set_epoch(3)
    expected = [index for index, _ in loader.sampler]
    assert expected != first
    assert [int(label) for _, labels in coming for label in labels[:, 0, 0]] == expected


def test_order():
    order = Order(5, 2, seed=0)
    epochs = []
    for epoch in range(3):
        order.set_epoch(epoch)
        epochs.append(list(order))
        indices = [index for index, _ in epochs[-1]]
        assert len(set(indices)) == len(indices) == len(order) == 4
    assert len({tuple(pairs) for pairs in epochs}) == 3
    order.set_epoch(0)
    assert list(order) == epochs[0]
    assert sorted(index for index, _ in Order(2, 4, seed=0)) == [0, 0, 1, 1]
