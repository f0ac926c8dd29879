"""The rounds of a search as a short state: what names and lists of lists would repeat in every round is left out."""

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from typing import Any

from rfnext.search.protocol import Round


def pack(history: Sequence[Round], initial: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """The rounds as numbers, lists and dicts: flat lists over the layers, in the order of their names.

    Per round: "branches", how many each layer had; "dilations", "probability" and "structure" of all layers in a row.
    What is as in the round before is left out: a one-shot search never changes its branches.
    """
    names = sorted(initial)  # not the mapping's order, which a JSON file may not keep
    packed: list[dict[str, Any]] = []
    last: dict[str, Any] = {}
    for seen in history:
        entry = {
            "branches": [len(seen.dilations[name]) for name in names],
            "dilations": [d for name in names for d in chain.from_iterable(seen.dilations[name])],
            "probability": [p for name in names for p in seen.probability[name]],
            "structure": [d for name in names for d in seen.structure[name]],
        }
        changed = {key: values for key, values in entry.items() if values != last.get(key)}
        packed.append({"step": seen.step, **changed})
        last = entry
    return packed


def unpack(packed: Sequence[Mapping[str, Any]], initial: Mapping[str, Sequence[int]]) -> list[Round]:
    """The rounds that `pack` was given, also from states before it, which are those of `Round.state_dict`.

    Raises ValueError, naming the round, if one is of other layers or damaged.
    """
    axes = {name: len(initial[name]) for name in sorted(initial)}
    history: list[Round] = []
    last: dict[str, Any] = {}
    for number, entry in enumerate(packed, start=1):
        if isinstance(entry.get("structure"), Mapping):
            history.append(Round.from_state(entry))
            continue
        last = {**last, **entry}
        try:
            history.append(_round(last, axes))
        except (KeyError, ValueError):
            raise ValueError(f"round {number} of the history is not one of {len(axes)} layers") from None
    return history


def _round(entry: Mapping[str, Any], axes: Mapping[str, int]) -> Round:
    """The round of an entry with all its parts; axes: their number by layer."""
    branches = dict(zip(axes, entry["branches"], strict=True))
    shares = _cut(entry["probability"], list(branches.values()))
    structure = _cut(entry["structure"], list(axes.values()))
    dilations = iter(_cut(entry["dilations"], [axes[name] for name, count in branches.items() for _ in range(count)]))
    return Round(
        step=int(entry["step"]),
        dilations={name: [tuple(next(dilations)) for _ in range(count)] for name, count in branches.items()},
        probability=dict(zip(axes, shares, strict=True)),
        structure={name: tuple(d) for name, d in zip(axes, structure, strict=True)},
    )


def _cut(values: Sequence[Any], lengths: Sequence[int]) -> list[list[Any]]:
    """The values in pieces of these lengths."""
    if len(values) != sum(lengths):
        raise ValueError
    rest = iter(values)
    return [list(islice(rest, length)) for length in lengths]
