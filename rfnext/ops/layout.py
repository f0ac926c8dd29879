"""Where the elements of a tensor lie in memory: channels first or channels last, and copies between the two."""

from collections.abc import Sequence

from torch import Tensor


def order(x: Tensor) -> str:
    """In which order its elements lie in memory, as far as times differ: "contiguous", "channels last" or "other"."""
    if x.is_contiguous():
        return "contiguous"
    return "channels last" if channels_are_last(x) else "other"


def channels_are_last(x: Tensor) -> bool:
    """Whether x (batch, channel, *size) is stored as torch.channels_last, or the same for other numbers of axes."""
    return not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def empty(like: Tensor, shape: Sequence[int], channel_last: bool) -> Tensor:
    """An uninitialised tensor of the logical shape (batch, channel, *size), with the dtype and device of `like`."""
    if channel_last:
        return like.new_empty(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    return like.new_empty(shape)


def copy(source: Tensor, target: Tensor) -> None:
    """Copy (batch, channel, *size) into another layout, both dense.

    One matrix at a time: torch copies transposed matrices several times as fast as tensors of more axes.
    """
    for s, t in zip(source.flatten(2), target.flatten(2), strict=True):
        if t.is_contiguous():
            t.copy_(s)
        else:
            t.t().copy_(s.t())


def laid_out(x: Tensor, channel_last: bool) -> Tensor:
    """x (batch, channel, *size) in the given layout, copied only if it has the other one."""
    if (x.movedim(1, -1) if channel_last else x).is_contiguous():
        return x
    target = empty(x, x.shape, channel_last)
    copy(x, target)
    return target
