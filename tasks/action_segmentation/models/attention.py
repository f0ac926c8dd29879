"""Attention of one head over time, within windows or between frames a fixed distance apart, and stacks of its blocks.

Shapes: queries and keys (B, E, T), values (B, V, T), mask (B, 1, T) bool, True where a video has frames, or None. The
output is (B, V, T); beyond the end of a video it means nothing. Frames beyond the end are never attended to.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.action_segmentation.models.layers import Pointwise, masked


class Projections(nn.Module):
    """Queries and keys of one input and values of another, and the way back: four convs of kernel 1."""

    def __init__(self, channels: int, values: int, inner: int, out: int) -> None:
        super().__init__()
        self.query, self.key = Pointwise(channels, inner), Pointwise(channels, inner)
        self.value, self.back = Pointwise(values, inner), Pointwise(inner, out)


class Stack(nn.Module):
    """1x1 conv to the blocks' channels, blocks of a conv `mix` and attention, 1x1 conv to class scores."""

    def __init__(self, channels: int, classes: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        maps = cast(nn.Conv1d, blocks[0].mix).out_channels
        self.enter = Pointwise(channels, maps)
        self.blocks = nn.ModuleList(blocks)
        self.classify = Pointwise(maps, classes)

    def forward(self, x: Tensor, values: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (B, classes, T) and features (B, maps, T).

        x: (B, channels, T). values: (B, V, T), what is attended to; None: the block's own features.
        mask: (B, 1, T) bool or None.
        """
        x = masked(self.enter(x), mask)
        for block in self.blocks:
            x = block(x, values, mask)
        return masked(self.classify(x), mask), x


def sliding(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, window: int) -> Tensor:
    """Every frame t attends to the frames t - window // 2 <= s < t + window // 2; to itself alone in a window of 1."""
    reach = min(window // 2, query.shape[2])
    size = max(2 * reach, 1)
    band = torch.ones(size, size + 2 * reach, dtype=torch.bool, device=query.device)
    if reach:
        band = band.triu().tril(size - 1)
    return _windows(query, key, value, mask, reach, band)


def blocks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, window: int) -> Tensor:
    """The frames are cut into blocks of `window`; each attends to its block and half a block on either side."""
    reach = window // 2
    band = torch.ones(window, window + 2 * reach, dtype=torch.bool, device=query.device)
    return _windows(query, key, value, mask, reach, band)


def strided(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, step: int) -> Tensor:
    """Every frame t attends to all frames t + k * step of the video, of whatever k."""
    frames = query.shape[2]
    there = _there(query, mask)
    surplus = -frames % step
    q, k, v = (F.pad(x, (0, surplus)).unflatten(2, (-1, step)).permute(0, 3, 2, 1) for x in (query, key, value))
    allowed = F.pad(there, (0, surplus)).unflatten(1, (-1, step)).mT[:, :, None]  # (B, step, 1, n)
    found = _attend(q, k, v, allowed)
    return found.permute(0, 3, 2, 1).flatten(2)[:, :, :frames]


def _windows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, reach: int, band: Tensor) -> Tensor:
    """Blocks of queries, each with the keys from `reach` before it to `reach` behind it, as far as `band` allows.

    band: (size, size + 2 reach), for queries and keys counted from the first of each.
    """
    frames, size = query.shape[2], len(band)
    surplus = -frames % size
    queries = F.pad(query, (0, surplus)).unflatten(2, (-1, size)).permute(0, 2, 3, 1)
    around = (reach, reach + surplus)
    keys, values = (F.pad(x, around).unfold(2, size + 2 * reach, size).permute(0, 2, 3, 1) for x in (key, value))
    there = F.pad(_there(query, mask), around).unfold(1, size + 2 * reach, size)  # (B, n, size + 2 reach)
    found = _attend(queries, keys, values, there[:, :, None] & band)
    return found.permute(0, 3, 1, 2).flatten(2)[:, :, :frames]


def _there(x: Tensor, mask: Tensor | None) -> Tensor:
    return x.new_ones((len(x), x.shape[2]), dtype=torch.bool) if mask is None else mask[:, 0]


def _attend(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """softmax(q k / sqrt(E)) v over the keys that are allowed; a query without any, beyond the end, takes all."""
    return F.scaled_dot_product_attention(query, key, value, allowed | ~allowed.any(-1, keepdim=True))


def instance_norm(x: Tensor, mask: Tensor | None, eps: float = 1e-5) -> Tensor:
    """Mean 0 and variance 1 in each channel of each video, without padding: (B, C, T); mask: (B, 1, T) bool or None."""
    if mask is None:
        return (x - x.mean(2, keepdim=True)) * (x.var(2, correction=0, keepdim=True) + eps).rsqrt()
    factors = mask.to(x.dtype)
    frames = factors.sum(2, keepdim=True)
    centred = (x - (x * factors).sum(2, keepdim=True) / frames) * factors
    return masked(centred * (centred.square().sum(2, keepdim=True) / frames + eps).rsqrt(), factors)
