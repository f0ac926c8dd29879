"""What decides whether a suite runs a cell again: its record, if it is done and has the planned protocol, is kept.

`benchmarks.run` always runs its cell. A search that several methods share is kept by itself, see `methods.stored`.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.records.record import Key, Record, Records


def is_current(record: Record, planned: Mapping[str, Any]) -> bool:
    """Whether a cell with the planned protocol needs no run, since this record of it is done and has that protocol."""
    return record.status == "done" and record.protocol == planned


def kept(key: Key, planned: Mapping[str, Any], records: Records, *, committed: bool = False) -> Record | None:
    """The cell's record if it is current; otherwise None, and the cell has to be run.

    A record that was not run in this folder (one that came with the repository) counts only if `committed` is set:
    users who run the benchmark want to see it run.
    """
    record = records.by_key.get(key)
    if record is None or (key not in records.own and not committed):
        return None
    return record if is_current(record, planned) else None
