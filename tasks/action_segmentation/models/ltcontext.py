"""LTContext: dilated convs, attention within windows, and attention between frames that lie far apart.

Bahrami, Francesca and Gall, "How Much Temporal Long-Term Context is Needed for Action Segmentation?", ICCV 2023. A
block is a dilated conv with GELU, attention within windows of W frames that overlap by half, attention of each frame
to every G-th frame of the whole video, and a conv of kernel 1, with residual connections. The dilation of block l is
2^l. A later stage takes the previous probabilities and has half the channels; its queries and keys come from its own
features and its values from those of the stage before it.

Not verified against the paper's text, of which only the abstract could be opened: W = G = 64, nine blocks, one head of
as many channels as the stage, where values come from, and dropout.

Searched are the dilated convs, named `stages.<s>.blocks.<l>.dilated`. Windows and steps stay as they are.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.action_segmentation.models.attention import Projections, Stack, blocks, instance_norm, strided
from tasks.action_segmentation.models.layers import DilatedConv, DropoutNoise, Pointwise, check_sizes, masked
from tasks.action_segmentation.models.network import Network

WINDOW = STEP = 64
"""Frames of a window, and between the frames that the other attention sees."""


class LTContext(Network):
    """The network; sizes as in MS-TCN.

    Parameters, weights and biases, of a stage with c channels in, m maps and values of v channels: (c + 1) m in,
    (m + 1) classes out, and per block (3 m + 1) m of the dilated conv, 3 (m + 1) m + (v + 1) m of each attention and
    (m + 1) m.

    stages: published: 4. layers: blocks of each; published: 9. maps: of the first stage; the others have half of them.
    """

    def __init__(self, feature_size: int, classes: int, *, stages: int, layers: int, maps: int, dropout: float) -> None:
        super().__init__()
        check_sizes(feature_size=feature_size, classes=classes, stages=stages, layers=layers, maps=maps)
        if maps % 2:
            raise ValueError(f"maps is {maps}; it must be even, since later stages have half of them")
        widths = [maps, *[maps // 2] * (stages - 1)]
        self.stages = nn.ModuleList()
        for k, width in enumerate(widths):
            parts = [Block(width, widths[max(k - 1, 0)], 2**layer, dropout) for layer in range(layers)]
            self.stages.append(Stack(classes if k else feature_size, classes, parts))

    def stage_of(self, layer: str) -> int:
        """The number in its name."""
        return int(layer.split(".")[1])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of all stages, (stages, B, classes, T); `Network.forward` says more."""
        mask = None if mask is None or bool(mask.all()) else mask
        outputs: list[Tensor] = []
        features = None
        for stage in self.stages:
            x = masked(outputs[-1].softmax(1), mask) if outputs else x
            logits, features = stage(x, features, mask)
            outputs.append(logits)
        return torch.stack(outputs)


class Block(nn.Module):
    """Dilated conv, attention in windows, attention over long distances, 1x1 conv; all but the first are residual."""

    def __init__(self, maps: int, values: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dilated = DilatedConv(maps, maps, dilation)
        self.near, self.far = (Projections(maps, values, maps, maps) for _ in range(2))
        self.mix = Pointwise(maps, maps)
        self.noise = DropoutNoise(dropout)

    def forward(self, x: Tensor, values: Tensor | None, mask: Tensor | None) -> Tensor:
        """x: (B, maps, T); values: (B, values, T), None: x's own; mask: (B, 1, T) bool or None -> (B, maps, T)."""
        out = F.gelu(self.dilated(x))
        attentions = (self.near, partial(blocks, window=WINDOW)), (self.far, partial(strided, step=STEP))
        for project, attend in attentions:
            normal = instance_norm(out, mask)
            value = project.value(normal if values is None else values)
            out = masked(out + project.back(attend(project.query(normal), project.key(normal), value, mask)), mask)
        update = self.mix(out)
        noise = self.noise(update)
        return masked(x + (update if noise is None else update * noise), mask)
