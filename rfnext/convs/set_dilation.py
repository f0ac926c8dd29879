"""Another dilation for a conv, searched or plain, that keeps its output size and the position of its anchor."""

from rfnext.convs.own_forward import way_to_search, why_not_in_place
from rfnext.convs.padding import Conv, padding_attributes, size_keeping_padding
from rfnext.convs.searchable import plain_class
from rfnext.convs.twin import Searched
from rfnext.dilation import Dilation

PADS = "rfnext_pads_by_dilation"
"""Attribute of a searched conv: what `pads_by_dilation` found before."""


def set_dilation(conv: Conv, dilation: Dilation) -> None:
    """Give a conv another dilation and the padding that keeps its output size and the position of its anchor.

    The padding moves with the dilation, as `size_keeping_padding` says, so explicit paddings (0, or those of strided
    convs) keep their meaning. A padding that differs before and after, or crops, makes padding_mode "zeros" "constant".
    If the conv's class has a forward() of its own that cannot be tried, the log warns that its place is not verified.

    Raises:
        ValueError: if `dilation` does not fit the conv's number of axes or is not positive; if an even kernel makes
            it impossible to keep the size; or if the conv's class pads or crops in a forward() of its own.
    """
    if not isinstance(conv, Searched):
        check_plain(conv, dilation)
    set_checked_dilation(conv, dilation)


def set_checked_dilation(conv: Conv, dilation: Dilation) -> None:
    """What `set_dilation` does, for a dilation that `check_plain` has accepted."""
    if not pads_by_dilation(conv):
        set_padding(conv, size_keeping_padding(conv, dilation))
    conv.dilation = dilation


def pads_by_dilation(conv: Conv) -> bool:
    """Whether the conv's class pads by its dilation in a forward() of its own, so that its padding stays as it is."""
    known = vars(conv).get(PADS)
    return way_to_search(conv, plain_class(conv)).pads if known is None else known


def set_padding(conv: Conv, sides: list[tuple[int, int]]) -> None:
    """Let a conv pad by `sides` (before, after) per axis; negative numbers crop."""
    for name, value in padding_attributes(conv, sides).items():
        setattr(conv, name, value)


def check_plain(conv: Conv, dilation: Dilation) -> None:
    """Raise ValueError unless a plain conv can keep the output size of `conv` at another dilation."""
    size_keeping_padding(conv, dilation)
    if dilation != tuple(conv.dilation) and (reason := why_not_in_place(conv, plain_class(conv), dilation)):
        raise ValueError(reason)
