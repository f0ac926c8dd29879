"""What all generators have in common."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from rfnext.merging import remove_parametrization
from tasks.tts_vocoder.mels.mel import CONVENTIONS, MelConfig, check_same

log = logging.getLogger(__name__)


class Generator(nn.Module):
    """A network from log-mels (B, mels, F) to waveforms (B, 1, F * hop).

    The mel configuration is part of the state_dict: a checkpoint that was trained on other mels does not load.
    """

    def __init__(self, mel: MelConfig) -> None:
        super().__init__()
        self.mel_config = mel

    def inputs(self, mel: Tensor) -> tuple[Tensor, ...]:
        """All arguments of forward() for these mels, each with frames on its last axis."""
        return (mel,)

    def check(self, mel: Tensor) -> None:
        """Raise ValueError unless `mel` is (B, mels, F)."""
        if mel.dim() != 3 or mel.shape[1] != self.mel_config.mels:
            raise ValueError(
                f"the generator takes log-mels (B, {self.mel_config.mels}, F), got shape {tuple(mel.shape)}; compute "
                f"them by LogMel({self.mel_config})"
            )

    def get_extra_state(self) -> Tensor:
        """The mel configuration, as a tensor."""
        # A tensor, because code that averages, hashes or compares state_dicts expects tensors.
        values = self.mel_config.to_dict() | {"fmax": self.mel_config.top}
        if "convention" in values:
            values["convention"] = [*map(str, CONVENTIONS)].index(str(values["convention"]))
        return torch.tensor(list(values.values()), dtype=torch.float64)

    def set_extra_state(self, state: Any) -> None:
        """Raise ValueError unless `state` is the mel configuration of this generator."""
        kinds = asdict(self.mel_config)  # the last one, the convention, is left out if it is the first
        if not isinstance(state, Tensor) or state.dim() != 1 or len(state) not in (len(kinds) - 1, len(kinds)):
            raise ValueError(f"not a mel configuration: {state!r}")
        values: dict[str, Any] = dict(zip(kinds, state.tolist(), strict=False))
        values |= {name: int(value) for name, value in values.items() if isinstance(kinds[name], int)}
        values["convention"] = list(CONVENTIONS)[int(values.get("convention", 0))]
        check_same(MelConfig.from_dict(values), self.mel_config, "the model that the checkpoint is loaded into")

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + "_extra_state" not in state_dict:  # a published checkpoint
            log.warning("the checkpoint does not say which mels it was trained on; assuming %s", self.mel_config)
            state_dict[prefix + "_extra_state"] = self.get_extra_state()
        super()._load_from_state_dict(state_dict, prefix, *args)


def frame_noise(mel: Tensor, hop: int, *, fresh: bool) -> Tensor:
    """White noise for mels (B, mels, F): (B, hop, F), column f for frame f; new if `fresh`, else always the same."""
    batch, _, frames = mel.shape
    if fresh:
        return torch.randn(batch, hop, frames, device=mel.device, dtype=mel.dtype)
    noise = torch.randn(frames, hop, generator=torch.Generator().manual_seed(0)).to(mel)
    return noise.T.expand(batch, -1, -1)


class Dilated(nn.Conv1d):
    """A conv that keeps the length and whose dilation is searched; of odd kernel."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, dilation: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is even; only odd ones keep the length")
        padding = dilation * (kernel - 1) // 2
        super().__init__(
            channels_in, channels_out, kernel, padding=padding, dilation=dilation, groups=groups, bias=bias
        )


def weight_norm(model: nn.Module) -> None:
    """Give all convs of a model weight normalisation (Salimans and Kingma, NeurIPS 2016), in place."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d)):
            # One norm per output channel, but the first axis of a transposed conv is its input: as published.
            parametrizations.weight_norm(module)


def remove_weight_norm(model: nn.Module) -> None:
    """Fold weight normalisation into plain weights, in place. Outputs do not change, nor do copies of the model.

    Searched convs must be merged before, by `rfnext.merge`.
    """
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            remove_parametrization(module)


def check_sizes(**sizes: int) -> None:
    """Raise ValueError for a size that is not positive."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; it must be at least 1")


def check_halved(channels: int, upsampling: Sequence[int]) -> None:
    """Raise ValueError unless the channels can be halved by every upsampling."""
    if channels < 2 ** len(upsampling):
        raise ValueError(f"channels is {channels}; each of {len(upsampling)} upsamplings halves them")


def check_upsampling(upsampling: tuple[int, ...], mel: MelConfig) -> None:
    """Raise ValueError unless the factors multiply to the hop."""
    product = 1
    for factor in upsampling:
        product *= factor
    if product != mel.hop or min(upsampling, default=0) < 1:
        raise ValueError(
            f"upsampling {tuple(upsampling)} makes {product} samples of a frame, but the mel configuration has hop "
            f"{mel.hop}; give factors that multiply to it"
        )
