"""MS-TCN and MS-TCN++ against compact rebuilds of the published architectures, written here and nowhere
optimised."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rfnext import Bounds, LocalConfig, LocalSearch, Structure, keep_branches, merge
from tasks.action_segmentation.models import ms_tcn, ms_tcn_pp, searched
from tasks.action_segmentation.models.layers import DropoutNoise
from tests.tasks.action_segmentation.models.plain import PlainLayer, PlainStage

D, CLASSES, MAPS = 7, 5, 6


class PlainDualLayer(nn.Module):
    def __init__(self, maps, shrinking, growing, dropout):
        super().__init__()
        self.shrinking = nn.Conv1d(maps, maps, 3, padding=shrinking, dilation=shrinking)
        self.growing = nn.Conv1d(maps, maps, 3, padding=growing, dilation=growing)
        self.fusion = nn.Conv1d(2 * maps, maps, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return x + self.dropout(F.relu(self.fusion(torch.cat([self.shrinking(x), self.growing(x)], 1))))


class Plain(nn.Module):
    """One video, or several of the same length: no masks."""

    def __init__(self, first, features, classes, maps, stages, layers, dropout):
        super().__init__()
        rest = [
            PlainStage(classes, maps, classes, [PlainLayer(maps, 2**i, dropout) for i in range(layers)])
            for _ in range(stages - 1)
        ]
        self.stages = nn.ModuleList([PlainStage(features, maps, classes, first), *rest])

    def forward(self, x):
        outputs = []
        for stage in self.stages:
            outputs.append(stage(x))
            x = F.softmax(outputs[-1], dim=1)
        return torch.stack(outputs)


def plain_ms_tcn(features, classes, maps, stages, layers, dropout=0.0):
    first = [PlainLayer(maps, 2**i, dropout) for i in range(layers)]
    return Plain(first, features, classes, maps, stages, layers, dropout)


def plain_ms_tcn_pp(features, classes, maps, stages, layers, prediction_layers, dropout=0.0):
    n = prediction_layers
    first = [PlainDualLayer(maps, 2 ** (n - 1 - i), 2**i, dropout) for i in range(n)]
    return Plain(first, features, classes, maps, stages, layers, dropout)


def pair(kind, dropout=0.0):
    """Our network and the rebuild, with the same weights, in double precision."""
    if kind == "ms_tcn":
        ours = ms_tcn(D, CLASSES, stages=3, layers=6, maps=MAPS, dropout=dropout)
        plain = plain_ms_tcn(D, CLASSES, MAPS, 3, 6)
    else:
        ours = ms_tcn_pp(D, CLASSES, stages=3, layers=(6, 4), maps=MAPS, dropout=dropout)
        plain = plain_ms_tcn_pp(D, CLASSES, MAPS, 3, 4, 6)
    plain.load_state_dict(ours.state_dict())
    return ours.double(), plain.double()


KINDS = ["ms_tcn", "ms_tcn_pp"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 3, 32, 33, 150])  # the largest dilation is 32
def test_equals_the_published_architecture(kind, frames):
    ours, plain = pair(kind)
    x = torch.randn(2, D, frames, dtype=torch.float64)
    for network in (ours, plain):
        network.train()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-10, atol=1e-12)
    goal = torch.randn(3, 2, CLASSES, frames, dtype=torch.float64)
    (ours(x) * goal).sum().backward()
    (plain(x) * goal).sum().backward()
    for (name, p), q in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-11, msg=lambda m, name=name: f"{name}: {m}")
    ours.eval()
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-10, atol=1e-12)


def test_parameter_counts():
    # MS-TCN, 19 classes of 50 Salads, I3D features. Layer: 64 x 64 x 3 + 64 and 64 x 64 + 64 = 16,512, ten of
    # them; first stage 2,048 x 64 + 64 in, 64 x 19 + 19 out; the three others 19 x 64 + 64 in, the same out.
    count = 131_136 + 165_120 + 1_235 + 3 * (1_280 + 165_120 + 1_235)
    assert sum(p.numel() for p in ms_tcn(2048, 19).parameters()) == count == 800_396
    # MS-TCN++: eleven dual layers of 2 x 12,352 and 128 x 64 + 64 = 32,960, then three stages as above.
    count = 131_136 + 11 * 32_960 + 1_235 + 3 * (1_280 + 165_120 + 1_235)
    assert sum(p.numel() for p in ms_tcn_pp(2048, 19).parameters()) == count == 997_836


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_a_video_depends_neither_on_its_padding_nor_on_its_batch(kind, training):
    ours, plain = pair(kind)
    ours.train(training)
    videos = [torch.randn(1, D, frames, dtype=torch.float64) for frames in (3, 20, 90)]
    x = torch.zeros(3, D, 120, dtype=torch.float64)
    mask = torch.zeros(3, 1, 120, dtype=torch.bool)
    for k, video in enumerate(videos):
        x[k, :, : video.shape[2]] = video
        mask[k, :, : video.shape[2]] = True
    logits = ours(x, mask)
    gradients = torch.autograd.grad(logits[:, :, :, ::7].square().sum(), list(ours.parameters()))
    expected = [torch.zeros_like(p) for p in plain.parameters()]
    for k, video in enumerate(videos):
        alone = plain(video)
        frames = video.shape[2]
        torch.testing.assert_close(logits[:, k, :, :frames], alone[:, 0], rtol=1e-9, atol=1e-11)
        assert not logits[:, k, :, frames:].any()
        found = torch.autograd.grad(alone[..., ::7].square().sum(), list(plain.parameters()))
        expected = [a + b for a, b in zip(expected, found, strict=True)]
    torch.testing.assert_close(gradients, tuple(expected), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_zero_beyond_the_end_with_dropout(kind):
    network, _ = pair(kind, dropout=0.5)
    mask = torch.ones(2, 1, 50, dtype=torch.bool)
    mask[1, :, 20:] = False
    seen = []
    for stage in network.stages:
        for layer in (stage, *stage.layers):
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    network.train()(torch.randn(2, D, 50, dtype=torch.float64) * mask, mask)
    assert len(seen) == 3 + sum(len(stage.layers) for stage in network.stages)
    for output in seen:
        assert output[1, :, :20].any()
        assert not output[1, :, 20:].any()


def test_full_mask_equals_no_mask():
    ours, _ = pair("ms_tcn")
    x = torch.randn(2, D, 40, dtype=torch.float64)
    assert torch.equal(ours(x, torch.ones(2, 1, 40, dtype=torch.bool)), ours(x))


def test_dropout_drops_in_every_layer():
    network = ms_tcn(D, CLASSES, stages=2, layers=2, maps=MAPS)
    x = torch.randn(1, D, 30)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    assert {module.p for module in network.modules() if isinstance(module, DropoutNoise)} == {0.5}


def test_structures_have_readable_names():
    structure = Structure.read(ms_tcn(D, CLASSES, stages=2, layers=2, maps=MAPS), searched)
    assert dict(structure) == {
        "stages.0.layers.0.dilated": (1,),
        "stages.0.layers.1.dilated": (2,),
        "stages.1.layers.0.dilated": (1,),
        "stages.1.layers.1.dilated": (2,),
    }
    structure = Structure.read(ms_tcn_pp(D, CLASSES, stages=2, layers=(3, 1), maps=MAPS), searched)
    assert dict(structure) == {
        "stages.0.layers.0.shrinking": (4,),
        "stages.0.layers.0.growing": (1,),
        "stages.0.layers.1.shrinking": (2,),
        "stages.0.layers.1.growing": (2,),
        "stages.0.layers.2.shrinking": (1,),
        "stages.0.layers.2.growing": (4,),
        "stages.1.layers.0.dilated": (1,),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_can_be_searched_applied_kept_and_merged(kind):
    network, plain = pair(kind)
    x = torch.randn(2, D, 40, dtype=torch.float64)
    search = LocalSearch(
        network, LocalConfig(interval=1, rounds=1, spread=0.5, branches=3, bounds=Bounds(1, 64)), searched
    )
    network.train()
    network(x).square().sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in search.branch_weights())
    found = Structure(dict.fromkeys(search.structure(), (3,)))

    found.apply(network)
    for layer in plain.modules():
        if isinstance(layer, nn.Conv1d) and layer.kernel_size == (3,):
            layer.dilation = layer.padding = (3,)
    for training in (True, False):  # in training by shifted products again
        torch.testing.assert_close(network.train(training)(x), plain(x), rtol=1e-9, atol=1e-11)

    keep_branches(network, found, search.config)
    expected = network(x)
    assert not torch.allclose(expected, plain(x))
    merge(network)
    for training in (True, False):
        torch.testing.assert_close(network.train(training)(x), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", ["stages", "layers", "maps"])
def test_refuses_sizes_below_one(size):
    with pytest.raises(ValueError, match=f"{size} is 0"):
        ms_tcn(D, CLASSES, **{size: 0})
    with pytest.raises(ValueError, match=f"{size} is 0"):
        ms_tcn_pp(D, CLASSES, **{size: (11, 0) if size == "layers" else 0})
    with pytest.raises(ValueError, match="prediction_layers is 0"):
        ms_tcn_pp(D, CLASSES, layers=(0, 10))
