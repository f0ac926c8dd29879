"""C2F-TCN: an encoder and a decoder over time, whose outputs at several resolutions are averaged.

Singhania et al., "Coarse to Fine Multi-Resolution Temporal Convolutional Network", 2021 (arXiv 2105.10859), section 3;
"C2F-TCN: A Framework for Semi- and Fully-Supervised Temporal Action Segmentation", TPAMI 2023. Every block is two
convs of kernel 3, each with batch normalisation and ReLU. The encoder halves the length between its blocks, the decoder
doubles it and takes the encoder's output of that length beside its own. Between the two, the coarsest features are
pooled by windows of several sizes. The probabilities of the finest decoder outputs are stretched to all frames and
averaged. Not verified against the papers' texts, of which only the abstracts could be opened: widths, pooling windows
and how many outputs are averaged.

The published feature augmentation (pooling by random windows, in training and in test) is a change of the data and not
part of the network; it is not here.

Searched are the convs of kernel 3, named `enter.<i>.conv`, `encoder.<l>.<i>.conv` and `decoder.<l>.<i>.conv`; their
dilations start at 1.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.action_segmentation.data import IGNORED, Batch, Counts
from tasks.action_segmentation.models.layers import DilatedConv, Pointwise, check_sizes
from tasks.action_segmentation.models.losses import loss
from tasks.action_segmentation.models.network import Network

WINDOWS = (2, 3, 5, 6)
"""Windows of the pyramid pooling, in positions of the coarsest features."""

WIDE = 2
"""Encoder blocks as wide as the first one; the later ones, and the decoder, have half its channels."""

AVERAGED = 4
"""Decoder outputs, from the finest on, whose probabilities are averaged, with equal weights."""


class C2FTCN(Network):
    """The network.

    layers: how often the encoder halves the length; the published network has 6.
    maps: channels of the first blocks, a multiple of 2; published: 256.
    """

    def __init__(self, feature_size: int, classes: int, *, layers: int, maps: int) -> None:
        super().__init__()
        check_sizes(feature_size=feature_size, classes=classes, layers=layers, maps=maps)
        if maps % 2:
            raise ValueError(f"maps is {maps}; it must be even, since half of the blocks have half the channels")
        widths = [maps] + [maps if level < WIDE else maps // 2 for level in range(layers)]
        self.enter = Block(feature_size, maps)
        self.encoder = nn.ModuleList(Block(*sizes) for sizes in itertools.pairwise(widths))
        self.pooled = nn.ModuleList(Pointwise(widths[-1], 1) for _ in WINDOWS)
        inputs = [widths[-1] + len(WINDOWS), *[maps // 2] * (layers - 1)]
        self.decoder = nn.ModuleList(
            Block(size + beside, maps // 2) for size, beside in zip(inputs, reversed(widths[:-1]), strict=True)
        )
        self.classify = nn.ModuleList(Pointwise(maps // 2, classes) for _ in range(min(AVERAGED, layers)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logarithms of the averaged probabilities, (1, B, classes, T); `Network.forward` says more."""
        if mask is None:
            mask = x.new_ones((len(x), 1, x.shape[2]), dtype=torch.bool)
        masks, x = [mask], self.enter(x, mask)
        beside = [x]
        for block in self.encoder:
            x, mask = pool(x, masks[-1], 2)
            masks.append(mask)
            x = block(x, mask)
            beside.append(x)
        x = torch.cat([x, *self._pyramid(x, masks[-1])], dim=1)
        outputs: list[Tensor] = []
        for level, block in zip(reversed(range(len(self.decoder))), self.decoder, strict=True):
            x = stretch(x, masks[level + 1], 2, masks[level])
            x = block(torch.cat([x, beside[level]], dim=1), masks[level])
            if level < len(self.classify):
                here = torch.softmax(self.classify[level](x), dim=1)
                outputs.append(stretch(here, masks[level], 2**level, masks[0]))
        mean = torch.stack(outputs).mean(0)
        return mean.clamp(min=torch.finfo(x.dtype).tiny).log()[None].masked_fill(~masks[0], 0)

    def objective(self, batch: Batch, smoothing: float, counts: Counts | None = None) -> Tensor:
        """MS-TCN's loss of the averaged probabilities, and the loss of the video's actions (`action_loss`).

        Raises ValueError if counts are those of a larger batch: batch normalisation needs all its videos at once.
        """
        features, labels, mask = batch
        if counts is not None and counts != Counts.of(labels, mask):
            raise ValueError("batch normalisation needs all videos of a step at once")
        found = self(features, mask)
        return loss(found, labels, mask, smoothing) + action_loss(found[0].exp(), labels, mask)

    def _pyramid(self, x: Tensor, mask: Tensor) -> list[Tensor]:
        """Features of windows of several sizes, each (B, 1, n), stretched to x's length."""
        found = []
        for window, conv in zip(WINDOWS, self.pooled, strict=True):
            part, pooled_mask = pool(x, mask, window)
            found.append(stretch(conv(part), pooled_mask, window, mask))
        return found


def action_loss(probability: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """How far a video's actions are from those found in it, mean over videos (section 3.5).

    With p the largest probability of a class over the frames of a video: the mean of -log p over the classes that are
    labelled in it and the mean of -log (1 - p) over the others.

    probability: (B, classes, T). labels: (B, T), `IGNORED` where there is none. mask: (B, 1, T).
    """
    largest = probability.masked_fill(~mask, 0).amax(2)
    present = torch.zeros_like(largest, dtype=torch.bool)
    video, frame = torch.nonzero(labels != IGNORED, as_tuple=True)
    present[video, labels[video, frame]] = True
    entropy = F.binary_cross_entropy(largest.clamp(0, 1), present.to(largest.dtype), reduction="none")
    there, absent = present.sum(1).clamp(min=1), (~present).sum(1).clamp(min=1)
    return ((entropy * present).sum(1) / there + (entropy * ~present).sum(1) / absent).mean()


class Block(nn.ModuleList):
    """Two convs of kernel 3, each followed by batch normalisation and ReLU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__([_Layer(channels_in, channels_out), _Layer(channels_out, channels_out)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x: (B, channels_in, T), mask: (B, 1, T) bool -> (B, channels_out, T), zero beyond the end."""
        for layer in self:
            x = layer(x, mask)
        return x


class _Layer(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = DilatedConv(channels_in, channels_out, 1)
        self.norm = FrameNorm(channels_out)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x), mask))


class FrameNorm(nn.BatchNorm1d):
    """Batch normalisation over the frames of a batch, without its padding.

    A batch of a single frame has no variance; it is normalised as in evaluation.
    """

    def forward(self, input: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """input: (B, C, T), mask: (B, 1, T) bool -> (B, C, T), zero beyond the end."""
        there = mask[:, 0]
        frames = input.mT[there]  # (frames, C)
        if self.training and len(frames) == 1:
            found = F.batch_norm(frames, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        else:
            found = super().forward(frames)
        return input.new_zeros(input.mT.shape).masked_scatter(there[..., None], found).mT


def pool(x: Tensor, mask: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The largest value of each window, and the mask of the windows; a video's last one may be shorter.

    x: (B, C, T), mask: (B, 1, T) bool -> (B, C, n), (B, 1, n), n = ceil(T / window).
    """
    found = F.max_pool1d(x.masked_fill(~mask, -torch.inf), window, ceil_mode=True)
    mask = mask[:, :, ::window]
    return found.masked_fill(~mask, 0), mask


def stretch(x: Tensor, mask: Tensor, factor: int, target: Tensor) -> Tensor:
    """Linear interpolation to `factor` times the length, cut to the target's: the reverse of `pool`.

    A video's last value is held up to its end, as if it had no padding.

    x: (B, C, n), mask: (B, 1, n), target: (B, 1, T) -> (B, C, T), zero beyond the end.
    """
    place = (torch.arange(target.shape[2], device=x.device, dtype=x.dtype) + 0.5) / factor - 0.5
    lower = place.clamp(min=0).floor().long()
    share = place.clamp(min=0) - lower
    last = mask.sum(2) - 1  # (B, 1)
    before, after = (torch.minimum(at, last)[:, None].expand(-1, x.shape[1], -1) for at in (lower, lower + 1))
    return (x.gather(2, before) * (1 - share) + x.gather(2, after) * share) * target
