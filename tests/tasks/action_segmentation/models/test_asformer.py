"""ASFormer against a rebuild of torch's own modules, whose attention has a mask of all pairs."""

import math

import pytest
import torch
from torch.nn import functional as F

from tasks.action_segmentation.models.asformer import ASFormer

D, CLASSES, MAPS, STAGES, LAYERS = 7, 5, 6, 3, 4


def plain_forward(network, x):
    def conv(part, x):
        return F.conv1d(x, part.weight, part.bias, padding=part.padding, dilation=part.dilation)

    def block(part, x, window, values, weight):
        local = F.relu(conv(part.dilated, x))
        normal = F.instance_norm(local)
        q, k = conv(part.attention.query, normal), conv(part.attention.key, normal)
        v = conv(part.attention.value, normal if values is None else values)
        frames = range(x.shape[2])
        half = window // 2
        allowed = [[s == t if window == 1 else t - half <= s < t + half for s in frames] for t in frames]
        scores = (q.mT @ k / math.sqrt(q.shape[1])).masked_fill(~torch.tensor(allowed), -torch.inf)
        attended = conv(part.attention.back, v @ scores.softmax(-1).mT)
        return x + conv(part.mix, local + weight * attended)

    outputs, values = [], None
    for number, stack in enumerate([network.encoder, *network.decoders]):
        x = conv(stack.enter, x)
        for layer, part in enumerate(stack.blocks):
            x = block(part, x, 2**layer, values, math.exp(-3 * max(number - 1, 0)))
        outputs.append(conv(stack.classify, x))
        x, values = outputs[-1].softmax(1), x
    return torch.stack(outputs)


@pytest.mark.parametrize("frames", [2, 9, 40])
def test_equals_the_architecture(frames):
    network = ASFormer(D, CLASSES, stages=STAGES, layers=LAYERS, maps=MAPS, dropout=0.5).double().eval()
    x = torch.randn(2, D, frames, dtype=torch.float64)
    torch.testing.assert_close(network(x), plain_forward(network, x))


def test_published_parameters_and_dilations():
    # A block: 12,352 of the dilated conv, three times 64 x 32 + 32 and 32 x 64 + 64 of the attention, 4,160 of the
    # 1x1 conv: 24,864, ten of them. Encoder: 2,048 x 64 + 64 in, 1,235 out; three decoders: 19 x 64 + 64 in.
    count = 131_136 + 248_640 + 1_235 + 3 * (1_280 + 248_640 + 1_235)
    network = ASFormer(2048, 19, stages=4, layers=10, maps=64, dropout=0.5)
    assert sum(p.numel() for p in network.parameters()) == count == 1_134_476  # published: 1.134 million
    for stack in (network.encoder, *network.decoders):
        # The convs of a stack see 2^11 - 1 frames, as a stage of MS-TCN; the largest window is of 512 frames.
        assert 1 + 2 * sum(block.dilated.dilation[0] for block in stack.blocks) == 2**11 - 1
        assert [block.window for block in stack.blocks] == [2**layer for layer in range(10)]


def test_drops_whole_features_and_in_every_block():
    network = ASFormer(D, CLASSES, stages=1, layers=1, maps=MAPS, dropout=0.0)
    x = torch.randn(1, D, 30)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_refuses_odd_maps():
    with pytest.raises(ValueError, match="maps is 7; it must be even"):
        ASFormer(D, CLASSES, stages=1, layers=1, maps=7, dropout=0.0)
