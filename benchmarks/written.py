"""What a finished cell has found and where it wrote what, in lines for a person."""

from collections.abc import Mapping, Sequence

from benchmarks.cell import Cell
from benchmarks.records.record import Record

MOST = 40
"""Layers whose dilations are printed."""


def written(cell: Cell, record: Record) -> list[str]:
    """The dilations before and after, and the paths of record, network, structure, pictures."""
    said = [f"dilations: {moved}"] if (moved := dilations(record)) else []
    said.append(f"record: {record.key.path(cell.results)}")
    if record.status != "done":
        return said
    files = {"network": cell.model, "structure": cell.structure}
    said += [f"{name}: {path}" for name, path in files.items() if path.exists()]
    return said + [f"picture: {cell.results / name}" for name in record.pictures]


def dilations(record: Record) -> str:
    """Those of the searched layers before and after the search; nothing without one."""
    before = next((seen["structure"] for seen in record.history if seen["step"] == 0), None)
    after = record.structure
    if not after or not record.search.epochs:
        return ""
    if not before or before.keys() != after.keys():
        return f"found {_line(after)}"
    if all(tuple(before[name]) == tuple(after[name]) for name in before):
        return f"{_line(before)}; none has moved"
    return f"{_line(before)} -> {_line(after)}"


def _line(structure: Mapping[str, Sequence[int]]) -> str:
    shown = ["x".join(map(str, d if len(set(d)) > 1 else d[:1])) for d in structure.values()]
    return " ".join(shown[:MOST]) + (f" ... ({len(shown)} layers)" if len(shown) > MOST else "")
