"""Dilations chosen by hand, as structures."""

from torch import nn

from rfnext import Structure
from tasks.action_segmentation.models import searched


def doubling(network: nn.Module, largest: int) -> Structure:
    """The published pattern of doubling dilations, started over from 1 after `largest`: 1 2 4 8 1 2 4 8 1 2 for 8.

    In MS-TCN++'s first stage the shrinking dilations follow the same cycle backwards. `largest` at or above the
    network's own largest dilation gives the published network.

    Args:
        network: MS-TCN or MS-TCN++ with its published dilations.
        largest: a power of two.

    Raises:
        ValueError: if `largest` or one of the network's dilations is no power of two.
    """
    published = Structure.read(network, searched)
    cycle = _exponent(largest) + 1
    return Structure({name: (2 ** (_exponent(d) % cycle),) for name, (d,) in published.items()})


def _exponent(dilation: int) -> int:
    if dilation < 1 or dilation & (dilation - 1):
        raise ValueError(f"{dilation} is not a power of two")
    return dilation.bit_length() - 1
