"""Deep copies of searched convs: which are alive, so that a search can tell when they are averaged wrongly (EMA)."""

import weakref

from torch import nn

_copies: "weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[nn.Module]]" = weakref.WeakKeyDictionary()


def note_copy(original: nn.Module, copy: nn.Module) -> None:
    """Remember that `copy` is a deep copy of `original`, as long as both exist."""
    _copies.setdefault(original, weakref.WeakSet()).add(copy)


def forget_copy(copy: nn.Module) -> None:
    """Let `copy` count as a conv of its own."""
    for copies in _copies.values():
        copies.discard(copy)


def copies_of(original: nn.Module) -> list[nn.Module]:
    """The deep copies of `original` that exist."""
    return list(_copies.get(original, ()))
