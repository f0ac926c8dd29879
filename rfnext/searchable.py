"""Which convs can be searched, and why the others cannot.

A search evaluates a conv at several dilations at once, by overriding its `_conv_forward`. That fits torch's own convs,
with any parametrisation of the weight. A class with a forward() of its own fits only if forward() can be called with a
batch alone and passes it to `_conv_forward` once, in training and in evaluation. It may prepare or resample its input,
scale its weight or apply an activation, as subclasses in mmcv do, and have layers that convolve, but not convolve, pad
or crop by itself; where the last tap is the anchor, it may pad and crop by fixed amounts. `rfnext.own_forward` finds
that out.
"""

from collections.abc import Callable
from typing import TypeGuard

from torch import nn

from rfnext.dilation import searched_axis
from rfnext.own_forward import why_unsearchable
from rfnext.padding import Conv, kernel_to_search

Where = Callable[[str, Conv], bool]
"""Which convs are searched: called with a module's name, as in `model.named_modules()`, and the conv."""


def everything(name: str, conv: Conv) -> bool:
    """The `Where` that picks every conv that can be searched."""
    return True


def is_conv(module: nn.Module) -> TypeGuard[Conv]:
    """Whether the module is a 1-d, 2-d or 3-d convolution (transposed ones are not)."""
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def unsearchable(conv: Conv) -> str | None:
    """Why the dilation of `conv` cannot be searched, or None if it can."""
    if not any(map(searched_axis, kernel_to_search(conv))):
        return f"its kernel {tuple(conv.kernel_size)} has no odd axis above 1, so no dilation to choose" + (
            '; an even one is searched where the last tap is in place, by anchor="last"'
            if max(conv.kernel_size) > 1
            else ""
        )
    # Not conv.weight: reading a parametrised weight computes it, which in spectral_norm takes a step of its iteration.
    if isinstance(conv._parameters.get("weight"), nn.parameter.UninitializedParameter):
        return "its weight is not initialised yet; run one batch through the model first"
    return why_unsearchable(conv, plain_class(conv))


def plain_class(conv: Conv) -> type[nn.Module]:
    """The conv's class, or for a `SearchConv` the one that it had before it was taken over."""
    return getattr(type(conv), "plain_class", type(conv))
