"""ASFormer: dilated convs and attention in windows that grow with them, an encoder and decoders in a row.

Yi, Wen and Jiang, "ASFormer: Transformer for Action Segmentation", BMVC 2021, section 3. A block is a dilated conv
with ReLU, attention over a sliding window on its instance-normalised output, a conv of kernel 1 and a residual
connection. Dilation and window of block l are 2^l. In a decoder, which takes the previous probabilities, queries and
keys come from the decoder's own features and values from those of the encoder (of a later decoder: of the one before
it); the attention of decoder d is weighed by exp(-3 d), d from 0.

Not verified against the paper's text, of which only the abstract could be opened: ten blocks, and attention that
projects 64 channels to 32 and back. They give 1.134 million parameters, the number known for the network. Queries and
keys made of both features together, as decoders are also described, would take 122,880 more.

Searched are the dilated convs, named `encoder.blocks.<l>.dilated` and `decoders.<d>.blocks.<l>.dilated`. The windows
stay as they are.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.action_segmentation.models.attention import Projections, Stack, instance_norm, sliding
from tasks.action_segmentation.models.layers import DilatedConv, DropoutNoise, Pointwise, check_sizes, masked
from tasks.action_segmentation.models.network import Network

CHANNELS_DROPPED = 0.3
"""Share of the features that are zero in one training step, for a whole video."""

DECAY = 3
"""The attention of each decoder counts exp(-DECAY) times as much as that of the one before."""


class ASFormer(Network):
    """The network; sizes as in MS-TCN.

    Parameters, weights and biases: (D + 1) maps in, the decoders' (classes + 1) maps, (maps + 1) classes out of each,
    and per block (3 maps + 1) maps of the dilated conv, 3 (maps + 1) maps / 2 and (maps / 2 + 1) maps of the attention,
    and (maps + 1) maps.

    stages: the encoder and stages - 1 decoders; published: 4. layers: blocks of each; published: 10.
    maps: a multiple of 2.
    """

    def __init__(self, feature_size: int, classes: int, *, stages: int, layers: int, maps: int, dropout: float) -> None:
        super().__init__()
        check_sizes(feature_size=feature_size, classes=classes, stages=stages, layers=layers, maps=maps)
        if maps % 2:
            raise ValueError(f"maps is {maps}; it must be even, since attention has half the channels")
        self.drop = nn.Dropout1d(CHANNELS_DROPPED)
        weights = [1.0, *(math.exp(-DECAY * decoder) for decoder in range(stages - 1))]
        encoder, *decoders = (
            Stack(classes if stage else feature_size, classes, [Block(maps, 2**k, a, dropout) for k in range(layers)])
            for stage, a in enumerate(weights)
        )
        self.encoder, self.decoders = encoder, nn.ModuleList(decoders)

    def stage_of(self, layer: str) -> int:
        """0 in the encoder, d + 1 in decoder d."""
        part, number, *_ = layer.split(".")
        return 0 if part == "encoder" else int(number) + 1

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of encoder and decoders, (stages, B, classes, T); `Network.forward` says more."""
        mask = None if mask is None or bool(mask.all()) else mask
        logits, features = self.encoder(self.drop(x), None, mask)
        outputs = [logits]
        for decoder in self.decoders:
            logits, features = decoder(torch.softmax(logits, dim=1), features, mask)
            outputs.append(logits)
        return torch.stack(outputs)


class Block(nn.Module):
    """Dilated conv, attention in a window of as many frames as the dilation, 1x1 conv, residual connection."""

    def __init__(self, maps: int, window: int, weight: float, dropout: float) -> None:
        super().__init__()
        self.dilated = DilatedConv(maps, maps, window)
        self.attention = Projections(maps, maps, maps // 2, maps)
        self.mix = Pointwise(maps, maps)
        self.noise = DropoutNoise(dropout)
        self.window, self.weight = window, weight

    def forward(self, x: Tensor, values: Tensor | None, mask: Tensor | None) -> Tensor:
        """x, values: (B, maps, T); values None: x's own. mask: (B, 1, T) bool or None -> (B, maps, T)."""
        local = F.relu(self.dilated(x))
        normal, project = instance_norm(local, mask), self.attention
        value = project.value(normal if values is None else values)
        seen = sliding(project.query(normal), project.key(normal), value, mask, self.window)
        update = self.mix(local + self.weight * project.back(seen))
        noise = self.noise(update)
        return masked(x + (update if noise is None else update * noise), mask)
