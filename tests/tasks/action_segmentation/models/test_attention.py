"""Attention in windows and between distant frames, against attention with a mask of all pairs."""

import pytest
import torch
from torch import nn

from tasks.action_segmentation.models.attention import blocks, instance_norm, sliding, strided

FRAMES = (1, 5, 16, 23)


def dense(query, key, value, allowed):
    scores = torch.einsum("bet,bes->bts", query, key) / query.shape[1] ** 0.5
    return torch.einsum("bts,bvs->bvt", scores.masked_fill(~allowed, -torch.inf).softmax(-1), value)


def pairs(frames, rule):
    return torch.tensor([[rule(t, s) for s in range(frames)] for t in range(frames)])


RULES = {
    sliding: lambda window: lambda t, s: t == s if window == 1 else t - window // 2 <= s < t + window // 2,
    blocks: lambda window: lambda t, s: -(window // 2) <= s - t // window * window < window + window // 2,
    strided: lambda step: lambda t, s: (t - s) % step == 0,
}


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("size", [1, 2, 4, 8, 64])
def test_equals_attention_of_all_pairs(kind, size):
    for frames in FRAMES:
        query, key, value = (torch.randn(2, e, frames, dtype=torch.float64) for e in (3, 3, 2))
        expected = dense(query, key, value, pairs(frames, RULES[kind](size)))
        torch.testing.assert_close(kind(query, key, value, None, size), expected)


@pytest.mark.parametrize("kind", RULES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("size", [1, 2, 8])
def test_padding_is_not_attended_to(kind, size):
    lengths = (3, 23)
    query, key, value = (torch.randn(2, 3, 23, dtype=torch.float64, requires_grad=True) for _ in range(3))
    mask = torch.arange(23) < torch.tensor(lengths)[:, None, None]
    found = kind(query, key, value, mask, size)
    for k, length in enumerate(lengths):
        alone = kind(*(x[k : k + 1, :, :length] for x in (query, key, value)), None, size)
        torch.testing.assert_close(found[k, :, :length], alone[0])
    found.sum().backward()
    assert all(x.grad.isfinite().all() for x in (query, key, value))


def test_instance_norm_leaves_padding_out():
    x = torch.randn(2, 3, 12, dtype=torch.float64) + 2
    mask = torch.arange(12) < torch.tensor([5, 12])[:, None, None]
    plain = nn.InstanceNorm1d(3)
    found = instance_norm(x, mask)
    torch.testing.assert_close(found[:1, :, :5], plain(x[:1, :, :5]))
    torch.testing.assert_close(found[1:], plain(x[1:]))
    torch.testing.assert_close(instance_norm(x, None), plain(x))
    assert not found[0, :, 5:].any()
