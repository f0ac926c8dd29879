"""LTContext against a rebuild of torch's own modules, whose attentions have masks of all pairs."""

import math

import pytest
import torch
from torch.nn import functional as F

from tasks.action_segmentation.models.ltcontext import LTContext

D, CLASSES, MAPS, STAGES, LAYERS = 7, 5, 6, 3, 3


def near(t, s):
    """Frames are cut into blocks of 64; a frame sees its block and 32 frames before and behind it."""
    first = t // 64 * 64
    return first - 32 <= s < first + 64 + 32


def far(t, s):
    return (t - s) % 64 == 0


def plain_forward(network, x):
    def conv(part, x):
        return F.conv1d(x, part.weight, part.bias, padding=part.padding, dilation=part.dilation)

    def attended(part, x, values, sees):
        normal = F.instance_norm(x)
        q, k = conv(part.query, normal), conv(part.key, normal)
        v = conv(part.value, normal if values is None else values)
        frames = range(x.shape[2])
        allowed = torch.tensor([[sees(t, s) for s in frames] for t in frames])
        scores = (q.mT @ k / math.sqrt(q.shape[1])).masked_fill(~allowed, -torch.inf)
        return x + conv(part.back, v @ scores.softmax(-1).mT)

    outputs, values = [], None
    for stage in network.stages:
        x = conv(stage.enter, x)
        for part in stage.blocks:
            out = attended(part.near, F.gelu(conv(part.dilated, x)), values, near)
            x = x + conv(part.mix, attended(part.far, out, values, far))
        outputs.append(conv(stage.classify, x))
        x, values = outputs[-1].softmax(1), x
    return torch.stack(outputs)


@pytest.mark.parametrize("frames", [2, 64, 150])
def test_equals_the_architecture(frames):
    network = LTContext(D, CLASSES, stages=STAGES, layers=LAYERS, maps=MAPS, dropout=0.5).double().eval()
    x = torch.randn(2, D, frames, dtype=torch.float64)
    torch.testing.assert_close(network(x), plain_forward(network, x))


def test_parameters_and_dilations():
    # A block of 64 maps: 12,352 of the dilated conv, eight times 64 x 64 + 64 of the attentions, 4,160 of the 1x1 conv.
    # Of 32 maps: 3,104, eight times 1,056, 1,056; the second stage's values have 64 channels: twice 32 x 32 more.
    first = 131_136 + 9 * (12_352 + 8 * 4_160 + 4_160) + 65 * 19
    later = 20 * 32 + 9 * (3_104 + 8 * 1_056 + 1_056) + 33 * 19
    network = LTContext(2048, 19, stages=4, layers=9, maps=64, dropout=0.2)
    assert sum(p.numel() for p in network.parameters()) == first + 3 * later + 9 * 2 * 1_024 == 943_148
    for stage in range(4):
        convs = [network.get_submodule(f"stages.{stage}.blocks.{layer}.dilated") for layer in range(9)]
        assert [conv.dilation for conv in convs] == [(2**layer,) for layer in range(9)]


def test_refuses_odd_maps():
    with pytest.raises(ValueError, match="maps is 7; it must be even"):
        LTContext(D, CLASSES, stages=1, layers=1, maps=7, dropout=0.0)
