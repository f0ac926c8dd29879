"""Structure: which conv has which dilation. Read from a model, applied to a model, kept in a file."""

import difflib
import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from torch import nn

from rfnext import files
from rfnext.causal import check_parents
from rfnext.convs.conv import SearchConv
from rfnext.convs.deployment import guard
from rfnext.convs.padding import (
    AnchorOf,
    Anchors,
    Conv,
    anchor_of,
    anchor_per_axis,
    anchored,
    check_dilation,
    warn_of_causal,
    write_as_torch,
)
from rfnext.convs.searchable import Layers, chosen, everything, is_conv, unsearchable
from rfnext.convs.set_dilation import check_plain, set_checked_dilation
from rfnext.convs.take_over import check_release, release
from rfnext.dilation import LARGEST, Dilation

FORMAT = "rfnext-structure"
LONGEST_NAME = 500
"""Characters of a layer's name in a file."""

VERSIONS = (1, 2)
"""Of structure files. Those with anchors are of version 2, which versions of rfnext that know no anchors refuse."""

# Wrappers put these into the names of the modules that they wrap.
_WRAPPER_PARTS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def canonical(name: str) -> str:
    """A module's name without what wrappers add: "module." in front (DDP), "_orig_mod." anywhere (torch.compile)."""
    parts = [part for part in name.split(".") if part not in _WRAPPER_PARTS]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def named_convs(model: nn.Module) -> dict[str, Conv]:
    """All convs of a model by canonical name, in module order; a shared conv once, by its first name.

    Raises ValueError if two of them have the same.
    """
    return {name: module for name, module in _named_modules(model).items() if is_conv(module)}


def searched_convs(model: nn.Module) -> dict[str, SearchConv]:
    """All SearchConvs of a model by canonical name; raises ValueError as `named_convs` does."""
    return {name: conv for name, conv in named_convs(model).items() if isinstance(conv, SearchConv)}


def _named_modules(model: nn.Module, remove_duplicate: bool = True) -> dict[str, nn.Module]:
    """Modules by canonical name; of several with the same, like a wrapper and what it wraps, the conv."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"not a network (torch.nn.Module) but {type(model).__name__}; load a state_dict into one first")
    found: dict[str, tuple[str, nn.Module]] = {}
    for name, module in model.named_modules(remove_duplicate=remove_duplicate):
        if is_conv(module):
            write_as_torch(module)
        first, known = found.get(canonical(name), (name, None))
        if known is None or not is_conv(known):
            found[canonical(name)] = name, module
        elif is_conv(module) and module is not known:
            raise ValueError(
                f"two convs are called {canonical(name)!r}: {first!r} and {name!r}; rename one, since 'module' in "
                "front is what DDP adds to names"
            )
    return {name: module for name, (_, module) in found.items()}


class EveryAxis(tuple[int, ...]):
    """What an integer entry of a `Structure` reads as: one number, for as many axes as the conv has."""


class Structure(Mapping[str, Dilation]):
    """An immutable mapping from module names, as in `model.named_modules()`, to dilations.

    Names are canonical: the same structure fits a model whether or not it is wrapped by DDP or torch.compile.
    Two structures are equal if they map the same names to the same dilations, at the same anchors.

    An integer, as in the older published files, means "on every axis". Only a model says how many axes those are, so it
    stays one number until `match` or `apply`, and {"conv": 2} does not equal {"conv": (2, 2)}:
    `Structure({name: d for name, _, d in structure.match(model)}, structure.anchors)` spreads it out. The entry
    is read as an `EveryAxis` of that number, which a Structure takes for the integer again. `dict(structure)` has the
    dilations alone, without `anchors`.

    Args:
        dilations: by layer.
        anchor: the tap that stays in place when a conv takes its dilation: "last" in causal convs, for all layers or by
            layer, and per axis as a tuple. Layers without one keep their conv's: "centre", unless a search or a
            structure with anchors has changed the conv before.

    Raises:
        ValueError: for an entry that is not a positive integer or a sequence of them, two names that are the same, or
            an anchor that is none or of a layer without an entry.
    """

    def __init__(
        self, dilations: Mapping[str, Dilation | int], anchor: Mapping[str, Anchors | None] | Anchors | None = None
    ) -> None:
        self._dilations: dict[str, Dilation | int] = {}
        self._anchors: dict[str, Anchors] = {}
        for name, dilation in dilations.items():
            if canonical(name) in self._dilations:
                raise ValueError(f"layer {canonical(name)!r} appears twice")
            self._dilations[canonical(name)] = _checked(name, dilation)
        anchors = anchor if isinstance(anchor, Mapping) else dict.fromkeys(dilations, anchor)
        for name, own in anchors.items():
            if canonical(name) not in self._dilations:
                raise ValueError(f"there is an anchor for layer {name!r}, but no dilation{_closest(name, self)}")
            if own is not None:
                self._anchors[canonical(name)] = _checked_anchor(name, own, self._dilations[canonical(name)])

    def __getitem__(self, name: str) -> Dilation:
        dilation = self._dilations[canonical(name)]
        return EveryAxis((dilation,)) if isinstance(dilation, int) else dilation

    def __iter__(self) -> Iterator[str]:
        return iter(self._dilations)

    def __len__(self) -> int:
        return len(self._dilations)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and (self._dilations, self.anchors) == (other._dilations, other.anchors)

    def __hash__(self) -> int:
        return hash((frozenset(self._dilations.items()), frozenset(self.anchors.items())))

    def __repr__(self) -> str:
        return f"Structure({self._dilations}{f', {self.anchors}' if self.anchors else ''})"

    @property
    def anchors(self) -> dict[str, Anchors]:
        """The anchors by layer, without those at the centre on every axis; a word where all axes have the same."""
        return {name: anchor for name, anchor in self._anchors.items() if anchor != "centre"}

    @classmethod
    def of(cls, convs: Mapping[str, Conv], dilations: Mapping[str, Dilation] | None = None) -> Self:
        """The structure of convs by name: their anchors, and their dilations if no others are given."""
        found = {name: tuple(conv.dilation) for name, conv in convs.items()} if dilations is None else dilations
        return cls(found, {name: anchor for name in found if "last" in (anchor := anchor_of(convs[name]))})

    @classmethod
    def read(
        cls,
        model: nn.Module,
        where: Layers = everything,
        anchor: AnchorOf = None,
    ) -> Self:
        """The dilations of a model's searchable convs; for a SearchConv that of its centre.

        anchor: as in `LocalSearch`; the model itself is left as it is.
        """
        convs = chosen(named_convs(model), where)
        with anchored(convs, anchor, restored=True):
            return cls.of({name: conv for name, conv in convs.items() if unsearchable(conv) is None})

    def apply(self, model: nn.Module, where: Layers | None = None) -> None:
        """Set the dilations of the model's convs, as plain convs; their output sizes and the anchors' places stay.

        A SearchConv among them is released. Nothing is changed if anything is wrong. With padding_mode "reflect" or
        "circular" a padding that is too large for the input is an error in the next forward(): torch raises
        RuntimeError there, where a searched conv continues to reflect or wrap.

        Args:
            model: has a conv of every name in the structure. Other convs are left as they are.
            where: if given, every searchable conv that it picks must have an entry.

        Raises:
            ValueError: naming the layer, for one that the model lacks, that is no conv, whose number of axes
                differs, that pads in a forward() of its own, that is searched with another anchor, or that `where`
                picks but has no entry.
        """
        pairs = list(self.match(model))
        if where is not None:
            for name, conv in chosen(named_convs(model), where).items():
                if name not in self and unsearchable(conv) is None:
                    raise ValueError(f"the structure has no entry for layer {name!r}{_closest(name, self)}")
        with anchored({name: conv for name, conv, _ in pairs}, self.anchor):
            for name, conv, dilation in pairs:
                try:
                    check_plain(conv, dilation)
                    if isinstance(conv, SearchConv):
                        check_release(conv)
                except ValueError as error:
                    raise ValueError(f"layer {name!r}: {error}") from None
            moved = {name: conv for name, conv, dilation in pairs if dilation != tuple(conv.dilation)}
            check_parents(model, moved)
        warn_of_causal(model, moved)
        for _, conv, dilation in pairs:
            set_checked_dilation(conv, dilation)
            if isinstance(conv, SearchConv):
                release(conv)
        guard(model, {name: conv for name, conv, _ in pairs})

    def anchor(self, name: str, conv: Conv) -> Anchors | None:
        """The anchor that the conv gets by this name; None to leave it as it is.

        Raises ValueError if the conv is searched with another one.
        """
        own = self._anchors.get(canonical(name))
        axes = len(conv.kernel_size)
        if own is not None and isinstance(conv, SearchConv) and anchor_per_axis(own, axes) != anchor_of(conv):
            raise ValueError(
                f"layer {name!r} is searched with anchor {anchor_of(conv)}, the structure was found with {own!r}"
            )
        return own

    def match(self, model: nn.Module) -> Iterator[tuple[str, Conv, Dilation]]:
        """(name, conv, dilation with one entry per axis) for every entry; raises ValueError as `apply` does."""
        modules = _named_modules(model, remove_duplicate=False)
        for name, dilation in self._dilations.items():
            if name not in modules:
                raise ValueError(
                    f"layer {name!r} of the structure is not in the model{_closest(name, named_convs(model))}"
                )
            conv = modules[name]
            if not is_conv(conv):
                raise ValueError(f"layer {name!r} of the structure is a {type(conv).__name__} in the model, not a conv")
            full = (dilation,) * len(conv.kernel_size) if isinstance(dilation, int) else dilation
            try:
                check_dilation(full, conv)
            except ValueError as error:
                raise ValueError(f"layer {name!r}: {error}; is this the structure of another model?") from None
            yield name, conv, full

    def save(self, path: str | Path) -> None:
        """Write the structure as JSON, atomically.

        Raises OSError, naming the file, if it cannot be written; an older file is kept then.
        """
        content = {
            "format": FORMAT,
            "version": 2 if self.anchors else 1,
            "structure": {name: d if isinstance(d, int) else list(d) for name, d in self._dilations.items()},
            **({"anchor": self.anchors} if self.anchors else {}),
        }
        files.write_text(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a structure file: our own, or `local_search_config_stepN.json` of the published code.

        The published files exist in three formats, which differ in the names of their settings and, in the oldest, of
        the structure itself ("model"); dilations are integers or lists.

        Raises:
            ValueError: naming the file, and the layer where one is at fault.
            OSError: if the file cannot be read.
        """
        try:
            content = files.read_json(path)
        except ValueError as error:
            raise ValueError(f"{path} is not a readable JSON file: {error}") from None
        entries, anchors = None, {}
        if isinstance(content, dict):
            if content.get("format", FORMAT) != FORMAT or content.get("version", 1) not in VERSIONS:
                raise ValueError(
                    f"{path} is a {reprlib.repr(content.get('format', FORMAT))} file of version "
                    f"{reprlib.repr(content.get('version'))}; "
                    f"this version of rfnext reads {FORMAT!r} versions {', '.join(map(str, VERSIONS))}"
                )
            anchors = content.get("anchor", {})
            entries = content.get("structure", content.get("model"))
        if not isinstance(entries, dict):
            raise ValueError(
                f"{path} is not a structure file: expected an object with a key 'structure' (or, in the oldest "
                "published files, 'model') that maps layer names to dilations"
            )
        if not entries:
            raise ValueError(f"{path} holds an empty structure; was the search run on a model without convs?")
        try:
            if not isinstance(anchors, dict):
                raise ValueError(f"'anchor' is {reprlib.repr(anchors)}, not an object that maps layer names to anchors")
            if (longest := max(map(len, [*entries, *anchors]))) > LONGEST_NAME:
                raise ValueError(f"the name of a layer has {longest} characters")
            return cls(entries, anchors)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _checked(name: str, dilation: Any) -> Dilation | int:
    if isinstance(dilation, EveryAxis) and len(dilation) == 1:
        dilation = dilation[0]
    dilation = getattr(dilation, "tolist", lambda: dilation)()  # of NumPy or torch
    values = dilation if isinstance(dilation, (list, tuple)) else [dilation]
    values = [getattr(d, "tolist", lambda d=d: d)() for d in values]
    # bool is an int to Python, but not a dilation.
    if not values or not all(isinstance(d, int) and not isinstance(d, bool) and d >= 1 for d in values):
        shown = reprlib.repr(dilation)
        raise ValueError(f"layer {name!r}: dilation {shown} is not a positive integer or a list of them")
    if max(values) > LARGEST:
        raise ValueError(f"layer {name!r}: a dilation is above {LARGEST}, more than any input is long")
    return values[0] if isinstance(dilation, int) else tuple(values)


def _checked_anchor(name: str, anchor: Any, dilation: Dilation | int) -> Anchors:
    """The anchor as one word where all axes have the same."""
    anchor = tuple(anchor) if isinstance(anchor, list) else anchor
    try:
        anchors = anchor_per_axis(anchor, 1 if isinstance(dilation, int) else len(dilation))
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from None
    return anchors[0] if len(set(anchors)) == 1 else anchors


def _closest(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
