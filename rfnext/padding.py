"""Paddings: which one keeps a conv's output size, and the position of its kernel's centre, at another dilation."""

import logging
from collections.abc import Mapping

from torch import nn

from rfnext.dilation import Dilation

log = logging.getLogger(__name__)

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
"""A convolution that may be searched."""


def check_dilation(dilation: Dilation, conv: Conv) -> None:
    """Raise ValueError unless `dilation` is one positive integer per axis of the conv's kernel."""
    if len(dilation) != len(conv.kernel_size):
        raise ValueError(f"dilation {dilation} has {len(dilation)} axes, the kernel {tuple(conv.kernel_size)} has not")
    if not all(isinstance(d, int) and not isinstance(d, bool) and d >= 1 for d in dilation):
        raise ValueError(f"dilation {dilation} is not made of positive integers")


def size_keeping_padding(conv: Conv, dilation: Dilation) -> list[tuple[int, int]]:
    """Padding (before, after) per axis at which `conv` with another dilation keeps its output size.

    It also keeps the kernel's centre in place: both sides grow by (d' - d) (k - 1) / 2. Negative numbers crop.

    Raises ValueError if `dilation` does not fit the kernel, or an even kernel cannot keep the size.
    """
    check_dilation(dilation, conv)
    sides = []
    for axis, (kernel, new, old) in enumerate(zip(conv.kernel_size, dilation, conv.dilation, strict=True)):
        if conv.padding == "same":
            total = new * (kernel - 1)
            sides.append((total // 2, total - total // 2))
            continue
        growth = (new - old) * (kernel - 1)
        if growth % 2:
            raise ValueError(
                f"an even kernel {tuple(conv.kernel_size)} cannot keep its size from dilation {old} to {new}; "
                f"leave axis {axis} as it is"
            )
        padding = (0 if conv.padding == "valid" else int(conv.padding[axis])) + growth // 2
        sides.append((padding, padding))
    return sides


def warn_of_causal(convs: Mapping[str, Conv]) -> None:
    """Log the names of the convs that are padded as causal ones, and whose dilations are about to change."""
    if names := [name for name, conv in convs.items() if _is_padded_as_causal(conv)]:
        log.warning(
            "%s: padded by (kernel - 1) * dilation, as causal convs are; other dilations keep the kernel's centre in "
            "place, not its last tap, so that outputs depend on later inputs; the docstring of rfnext.conv "
            "says how to write causal convs that can be searched",
            ", ".join(names),
        )


def _is_padded_as_causal(conv: Conv) -> bool:
    """Whether an axis is padded by (k - 1) d on both sides: causal convs are, and their parents crop the end."""
    return not isinstance(conv.padding, str) and any(
        k > 1 and padding == (k - 1) * d
        for k, d, padding in zip(conv.kernel_size, conv.dilation, conv.padding, strict=True)
    )
