"""The networks: published sizes, what is searched, and what they compute."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

from rfnext import LocalSearch, Structure, keep_branches, merge
from tasks.semantic_segmentation.config import PRESETS, Config
from tasks.semantic_segmentation.evaluation import predict, probe
from tasks.semantic_segmentation.models import rebuild, searched
from tasks.spec import Split

CLASSES = [str(number) for number in range(7)]


def network(config: Config, classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return rebuild(config, {"classes": [str(number) for number in range(classes)]})


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_deeplab_has_the_size_of_torchvisions_weights():
    with torch.device("meta"):
        model = network(Config(backbone="resnet50"), 21)
    assert parameters(model) == DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["num_params"]
    found = Structure.read(model, searched)
    assert [found[f"classifier.0.convs.{k}.0"] for k in (1, 2, 3)] == [(12, 12), (24, 24), (36, 36)]
    assert [found[f"backbone.layer4.{k}.conv2"] for k in range(3)] == [(2, 2), (4, 4), (4, 4)]
    assert len(found) == 7  # and the conv behind the atrous pooling


def test_upernet_has_the_published_size():
    """The page of openmmlab/upernet-convnext-tiny on Hugging Face: 60.3 M numbers, statistics of norms included."""
    with torch.device("meta"):
        model = network(Config(network="upernet", backbone="convnext_tiny", width=512), 150)
    numbers = sum(value.numel() for value in model.state_dict().values() if value.is_floating_point())
    assert numbers == parameters(model) + 2 * (12 * 512 + 256)  # means and variances
    assert round(numbers / 1e6, 1) == 60.3
    found = Structure.read(model, searched)
    assert [name for name in found if "backbone" in name] == [f"backbone.stages_3.blocks.{k}.conv_dw" for k in range(3)]
    assert len(found) == 3 + 1 + 3 + 1


def test_upernet_computes_what_the_paper_draws():
    """Against a rebuild by functions of torch, from the maps of the backbone on."""
    model = network(replace(PRESETS["small-upernet"], width=8)).eval()
    state = {name: torch.randn_like(p) if p.dim() > 1 else p for name, p in model.state_dict().items()}
    model.load_state_dict(state)
    x = torch.randn(2, 3, 64, 96)

    def unit(name: str, x: torch.Tensor) -> torch.Tensor:
        weight = state[f"{name}.0.weight"]
        return F.relu(F.conv2d(x, weight, padding=weight.shape[2] // 2) / (1 + 1e-5) ** 0.5)  # statistics are 0 and 1

    def to(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, like.shape[2:], mode="bilinear")

    a, b, c, d = model.backbone(x)  # type: ignore[operator]
    assert [map_.shape[2:] for map_ in (a, b, c, d)] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    pooled = [to(unit(f"classifier.pools.{k}.1", F.adaptive_avg_pool2d(d, n)), d) for k, n in enumerate((1, 2, 3, 6))]
    top = unit("classifier.bottleneck", torch.cat([d, *pooled], 1))
    third = unit("classifier.laterals.2", c) + to(top, c)
    second = unit("classifier.laterals.1", b) + to(third, b)
    first = unit("classifier.laterals.0", a) + to(second, a)
    smooth = [unit(f"classifier.outputs.{k}", level) for k, level in enumerate((first, second, third))]
    fused = unit("classifier.fuse", torch.cat([to(level, a) for level in (*smooth, top)], 1))
    out = F.conv2d(fused, state["classifier.predict.1.weight"], state["classifier.predict.1.bias"])
    aux = F.conv2d(unit("aux_classifier.0", c), state["aux_classifier.2.weight"], state["aux_classifier.2.bias"])
    found = model(x)
    for name, own in (("out", out), ("aux", aux)):
        torch.testing.assert_close(found[name], to(own, x), rtol=1e-4, atol=1e-4 * float(own.detach().abs().max()))


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_the_centre_of_a_field_is_that_of_the_finest_map(backbone: str, own_data: Callable[..., Path]):
    """By the rows of the input that reach a cell of that map, of strides with padding and without."""
    config = Config(dataset="folder", root=own_data(), network="upernet", backbone=backbone, width=8, image=64)
    model = network(config).eval()
    x = torch.randn(4, 3, 64, 64, requires_grad=True)
    model.backbone(x)[-4][:, :, 8].sum().backward()  # type: ignore[operator]
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    centre = (8 + 0.5) * 4 - 0.5 + probe(model, config, Split("test", 1)).shift
    assert float(rows[0] + rows[-1]) / 2 == pytest.approx(centre, abs=0.5)


@torch.no_grad()
def test_images_of_few_rows_are_padded_as_in_training():
    """3 rows of 64 pixels, of which no map of stride 32 is left: zeros below them, and the padding is not returned."""
    model = network(replace(PRESETS["small-upernet"], width=8)).eval()
    image = np.random.default_rng(0).integers(0, 256, (3, 64, 3)).astype(np.uint8)
    x = torch.zeros(1, 3, 32, 64)
    for channel, (mean, spread) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        x[0, channel, :3] = torch.from_numpy((image[..., channel] / 255 - mean) / spread)
    assert np.array_equal(predict(model, image, 64), model(x)["out"][0, :, :3].argmax(0).numpy())


@pytest.mark.parametrize("preset", ["tiny", "small-upernet"])
def test_is_searched_multi_branch_and_merged(preset: str):
    config = PRESETS[preset]
    model = network(config)
    x = torch.randn(2, 3, 64, 64)
    search = LocalSearch(model, replace(config.search, interval=1), searched)
    with torch.no_grad():
        for weight in search.branch_weights():
            weight.copy_(torch.tensor([1.0, 2.0, 4.0])[: weight.numel()])
    assert search.after_step()
    structure = search.structure()
    assert any(structure[name] != search.initial[name] for name in structure)
    multi = network(config)
    keep_branches(multi, structure, config.search)
    multi(x)["out"].sum().backward()
    multi.eval()
    with torch.no_grad():
        before = multi(x)["out"]
        merge(multi)
        torch.testing.assert_close(multi(x)["out"], before, atol=1e-4, rtol=1e-4)


def test_bad_names():
    with pytest.raises(ValueError, match="deeplabv3 has no backbone 'vgg'; known: small, resnet50, resnet101"):
        Config(backbone="vgg")
    with pytest.raises(ValueError, match="no name of a timm network"):
        Config(network="upernet", backbone="hf-hub:someone/something")
    with pytest.raises(ValueError, match="timm has no network 'nothing'"):
        network(Config(network="upernet", backbone="nothing"))
    with pytest.raises(ValueError, match="no pretrained backbone"):
        Config(pretrained=True)
    with pytest.raises(ValueError, match="unknown folds 4; known: 1, 2, 3"):
        Config(folds=(1, 4))
    with pytest.raises(ValueError, match="image is 16; upernet needs 32 pixels"):
        Config(network="upernet", image=16)
