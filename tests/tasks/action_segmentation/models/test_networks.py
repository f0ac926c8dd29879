"""What holds for every network: batches, searching, branches, merging, training and files."""

import dataclasses
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from rfnext import LocalSearch, OneShotConfig, OneShotSearch, Structure, keep_branches, merge
from tasks import checkpoint
from tasks.action_segmentation.config import PRESETS, Model
from tasks.action_segmentation.data import IGNORED, Batch, Counts
from tasks.action_segmentation.evaluation import evaluate
from tasks.action_segmentation.models import NETWORKS, build, rebuild, searched
from tasks.action_segmentation.models.layers import DilatedConv
from tasks.action_segmentation.models.network import network_of
from tasks.action_segmentation.training import accumulate, fit
from tasks.spec import SELECTED, Run, Split

FACTS = {"features": 7, "classes": ["a", "b", "c", "d"]}
SMALL = {"maps": 8, "layers": 3, "stages": 2, "stride": 16, "epochs": 1}
"""Sizes and a data rate at which a training takes a second."""

MODELS = sorted(NETWORKS)


def config_of(model, **changes):
    """The preset "tiny" of a network, made smaller."""
    (config,) = (c for name, c in PRESETS.items() if name.startswith("tiny") and c.model == model)
    return dataclasses.replace(config, **SMALL | changes)


def network(model, **changes):
    torch.manual_seed(0)
    return rebuild(config_of(model, **changes), FACTS).double()


def batch(lengths):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None, None]
    x = torch.randn(len(lengths), 7, max(lengths), dtype=torch.float64) * mask
    return Batch(x, torch.where(mask[:, 0], torch.randint(0, 4, (len(lengths), max(lengths))), IGNORED), mask)


@pytest.fixture(params=MODELS)
def model(request):
    return request.param


def test_config_names_every_network():
    assert set(MODELS) == set(get_args(Model))


def test_each_has_presets_of_a_tiny_and_of_the_published_size(model):
    name = "" if model == "ms_tcn" else "-" + model.replace("_", "-")
    assert PRESETS[f"tiny{name}"].model == PRESETS[f"50salads{name}"].model == model
    assert PRESETS[f"tiny{name}"].search == PRESETS["tiny"].search


@pytest.mark.parametrize("lengths", [(3, 40, 61), (1, 2), (64, 64)])
def test_a_video_depends_neither_on_its_padding_nor_on_its_batch(model, lengths):
    ours, videos = network(model).eval(), batch(lengths)
    logits = ours(videos.features, videos.mask)
    for k, length in enumerate(lengths):
        alone = ours(videos.features[k : k + 1, :, :length])
        assert alone.shape[1:] == (1, 4, length)
        torch.testing.assert_close(logits[:, k, :, :length], alone[:, 0])
        assert not logits[:, k, :, length:].any()
        prediction = ours.predict(videos.features[k : k + 1, :, :length])
        assert prediction.shape == (1, length)
        assert prediction.dtype == torch.int64


def test_padding_does_not_change_the_loss(model):
    ours, (x, labels, mask) = network(model, dropout=0.0), batch((20, 33))
    labels = labels.clone()
    padded = Batch(F.pad(x, (0, 19)), F.pad(labels, (0, 19), value=IGNORED), F.pad(mask, (0, 19)))
    found = []
    for one in (Batch(x, labels, mask), padded):
        torch.manual_seed(1)
        found.append(ours.train().objective(one, 0.15))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("lengths", [(20, 33), (1, 1)])
def test_the_loss_reaches_every_parameter(model, lengths):
    ours, videos = network(model, dropout=0.0).train(), batch(lengths)
    value = ours.objective(videos, 0.15)
    value.backward()
    assert value.isfinite()
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


SEARCHES = {
    "plain": lambda ours, config: None,
    "local": lambda ours, config: LocalSearch(ours, config, searched),
    "one-shot": lambda ours, config: OneShotSearch(ours, OneShotConfig(candidates=(1, 2, 4)), searched),
}


def parts_of(videos, lengths, size):
    """The videos, `size` at a time, padded to the longest of each part."""
    starts = range(0, len(lengths), size)
    ends = [max(lengths[start : start + size]) for start in starts]
    return [Batch(*(x[i : i + size, ..., :end] for x in videos)) for i, end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "c2f_tcn"])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(name, kind, size):
    ours, lengths = network(name, dropout=0.0).train(), (33, 61, 1, 17, 40)
    for part in ours.modules():
        if isinstance(part, torch.nn.Dropout1d):  # of ASFormer's features
            part.p = 0.0
    search = SEARCHES[kind](ours, config_of(name).search)
    ours.prepare([torch.arange(9).numpy() // 4])
    videos = batch(lengths)
    videos.labels[0, :3] = IGNORED
    expected = ours.objective(videos, 0.15)
    expected.backward()
    whole = {name: weight.grad for name, weight in ours.named_parameters()}
    assert all(found is not None for found in whole.values())
    assert search is None or all(found.any() for found in (weight.grad for weight in search.branch_weights()))
    ours.zero_grad()
    value = accumulate(ours, parts_of(videos, lengths, size), Counts.of(videos.labels, videos.mask), 0.15)
    torch.testing.assert_close(value, expected.detach(), rtol=0, atol=1e-10)
    for name, weight in ours.named_parameters():
        torch.testing.assert_close(weight.grad, whole[name], rtol=0, atol=1e-10, msg=name)


def test_parts_of_a_batch_are_refused_where_videos_are_coupled(embedded, tmp_path):
    ours, videos = network("c2f_tcn").train(), batch((20, 33))
    counts = Counts.of(videos.labels, videos.mask)
    with pytest.raises(ValueError, match="batch normalisation needs all videos of a step at once"):
        accumulate(ours, parts_of(videos, (20, 33), 1), counts, 0.15)
    assert all(weight.grad is None for weight in ours.parameters())
    accumulate(ours, [videos], counts, 0.15)  # whole, it is trained
    parts = config_of("ms_tcn", root=embedded, micro_batch=2)  # the config of C2F-TCN refuses it, see test_config
    with pytest.raises(ValueError, match=r"enter\.0\.norm of C2FTCN is batch normalisation.*set micro_batch to None"):
        fit(ours, parts, Run(seed=0, fold=1, folder=tmp_path, device="cpu"))
    assert not list(tmp_path.iterdir())


def test_can_be_searched_kept_and_merged(model):
    ours, videos = network(model, dropout=0.0), batch((40, 40))
    plain = ours.eval()(videos.features)
    names = {name for name, conv in ours.named_modules() if isinstance(conv, DilatedConv)}
    search = LocalSearch(ours, config_of(model).search, searched)
    assert search.structure().keys() == names
    ours.train()
    ours.objective(videos, 0.15).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in search.branch_weights())

    found = Structure(dict.fromkeys(names, (3,)))
    found.apply(ours)
    assert Structure.read(ours, searched) == found
    assert not torch.allclose(ours.eval()(videos.features), plain)
    keep_branches(ours, found, search.config)
    expected = ours.eval()(videos.features)
    merge(ours)
    torch.testing.assert_close(ours(videos.features), expected)


def test_is_searched_retrained_and_opened_again(model, embedded, tmp_path):
    config = config_of(model, root=embedded)
    config = dataclasses.replace(config, search=dataclasses.replace(config.search, interval=1, rounds=1))
    ours = build(config)
    search = LocalSearch(ours, config.search, searched)
    fit(ours, config, Run(seed=0, fold=1, folder=tmp_path, search=search, device="cpu"))
    assert len(search.history) == 1

    again = build(config)
    search.structure().apply(again)
    fit(again, config, Run(seed=0, fold=1, folder=tmp_path, device="cpu"))
    scores = evaluate(again, config, Split("test", 1))
    assert all(0 <= value <= 100 for value in scores.values())
    opened = checkpoint.load(tmp_path / SELECTED, "action_segmentation")
    assert type(opened.model) is type(again)
    assert Structure.read(opened.model, searched) == search.structure()
    assert evaluate(opened.model, config, Split("test", 1)) == scores


def test_only_networks_of_the_task_are_trained():
    with pytest.raises(TypeError, match="Linear is no network of action segmentation"):
        network_of(torch.nn.Linear(1, 1))
