"""C2F-TCN against a rebuild of torch's own modules, which takes one video at a time."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rfnext.receptive_field import theoretical_receptive_field
from tasks.action_segmentation.data import IGNORED, Batch
from tasks.action_segmentation.models.c2f_tcn import C2FTCN, FrameNorm, action_loss, pool, stretch
from tasks.action_segmentation.models.losses import loss

D, CLASSES = 7, 5


def plain_forward(network, video, layers):
    """One video (1, D, T) through the network's own weights, in evaluation mode, by torch's functions alone."""

    def block(part, x):
        for layer in part:
            conv, norm = layer.conv, layer.norm
            x = F.conv1d(x, conv.weight, conv.bias, padding=1)
            x = F.relu(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
        return x

    def to_length(x, factor, length):
        return F.interpolate(x, scale_factor=factor, mode="linear")[:, :, :length]

    x = block(network.enter, video)
    down = [x]
    for part in network.encoder:
        x = block(part, F.max_pool1d(x, 2, ceil_mode=True))
        down.append(x)
    pooled = []
    for window, conv in zip((2, 3, 5, 6), network.pooled, strict=True):
        part = F.conv1d(F.max_pool1d(x, window, ceil_mode=True), conv.weight, conv.bias)
        pooled.append(to_length(part, window, x.shape[2]))
    x = torch.cat([x, *pooled], 1)
    probabilities = []
    for part, level in zip(network.decoder, range(layers - 1, -1, -1), strict=True):
        beside = down[level]
        x = block(part, torch.cat([to_length(x, 2, beside.shape[2]), beside], 1))
        if level < 4:
            head = network.classify[level]
            p = F.softmax(F.conv1d(x, head.weight, head.bias), 1)
            probabilities.append(to_length(p, 2**level, video.shape[2]))
    return torch.stack(probabilities).mean(0).log()


@pytest.mark.parametrize(("layers", "frames"), [(2, 17), (5, 1), (5, 95), (5, 96), (5, 97)])
def test_equals_the_architecture(layers, frames):
    network = C2FTCN(D, CLASSES, layers=layers, maps=8).double()
    for _ in range(3):  # running statistics that are not those of the start
        network(torch.randn(2, D, 70, dtype=torch.float64))
    video = torch.randn(1, D, frames, dtype=torch.float64)
    torch.testing.assert_close(network.eval()(video)[0], plain_forward(network, video, layers))
    assert network.predict(video).shape == (1, frames)


def test_parameters_and_field():
    # Blocks are 3 a b + b and 3 b b + b and 4 b of normalisation: 2,048 -> 256, twice 256 -> 256, 256 -> 128 and three
    # times 128 -> 128; decoding 132 + 128 -> 128, twice 256 -> 128 and three times 384 -> 128. Then four times
    # 128 x 1 + 1 in the pyramid, and four times 128 x 19 + 19 out.
    def block(a, b):
        return 3 * a * b + 3 * b * b + 6 * b

    encoder = block(2048, 256) + 2 * block(256, 256) + block(256, 128) + 3 * block(128, 128)
    decoder = block(260, 128) + 2 * block(256, 128) + 3 * block(384, 128)
    count = encoder + decoder + 4 * 129 + 4 * (128 * 19 + 19)
    network = C2FTCN(2048, 19, layers=6, maps=256)
    assert sum(p.numel() for p in network.parameters()) == count == 4_054_608
    # The coarsest features see far: a window of 6 of them is 384 frames, and convs add to it on every level.
    small = C2FTCN(2, 3, layers=6, maps=2).eval()
    ((first, last),) = theoretical_receptive_field(lambda x: small(x)[-1], torch.randn(1, 2, 4096))
    assert 6 * 64 < last - first < 4000


@pytest.mark.parametrize("window", [2, 3, 5])
@pytest.mark.parametrize("lengths", [(1, 7), (11, 12)])
def test_pools_and_stretches_each_video_alone(window, lengths):
    x = torch.randn(2, 4, max(lengths), dtype=torch.float64) - 5
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None, None]
    x = x * mask
    pooled, pooled_mask = pool(x, mask, window)
    back = stretch(pooled, pooled_mask, window, mask)
    for k, length in enumerate(lengths):
        alone = F.max_pool1d(x[k : k + 1, :, :length], window, ceil_mode=True)
        count = math.ceil(length / window)
        assert pooled_mask[k].sum() == count
        assert torch.equal(pooled[k, :, :count], alone[0])
        assert not pooled[k, :, count:].any()
        expected = F.interpolate(alone, scale_factor=window, mode="linear")[0, :, :length]
        torch.testing.assert_close(back[k, :, :length], expected)
        assert not back[k, :, length:].any()


def test_normalises_over_real_frames():
    norm, plain = FrameNorm(3).double(), nn.BatchNorm1d(3).double()
    mask = torch.arange(9) < torch.tensor([4, 9])[:, None, None]
    x = torch.randn(2, 3, 9, dtype=torch.float64) * mask
    frames = torch.cat([x[0, :, :4], x[1]], dim=1).T
    expected = plain(frames).T
    found = norm(x, mask)
    torch.testing.assert_close(torch.cat([found[0, :, :4], found[1]], dim=1), expected)
    assert not found[0, :, 4:].any()
    torch.testing.assert_close(norm.running_var, plain.running_var)
    assert norm(torch.ones(1, 3, 1).double(), torch.ones(1, 1, 1, dtype=torch.bool)).isfinite().all()


def test_loss_has_a_term_of_the_videos_actions():
    network = C2FTCN(D, CLASSES, layers=2, maps=8).double().eval()
    lengths = (6, 10)
    mask = torch.arange(10) < torch.tensor(lengths)[:, None, None]
    x = torch.randn(2, D, 10, dtype=torch.float64) * mask
    labels = torch.where(mask[:, 0], torch.randint(0, 2, (2, 10)), IGNORED)
    labels[:, 0] = 4
    total = 0.0
    for k, length in enumerate(lengths):
        p = network(x[k : k + 1, :, :length])[0, 0].exp()
        actions = set(labels[k, :length].tolist())
        there = [-math.log(p[c].max().item()) for c in range(CLASSES) if c in actions]
        absent = [-math.log(1 - p[c].max().item()) for c in range(CLASSES) if c not in actions]
        total += (sum(there) / len(there) + sum(absent) / len(absent)) / 2
    found = network(x, mask)
    assert action_loss(found[0].exp(), labels, mask).item() == pytest.approx(total)
    both = loss(found, labels, mask, 0.3).item() + total
    assert network.objective(Batch(x, labels, mask), 0.3).item() == pytest.approx(both)


def test_refuses_odd_maps():
    with pytest.raises(ValueError, match="maps is 7; it must be even"):
        C2FTCN(D, CLASSES, layers=2, maps=7)
