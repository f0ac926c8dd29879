"""The planted task: sequences in which the best dilation of every layer is known, and a network for them.

A sequence of smooth noise has one channel per class. A frame's class is the one whose channel is largest `lag` frames
before and after it, and every class has its own lag. The network has one dilated conv per channel, so the best dilation
of each is the lag.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from rfnext import Search, Structure

CLASSES = 5
FRAMES = 256
LONGEST = 64
SMOOTHNESS = 6.0
"""Standard deviation in frames of the Gaussian that the noise is smoothed with."""
EPOCHS = 40
STEPS = 10
"""Optimizer steps per epoch; every step draws new sequences."""
BATCH = 16
LEARNING_RATE = 0.005
ROUNDS = EPOCHS // 2
"""Of a local search."""

SHARED = {
    "classes": CLASSES,
    "frames": FRAMES,
    "longest_lag": LONGEST,
    "smoothness": SMOOTHNESS,
    "epochs": EPOCHS,
    "steps": STEPS,
    "batch": BATCH,
    "learning_rate": LEARNING_RATE,
}
"""Settings of every method."""

VALIDATION, TEST = 10**6, 10**6 + 1
"""Numbers of batches that no training draws."""


class Network(nn.Module):
    """One conv of kernel 3 per channel, and a pointwise layer that weighs them.

    Its dilations are 1, 2, 4, 8, 16: they double, as in hand designs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reach = nn.ModuleList(nn.Conv1d(1, 4, 3, padding=2**i, dilation=2**i) for i in range(CLASSES))
        self.classify = nn.Conv1d(4 * CLASSES, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, CLASSES, T) -> logits (B, CLASSES, T)."""
        seen = [conv(channel) for conv, channel in zip(self.reach, x.split(1, dim=1), strict=True)]
        return self.classify(torch.relu(torch.cat(seen, dim=1)))


def searched(name: str, conv: nn.Module) -> bool:
    """The dilated convs."""
    return name.startswith("reach")


class Data:
    """Sequences whose class depends on two frames, `lag` before and after."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        # Uniform in the logarithm, and rarely a power of two.
        self.lags = [round(2 ** rng.uniform(0, math.log2(LONGEST))) for _ in range(CLASSES)]
        self.seed = seed
        window = torch.arange(-24, 25)
        kernel = torch.exp(-0.5 * (window / SMOOTHNESS) ** 2)
        self.kernel = (kernel / kernel.square().sum().sqrt())[None, None]  # keeps the variance

    def draw(self, number: int, batch: int = BATCH) -> tuple[Tensor, Tensor]:
        """Batch `number`: x (batch, CLASSES, FRAMES) and classes (batch, FRAMES)."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + number)
        margin = 24 + LONGEST
        noise = torch.randn(batch * CLASSES, 1, FRAMES + 2 * margin, generator=generator)
        x = nn.functional.conv1d(noise, self.kernel).view(batch, CLASSES, -1)
        inner = slice(LONGEST, LONGEST + FRAMES)
        both = [x[:, c].roll(lag, -1) + x[:, c].roll(-lag, -1) for c, lag in enumerate(self.lags)]
        return x[..., inner].contiguous(), torch.stack(both, 1).argmax(1)[:, inner]


def train(model: nn.Module, data: Data, epochs: int, search: Search | None = None) -> None:
    """Adam, with the search's parameter groups."""
    groups = search.parameter_groups() if search else [{"params": list(model.parameters())}]
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE)
    for epoch in range(epochs):
        for step in range(STEPS):
            x, y = data.draw(epoch * STEPS + step)
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if search:
            search.after_step()


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, number: int) -> float:
    """Share of frames, in percent, of batch `number` whose class the network finds."""
    x, y = data.draw(number, 64)
    return 100 * (model(x).argmax(1) == y).double().mean().item()


def build(seed: int, structure: Structure | None = None) -> Network:
    """The network as its seed makes it; structure: its dilations instead of the hand design's."""
    torch.manual_seed(seed)
    model = Network()
    if structure is not None:
        structure.apply(model)
    return model


def as_structure(dilations: list[int]) -> Structure:
    """Dilations of the convs in their order."""
    return Structure({f"reach.{c}": (d,) for c, d in enumerate(dilations)})
