"""What decides whether a suite runs a cell again: its record, if it is done and has the planned protocol, is kept.

`benchmarks.run` always runs its cell. A search that several methods share is kept by itself, see `methods.stored`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.records.folder import Records
from benchmarks.records.machine import code
from benchmarks.records.protocol import of_files, same_but_data
from benchmarks.records.record import Key, Record


def is_current(record: Record, planned: Mapping[str, Any]) -> bool:
    """Whether a cell with the planned protocol needs no run, since this record of it is done and has that protocol.

    Where the files of the data are not here, the plan has only what tables call it, and data of that name is the same.
    """
    same_data = planned["data"] in (record.protocol.get("data"), record.data)
    return record.status == "done" and same_data and same_but_data(record.protocol, planned)


def kept(key: Key, planned: Mapping[str, Any], records: Records, *, committed: bool = False) -> Record | None:
    """The cell's record if it is current; otherwise None, and the cell has to be run.

    A record that was not run in this folder (one that came with the repository) counts only if `committed` is set:
    users who run the benchmark want to see it run.
    """
    record = records.by_key.get(key)
    if record is None or (key not in records.own and not committed):
        return None
    return record if is_current(record, planned) else None


def data_change(key: Key, planned: Mapping[str, Any], data: str, records: Records) -> str | None:
    """What to say of a cell that has a record of other data and the same protocol otherwise; None if it has none.

    Args:
        key: of the cell.
        planned: its protocol.
        data: what tables call its data. Records of data of that name count under any preset, since names of presets of
            own data follow its files.
        records: of the results folder.
    """
    if not of_files(planned):
        return None
    found = [
        record
        for record in records.done.get((key.task, key.method, key.fold, key.seed), ())
        if (record.preset == key.preset or record.data == data)
        and record.protocol.get("data") != planned["data"]
        and same_but_data(record.protocol, planned)
    ]
    if not found:
        return None
    latest = max(found, key=lambda record: (record.preset == key.preset, record.finished))
    of = f"the record of {latest.finished[:16].replace('T', ' ')}"
    of += f" (in {latest.preset}, where it stays)" if latest.preset != key.preset else ""
    if of_files(latest.protocol):
        return f"data changed since {of}"
    return f"{of} does not say which files it was measured on"


def code_change(task: str, kept: Sequence[Record]) -> str | None:
    """What to say of kept records that other code of the task has made; None if there are none.

    Whether a change matters only its author knows: the protocol has the task's version alone.
    """
    made_by = [record.code for record in kept if record.code is not None]
    # Sources are read only if a record can be compared with them: a plan of committed cells waits for nothing.
    older = len(made_by) - made_by.count(code(f"tasks/{task}")) if made_by else 0
    if not older:
        return None
    return (
        f"tasks/{task} has changed since {older} of the kept cells {'were' if older > 1 else 'was'} run; if results "
        "change by that, raise `version` in its task.py, which runs them anew"
    )
