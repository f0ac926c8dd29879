"""A trained generator in one file: weights, mel configuration, network and dilations.

`training` writes it as generator.pt, and `synthesize` reads it. It holds tensors and plain values only; reading it
executes nothing.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from rfnext import Conv, Rule, SearchConv
from rfnext.conv import set_dilation, take_over
from rfnext.files import serialised, write_bytes
from rfnext.structure import named_convs
from tasks.tts_vocoder.generators import Generator, build, remove_weight_norm, searched
from tasks.tts_vocoder.mel import MelConfig

FORMAT = "rfnext vocoder 1"
FIX = "give the generator.pt of a training, in results/work"


def save(path: str | Path, network: Generator, name: str, sizes: Mapping[str, Any]) -> None:
    """Write a generator that `generators.build(name, mel, **sizes)` made, atomically: as designed, with a structure,
    with branches, or with these merged."""
    content = {
        "format": FORMAT,
        "generator": name,
        "sizes": dict(sizes),
        "mel": network.mel_config.to_dict(),
        "convs": {layer: _describe(conv) for layer, conv in named_convs(network).items() if searched(layer, conv)},
        "state_dict": network.state_dict(),
    }
    write_bytes(path, serialised(content))


def load(path: str | Path) -> Generator:
    """The generator of a file that `save` wrote, on the CPU in evaluation mode; `mel_config` is that of its mels.

    Raises ValueError naming the file if it is another file, or is broken; OSError if it cannot be read.
    """
    try:
        content = torch.load(io.BytesIO(Path(path).read_bytes()), map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # broken bytes raise errors of any kind in torch
        raise ValueError(f"{path} is not a readable checkpoint ({type(error).__name__}); {FIX}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of format {FORMAT!r}; {FIX}")
    try:
        network = build(content["generator"], MelConfig.from_dict(content["mel"]), **content["sizes"])
        convs = named_convs(network)
        for layer, description in content["convs"].items():
            _reshape(convs[layer], **description)
        network.load_state_dict(content["state_dict"])
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} contradicts itself ({error}); {FIX}") from error
    return network.eval()


def _describe(conv: Conv) -> dict[str, Any]:
    """Arguments of `_reshape`, in plain values."""
    return {
        "kernel": list(conv.kernel_size),
        "dilation": list(conv.dilation),
        "padding": [int(side) for side in conv.padding],
        "normalised": parametrize.is_parametrized(conv, "weight"),
        "branches": (conv.branch_weight.numel(), conv.rule) if isinstance(conv, SearchConv) else None,
    }


def _reshape(
    conv: Conv,
    kernel: list[int],
    dilation: list[int],
    padding: list[int],
    normalised: bool,
    branches: tuple[int, Rule] | None,
) -> None:
    """Make a conv as designed into the one that was saved, but for its weights and the dilations of its branches."""
    if not normalised:  # merging folds the norm into the weight
        remove_weight_norm(conv)
    if tuple(kernel) != conv.kernel_size:
        conv.weight = nn.Parameter(conv.weight.new_empty(*conv.weight.shape[:2], *kernel))
        conv.kernel_size = tuple(kernel)
    conv.dilation, conv.padding = tuple(dilation), tuple(padding)
    set_dilation(conv, conv.dilation)  # updates torch's second copy of the padding
    if branches is not None:
        take_over(conv, [conv.dilation], entries=branches[0], rule=branches[1])
