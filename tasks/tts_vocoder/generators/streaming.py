"""A causal HiFi-GAN, and the synthesis of causal generators chunk by chunk, as mels arrive.

Its convs are padded before the first sample alone and anchored at the last tap, so that they stay causal at whatever
dilations a search tries; its transposed convs drop what they make beyond the last sample.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from rfnext import SearchConv
from rfnext.convs.padding import anchor_of, padding_attributes, set_anchor
from tasks.diverged import NotFinite
from tasks.tts_vocoder.generators.generator import Generator, remove_weight_norm
from tasks.tts_vocoder.generators.hifi_gan import HiFiGAN
from tasks.tts_vocoder.mels.mel import MelConfig


class CausalHiFiGAN(HiFiGAN):
    """HiFi-GAN of which no sample depends on a later frame of the mels: as many parameters, and no look-ahead.

    Args:
        mel: configuration of the mels.
        sizes: see `HiFiGAN`.
    """

    def __init__(self, mel: MelConfig, **sizes: Any) -> None:
        super().__init__(mel, **sizes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                set_anchor(module, "last")
                vars(module).update(padding_attributes(module, [(_reach(module), 0)]))

    @staticmethod
    def upsampling_conv(channels: int, factor: int) -> nn.ConvTranspose1d:
        """See `CausalUpsampling`."""
        return CausalUpsampling(channels, channels // 2, 2 * factor, factor)


class CausalUpsampling(nn.ConvTranspose1d):
    """A transposed conv whose samples depend on their own input and the one before; its kernel is twice its stride."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        return super().forward(input, output_size)[..., : input.shape[2] * self.stride[0]]


def _refuse_infinities(module: nn.Module, inputs: Any, output: Tensor) -> None:
    """Raise NotFinite: the tanh behind the last conv would make numbers of infinities."""
    if not bool(output.isfinite().all()):
        raise NotFinite("layer 'conv_post' gives values that are not finite")


def _reach(conv: nn.Conv1d) -> int:
    """Samples before the present one that a causal conv reads, with all of its branches."""
    dilations = conv.dilations if isinstance(conv, SearchConv) else (conv.dilation,)
    return (conv.kernel_size[0] - 1) * max(dilation[0] for dilation in dilations)


class Stream:
    """The speech of a causal generator, chunk by chunk: what it makes of all chunks is what it makes of the whole.

    Every layer keeps as much of its past input as it reads, so that nothing is computed twice. The generator is copied;
    it may be searched, have branches or be merged.

    Raises:
        ValueError: naming the layer, if a conv is not anchored at its last tap.
    """

    def __init__(self, network: Generator) -> None:
        self.network = copy.deepcopy(network).eval()
        remove_weight_norm(self.network)
        self.past: dict[str, Tensor] = {}
        for name, module in self.network.named_modules():
            if isinstance(module, CausalUpsampling):
                self._remember(name, module, 1, module.stride[0])
            elif isinstance(module, nn.Conv1d) and _reach(module):
                if "last" not in anchor_of(module):
                    raise ValueError(f"layer {name!r} is not anchored at its last tap; only causal generators stream")
                reach = _reach(module)
                if isinstance(module, SearchConv):
                    self._remember(name, module, reach, reach)
                else:  # the past takes the place of the padding
                    vars(module).update(padding=(0,), padding_mode="zeros")
                    self._remember(name, module, reach, 0)

        # Infinities reach the last conv; to look at every layer would take as long as a small generator.
        self.network.get_submodule("conv_post").register_forward_hook(_refuse_infinities)

    def _remember(self, name: str, module: nn.Module, reach: int, drop: int) -> None:
        """Put the last `reach` inputs before each input of a module, and drop as many outputs as come of them."""

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            x = inputs[0]
            past = self.past.get(name)
            x = torch.cat((x.new_zeros(*x.shape[:2], reach) if past is None else past, x), dim=2)
            self.past[name] = x[..., x.shape[2] - reach :]
            return (x,)

        module.register_forward_pre_hook(before)
        module.register_forward_hook(lambda _, inputs, output: output[..., drop:])

    @torch.no_grad()
    def __call__(self, mel: Tensor) -> Tensor:
        """The next frames: (B, mels, n) -> (B, 1, n * hop). Raises NotFinite if a layer overflows."""
        return self.network(mel)
