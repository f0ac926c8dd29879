"""Which convs can be searched, and why the others cannot.

A search evaluates a conv at several dilations at once, by overriding its `_conv_forward`. That fits torch's own convs,
with any parametrisation of the weight. A class with a forward() of its own fits only if forward() can be called with a
batch alone and passes it to `_conv_forward` once, in training and in evaluation. It may prepare or resample its input,
scale its weight or apply an activation, as subclasses in mmcv do, and have layers that convolve, but not pad or crop by
itself; where the last tap is the anchor, it may pad and crop by fixed amounts. `rfnext.convs.own_forward` finds that
out. A class that convolves by itself fits if it does so once, and pads as its dilation needs it: see
`rfnext.convs.redirected`.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import accumulate
from typing import TypeGuard

from torch import nn

from rfnext.convs.own_forward import way_to_search
from rfnext.convs.padding import Conv, kernel_to_search
from rfnext.convs.redirected import Way
from rfnext.convs.twin import type_of
from rfnext.dilation import searched_axis

Where = Callable[[str, Conv], bool]
"""Which convs are searched: called with a module's name, as in `model.named_modules()`, and the conv."""

Layers = Where | str | Sequence[str]
"""What `where` takes: a function, a glob of names, or a list of these.

A glob picks the convs of that name and all that are in a module of that name: "layer4", "blocks.*.conv2". One with "!"
in front leaves them out again; a list of such alone begins with all convs.
"""


def everything(name: str, conv: Conv) -> bool:
    """The `Where` that picks every conv that can be searched."""
    return True


def of_type(*classes: type[nn.Module]) -> Where:
    """The `Where` that picks convs of these classes: `of_type(torch.nn.Conv1d)`."""
    return lambda name, conv: isinstance(conv, classes)


def of_kernel(smallest: int, largest: int | None = None) -> Where:
    """The `Where` that picks convs with `smallest` to `largest` taps on the longest axis of their kernel.

    Both are included; `largest=None` is unbounded.
    """
    return lambda name, conv: (
        smallest <= max(conv.kernel_size) and (largest is None or max(conv.kernel_size) <= largest)
    )


def chosen(convs: Mapping[str, Conv], where: Layers) -> dict[str, Conv]:
    """Those of a network's convs that `where` picks; whether they can be searched is another question.

    Raises:
        ValueError: if a glob matches no conv.
        TypeError: if `where` is neither a function nor globs.
    """
    if callable(where):
        return {name: conv for name, conv in convs.items() if where(name, conv)}
    globs = [where] if isinstance(where, str) else list(where) if isinstance(where, Iterable) else [where]
    if not all(isinstance(glob, str) for glob in globs):
        raise TypeError(
            f"where is {where!r}, neither a function of a layer's name and conv nor a glob of names or a list; "
            'lambda name, conv: name.startswith("layer4."), for example, or "layer4"'
        )
    picked = set(convs) if globs and all(glob.startswith("!") for glob in globs) else set[str]()
    for glob in globs:
        found = _matching(convs, glob.removeprefix("!"))
        picked = picked - found if glob.startswith("!") else picked | found
    return {name: conv for name, conv in convs.items() if name in picked}


def _matching(convs: Iterable[str], glob: str) -> set[str]:
    """The names that a glob matches, or of which it matches a part from the start to a dot."""
    within = {name: list(accumulate(name.split("."), "{}.{}".format)) for name in convs}
    found = {name for name, parts in within.items() if any(part == glob or fnmatchcase(part, glob) for part in parts)}
    if not found:
        known = list(dict.fromkeys(part for parts in within.values() for part in parts))
        close = difflib.get_close_matches(glob, known, n=1) or known[-1:]
        raise ValueError(
            f"where: {glob!r} matches no conv of the model" + (f"; did you mean {close[0]!r}?" if close else "")
        )
    return found


def is_conv(module: nn.Module) -> TypeGuard[Conv]:
    """Whether the module is a 1-d, 2-d or 3-d convolution (transposed ones are not)."""
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def unsearchable(conv: Conv) -> str | None:
    """Why the dilation of `conv` cannot be searched, or None if it can."""
    return way_of_search(conv).reason


def way_of_search(conv: Conv) -> Way:
    """How the dilation of `conv` is searched, or why it is not."""
    if not any(map(searched_axis, kernel_to_search(conv))):
        return Way(
            f"its kernel {tuple(conv.kernel_size)} has no odd axis above 1, so no dilation to choose"
            + (
                '; an even one is searched where the last tap is in place, by anchor="last"'
                if max(conv.kernel_size) > 1
                else ""
            )
        )
    # Not conv.weight: reading a parametrised weight computes it, which in spectral_norm takes a step of its iteration.
    if isinstance(conv._parameters.get("weight"), nn.parameter.UninitializedParameter):
        return Way("its weight is not initialised yet; run one batch through the model first")
    if (dtype := type_of(conv)[0]).is_complex:
        return Way(
            f"its weight is {dtype}; only real ones are searched, so hold its real and imaginary part in a conv each"
        )
    return way_to_search(conv, plain_class(conv))


def plain_class(conv: Conv) -> type[nn.Module]:
    """The conv's class, or for a `SearchConv` the one that it had before it was taken over."""
    return getattr(type(conv), "plain_class", type(conv))
