"""ASRF against a rebuild of plain modules, its losses and its refinement against loops."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rfnext.receptive_field import theoretical_receptive_field
from tasks.action_segmentation.data import IGNORED, Batch
from tasks.action_segmentation.models.asrf import ASRF, boundary_loss, refine
from tests.tasks.action_segmentation.models.plain import PlainLayer, PlainStage

D, CLASSES, MAPS, STAGES, LAYERS = 7, 5, 6, 3, 4


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Conv1d(D, MAPS, 1)
        self.shared = nn.ModuleList([PlainLayer(MAPS, 2**i) for i in range(LAYERS)])
        self.classify, self.locate = nn.Conv1d(MAPS, CLASSES, 1), nn.Conv1d(MAPS, 1, 1)
        self.refining, self.locating = (
            nn.ModuleList(
                PlainStage(size, MAPS, size, [PlainLayer(MAPS, 2**i) for i in range(LAYERS)]) for _ in range(STAGES - 1)
            )
            for size in (CLASSES, 1)
        )

    def forward(self, x):
        x = self.enter(x)
        for layer in self.shared:
            x = layer(x)
        classes, boundaries = [self.classify(x)], [self.locate(x)]
        for stage in self.refining:
            classes.append(stage(F.softmax(classes[-1], dim=1)))
        for stage in self.locating:
            boundaries.append(stage(torch.sigmoid(boundaries[-1])))
        return torch.stack(classes), torch.stack(boundaries)[:, :, 0]


@pytest.fixture
def network():
    return ASRF(D, CLASSES, stages=STAGES, layers=LAYERS, maps=MAPS, dropout=0.0).double()


@pytest.fixture
def plain(network):
    plain = Plain().double()
    plain.load_state_dict(network.state_dict())
    return plain


def test_equals_the_architecture(network, plain):
    x = torch.randn(2, D, 40, dtype=torch.float64)
    torch.testing.assert_close(network.both(x), plain(x))
    torch.testing.assert_close(network(x), plain(x)[0])


def test_boundaries_do_not_depend_on_padding(network, plain):
    x = torch.randn(1, D, 20, dtype=torch.float64)
    mask = torch.arange(30) < torch.tensor([20, 30])[:, None, None]
    both = torch.cat((F.pad(x, (0, 10)), torch.randn(1, D, 30, dtype=torch.float64)))
    found = network.both(both, mask)[1][:, 0]
    torch.testing.assert_close(found[:, :20], plain(x)[1][:, 0])
    assert not found[:, 20:].any()


def test_published_parameters_and_field():
    # 19 classes of 50 Salads: 2,048 x 64 + 64 in, ten layers of 16,512, heads of 1,235 and 65; three stages of
    # 19 x 64 + 64 in, ten layers and 1,235 out, and three of 128 in, ten layers and 65 out. Published: 1.3 million.
    count = 131_136 + 165_120 + 1_235 + 65 + 3 * (1_280 + 165_120 + 1_235) + 3 * (128 + 165_120 + 65)
    network = ASRF(2048, 19, stages=4, layers=10, maps=64, dropout=0.5)
    assert sum(p.numel() for p in network.parameters()) == count == 1_296_400
    # One stage sees 2^11 - 1 frames, as published for MS-TCN; four see four times what lies on one side of it.
    small = ASRF(2, 3, stages=1, layers=10, maps=2, dropout=0.0)
    ((first, last),) = theoretical_receptive_field(lambda x: small(x)[-1], torch.randn(1, 2, 2500))
    assert last - first + 1 == 2**11 - 1
    small = ASRF(2, 3, stages=4, layers=6, maps=2, dropout=0.0)
    ((first, last),) = theoretical_receptive_field(lambda x: small(x)[-1], torch.randn(1, 2, 700))
    assert last - first == 4 * 2 * 63


def test_loss_equals_a_loop_over_frames(network, plain):
    lengths = (9, 12)
    mask = torch.arange(12) < torch.tensor(lengths)[:, None, None]
    x = torch.randn(2, D, 12, dtype=torch.float64) * 0.3 * mask
    labels = torch.where(mask[:, 0], torch.randint(0, 3, (2, 12)), IGNORED)
    network.prepare([np.array([0, 0, 0, 1]), np.array([2, 2])])
    entropies, steps, binary = [], [], []
    for k, length in enumerate(lengths):
        classes, boundaries = plain(x[k : k + 1, :, :length])
        for scores, starts in zip(F.log_softmax(classes[:, 0], 1), boundaries[:, 0], strict=True):
            for t in range(length):
                entropies.append(-scores[labels[k, t], t])
                p = torch.sigmoid(starts[t])
                start = t == 0 or labels[k, t] != labels[k, t - 1]
                binary.append(-2.0 * torch.log(p) if start else -torch.log(1 - p))  # 6 frames for 3 boundaries
                if t > 0:
                    distance = sum((x[k, d, t].item() - x[k, d, t - 1].item()) ** 2 for d in range(D))
                    change = (scores[:, t] - scores[:, t - 1]) ** 2
                    steps.extend(math.exp(-distance / 2) * change.clamp(max=16))
    means = [torch.stack(part).mean() for part in (entropies, steps, binary)]
    expected = means[0] + 0.7 * means[1] + 0.1 * means[2]
    torch.testing.assert_close(network.objective(Batch(x, labels, mask), 0.7), expected)


def test_boundary_loss_is_finite_at_certain_errors():
    logits, labels = torch.tensor([[[-200.0, 200.0]]]), torch.tensor([[1, 1]])
    mask = torch.ones(1, 1, 2, dtype=torch.bool)
    assert boundary_loss(logits, labels, mask, 3.0, mask.sum()) == (3 * 200 + 200) / 2


@pytest.mark.parametrize(
    ("classes", "boundary", "expected"),
    [
        ([0, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0], [2, 2, 2, 2, 2, 2]),  # no boundary: one stretch
        ([0, 1, 0, 2, 2, 0], [0.9, 0, 0, 0.8, 0, 0], [0, 0, 0, 2, 2, 2]),
        ([0, 1, 0, 2, 2, 0], [0.9, 0, 0.4, 0.45, 0, 0], [0, 0, 0, 0, 0, 0]),  # below the threshold; 0 is the lower
        ([3, 3, 1, 1, 2, 2], [0, 0, 0.6, 0.7, 0.6, 0.5], [3, 3, 3, 2, 2, 2]),  # only the maximum
        ([3, 3, 1, 1, 2, 2], [0, 0, 1, 1, 0, 0.5], [3, 3, 1, 1, 1, 2]),  # the first of a plateau; the last frame
        ([4], [0.2], [4]),
    ],
)
def test_refines(classes, boundary, expected):
    assert refine(torch.tensor(classes), torch.tensor(boundary)).tolist() == expected


def test_predicts_the_refined_classes(network):
    x = torch.randn(2, D, 40, dtype=torch.float64)
    classes, boundaries = network.both(x)
    expected = [refine(c, p) for c, p in zip(classes[-1].argmax(1), boundaries[-1].sigmoid(), strict=True)]
    assert torch.equal(network.predict(x), torch.stack(expected))
