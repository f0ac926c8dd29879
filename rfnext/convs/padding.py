"""Paddings: which one keeps a conv's output size, and its anchor's position, at another dilation.

The anchor is the tap that stays in place when a dilation changes: the kernel's centre, or its last tap in causal convs.
A conv that is anchored at its last tap carries that as an attribute, `rfnext_anchor`, also when it is no longer
searched, so that whatever moves its dilation next does it alike.

Plain convs of torch have one padding for both sides. A conv that needs another one before than after, or that has to
crop, gets padding_mode "constant", by which torch pads by F.pad and keeps the sides apart.
"""

import contextlib
import logging
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn

from rfnext.dilation import LARGEST, Dilation

log = logging.getLogger(__name__)

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d
"""A convolution that may be searched."""

Anchor = Literal["centre", "last"]
"""The tap that stays in place when a dilation changes: the kernel's centre, or its last tap, as causal convs need."""

Anchors = Anchor | tuple[Anchor, ...]
"""The anchor of a conv: one for all of its axes, or one per axis."""

_ANCHOR = "rfnext_anchor"

_SIZES, _COUNTS = ("kernel_size", "stride", "padding", "dilation"), ("in_channels", "out_channels", "groups")


def write_as_torch(conv: Conv) -> None:
    """Make a conv's numbers Python's integers, and its sizes tuples of these, as torch's own are.

    It may have been built with NumPy's, as by `dilation=d for d in 2 ** numpy.arange(10)`. One integer may have been
    set as an attribute, or a tuple of one, which torch takes for all axes. What it computes does not change. What is no
    integer is left as it is.
    """
    axes = len(conv.kernel_size)
    for name in _SIZES:
        value = getattr(conv, name)
        if type(value) is tuple and len(value) == axes and all(type(n) is int for n in value):
            continue
        sizes = value if isinstance(value, (tuple, list)) else (value,)
        with contextlib.suppress(TypeError):  # of what is no integer, such as padding "same"
            setattr(conv, name, tuple(map(operator.index, sizes)) * (axes if len(sizes) == 1 else 1))
    for name in _COUNTS:
        if type(value := getattr(conv, name)) is not int:
            with contextlib.suppress(TypeError):
                setattr(conv, name, operator.index(value))


def anchor_of(conv: Conv) -> tuple[Anchor, ...]:
    """The conv's anchor, per axis."""
    return vars(conv).get(_ANCHOR) or ("centre",) * len(conv.kernel_size)


def anchor_per_axis(anchor: Anchors, axes: int) -> tuple[Anchor, ...]:
    """The anchor of each of so many axes; raises ValueError if it is none."""
    anchors = (anchor,) * axes if isinstance(anchor, str) else tuple(anchor) if isinstance(anchor, tuple) else ()
    if len(anchors) != axes or not all(a in get_args(Anchor) for a in anchors):
        raise ValueError(
            f"anchor {anchor!r} is neither 'centre' nor 'last', nor {axes} of them, one per axis of the kernel"
        )
    return anchors


def set_anchor(conv: Conv, anchor: Anchors) -> None:
    """Let another tap of the conv stay in place from now on; what it computes now does not change.

    Raises ValueError if the anchor does not fit the conv.
    """
    anchors = anchor_per_axis(anchor, len(conv.kernel_size))
    if "last" in anchors and conv.padding_mode == "circular":
        raise ValueError("padding_mode 'circular' reads the input's end before its start, whatever the anchor")
    vars(conv).pop(_ANCHOR, None)
    if "last" in anchors:  # convs anchored at the centre are left without a trace
        vars(conv)[_ANCHOR] = anchors


AnchorOf = Anchors | Callable[[str, Conv], Anchors | None] | None
"""The anchors of a network: one for all convs, or a function of a layer's name and conv; None leaves a conv's as it is,
which is the centre unless a search or a structure has changed it before."""


@contextlib.contextmanager
def anchored(convs: Mapping[str, Conv], anchor: AnchorOf, restored: bool = False) -> Iterator[None]:
    """Give all convs their anchor, and the old one back if the block raises, or after it if `restored`.

    Raises ValueError, naming the layer, if an anchor does not fit.
    """
    before = [(conv, anchor_of(conv)) for conv in convs.values()]
    try:
        for name, conv in convs.items():
            own = anchor(name, conv) if callable(anchor) else anchor
            try:
                if own is not None and max(conv.kernel_size) > 1:  # of one tap, nothing moves
                    set_anchor(conv, own)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}") from None
        yield
    except BaseException:
        restored = True
        raise
    finally:
        if restored:
            for conv, old in before:
                set_anchor(conv, old)


def kernel_to_search(conv: Conv) -> tuple[int, ...]:
    """The kernel as `rfnext.dilation` counts it, where even axes keep their dilation because they have no centre.

    Anchored at the last tap they need none, and count as the next odd one.
    """
    return tuple(
        k + 1 if anchor == "last" and k % 2 == 0 else k
        for k, anchor in zip(conv.kernel_size, anchor_of(conv), strict=True)
    )


def check_dilation(dilation: Dilation, conv: Conv) -> None:
    """Raise ValueError unless `dilation` is one positive integer per axis of the conv's kernel."""
    if len(dilation) != len(conv.kernel_size):
        raise ValueError(f"dilation {dilation} has {len(dilation)} axes, the kernel {tuple(conv.kernel_size)} has not")
    if not all(type(d) is int and d >= 1 for d in dilation):  # bool is a type of its own here
        raise ValueError(f"dilation {dilation} is not made of positive integers")
    if max(dilation) > LARGEST:
        raise ValueError(f"dilation {dilation} is above {LARGEST}, more than any input is long")


def sides_of(conv: Conv) -> list[tuple[int, int]]:
    """The conv's padding (before, after) per axis; negative numbers crop."""
    if isinstance(conv.padding, str):
        same = conv.padding == "same"
        totals = [same * d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    symmetric = [(p, p) for p in map(int, conv.padding)]
    if conv.padding_mode == "zeros":
        return symmetric
    flat = conv._reversed_padding_repeated_twice
    kept = [(flat[i], flat[i + 1]) for i in range(len(flat) - 2, -1, -2)]
    # Other code may have set conv.padding since.
    agree = all((b + a) // 2 == p for (b, a), (p, _) in zip(kept, symmetric, strict=True))
    return kept if agree else symmetric


def size_keeping_padding(conv: Conv, dilation: Dilation) -> list[tuple[int, int]]:
    """Padding (before, after) per axis at which `conv` with another dilation keeps its output size.

    It also keeps the anchor in place: for the kernel's centre both sides grow by (d' - d) (k - 1) / 2, for its last tap
    the side before by (d' - d) (k - 1). Negative numbers crop.

    Raises ValueError if `dilation` does not fit the kernel, or an even kernel cannot keep the size.
    """
    check_dilation(dilation, conv)
    if conv.padding == "same" and "last" not in anchor_of(conv):
        totals = [d * (k - 1) for d, k in zip(dilation, conv.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return grown(sides_of(conv), conv.kernel_size, conv.dilation, dilation, anchor_of(conv))


def can_pad(conv: Conv, dilation: Dilation, size: Sequence[int]) -> bool:
    """Whether a plain conv with this dilation can pad an input of this size per axis; True if no size is known.

    By "reflect" torch pads by less than the input's size, by "circular" by no more than it.
    """
    if (beyond := {"reflect": -1, "circular": 0}.get(conv.padding_mode)) is None or not size:
        return True
    sides = size_keeping_padding(conv, dilation)
    return all(max(pair) <= n + beyond for pair, n in zip(sides, size, strict=True))


def grown(
    sides: Sequence[tuple[int, int]],
    kernel: Sequence[int],
    old: Sequence[int],
    new: Sequence[int],
    anchors: Sequence[Anchor],
) -> list[tuple[int, int]]:
    """Padding at dilation `new` that keeps the output's size and the anchor's place as `sides` have them at `old`.

    All per axis. Raises ValueError if an even kernel cannot keep the size.
    """
    found = []
    for axis, (k, d_new, d_old, (before, after), anchor) in enumerate(
        zip(kernel, new, old, sides, anchors, strict=True)
    ):
        growth = (d_new - d_old) * (k - 1)
        if anchor == "last":
            found.append((before + growth, after))
        elif growth % 2:
            raise ValueError(
                f"an even kernel {tuple(kernel)} cannot keep its size from dilation {d_old} to {d_new}; "
                f"leave axis {axis} as it is"
            )
        else:
            found.append((before + growth // 2, after + growth // 2))
    return found


def padding_attributes(conv: Conv, sides: list[tuple[int, int]]) -> dict[str, Any]:
    """The attributes of a plain conv that pads by `sides` (before, after) per axis."""
    mode = conv.padding_mode
    if conv.padding == "same" and "last" not in anchor_of(conv):
        padding: Any = "same"
    else:
        # Their mean, if they differ: formulas of the output size that read conv.padding stay right.
        padding = tuple((before + after) // 2 for before, after in sides)
        if mode in ("zeros", "constant"):
            mode = "zeros" if all(before == after >= 0 for before, after in sides) else "constant"
    return {
        "padding": padding,
        "padding_mode": mode,
        # torch keeps a second copy of the padding, last axis first, for the modes that pad by F.pad.
        "_reversed_padding_repeated_twice": [side for pair in reversed(sides) for side in pair],
    }


def warn_of_causal(model: nn.Module, convs: Mapping[str, Conv]) -> None:
    """Log the names of the convs that look causal, are anchored at the centre, and whose dilations are about to change.

    model: what the convs are in; a module in it with a true attribute `causal` is believed.
    """
    causal = {
        id(conv) for parent in model.modules() if getattr(parent, "causal", None) is True for conv in parent.modules()
    }
    if names := [name for name, conv in convs.items() if _looks_causal(conv, id(conv) in causal)]:
        log.warning(
            "%s: padded as causal convs are, by (kernel - 1) * dilation or by the parent module; other dilations keep "
            "the kernel's centre in place, so that outputs of a causal network would depend on later inputs; if it is "
            'causal, give anchor="last"; rfnext.is_causal(model, input) finds out',
            ", ".join(name or "The model itself" for name in names),
        )


def _looks_causal(conv: Conv, said: bool) -> bool:
    """Whether an axis is padded by (k - 1) d on both sides, or by nothing though dilated: causal convs are.

    Their parents crop the end or pad the start. said: whether a parent says so.
    """
    return not isinstance(conv.padding, str) and any(
        k > 1 and anchor == "centre" and (said or padding == (k - 1) * d or (padding == 0 and d > 1))
        for k, d, padding, anchor in zip(conv.kernel_size, conv.dilation, conv.padding, anchor_of(conv), strict=True)
    )
