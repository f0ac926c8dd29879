"""All records of a results folder: those that were run in it, and those that came with the repository."""

import contextlib
import functools
import gc
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.lines import Broken, read_lines
from benchmarks.records.record import Key, Record, RecordError, read

Place = tuple[str, str, int, int]
"""Task, method, fold and seed."""


@dataclass(frozen=True)
class Records:
    """What a results folder holds.

    by_key: its records. broken: what cannot be used, and why. own: keys of the records that were run in this folder.
    failed: why cells failed in this folder that have a finished record in a .jsonl file, which is the one in `by_key`.
    places: file and line of each record.
    """

    by_key: Mapping[Key, Record]
    broken: list[Broken]
    own: frozenset[Key]
    failed: Mapping[Key, str]
    places: Mapping[Key, str]

    @functools.cached_property
    def all(self) -> list[Record]:
        """All records, in the order of their keys."""
        return [self.by_key[key] for key in sorted(self.by_key)]

    @functools.cached_property
    def done(self) -> Mapping[Place, list[Record]]:
        """The finished records of every task, method, fold and seed, of all presets."""
        found: dict[Place, list[Record]] = {}
        for record in self.all:
            if record.status == "done":
                found.setdefault((record.task, record.method, record.fold, record.seed), []).append(record)
        return found


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """No search for circular garbage: among many records that are kept it takes two thirds of the time of reading."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@_without_collection()
def read_all(results: Path) -> Records:
    """All records of a results folder: those that were run in it, and for other cells those of its .jsonl files.

    Of histories, which are most of what the files hold, only that of each row's first fold and seed is kept.
    """
    found: dict[Key, Record] = {}
    places: dict[Key, str] = {}
    broken: list[Broken] = []
    sharing = _Sharing()
    for path in sorted(results.glob("*/records.jsonl")):
        records, faults = read_lines(path)
        broken += faults
        for number, record in records.items():
            if path.parent.name != (folder := f"{record.task}-{record.preset}"):
                said = f"{path}:{number}: {record.key} belongs in {results / folder}; move it there"
                broken.append(Broken(path, said))
                continue
            found[record.key], places[record.key] = sharing.of(record), f"{path}:{number}"
    own: set[Key] = set()
    failed: dict[Key, str] = {}
    histories = _Histories()
    for path in sorted((results / "runs").glob("*/*/*/*.json")):
        try:
            record = read(path)
        except (RecordError, FileNotFoundError) as error:
            key = Key.of(path)
            broken.append(Broken(path, str(error), () if key is None else (key,)))
            continue
        if (current := record.key.path(results)) != path and current.exists():
            continue  # run again since its method was renamed
        # A run that failed, for want of the data say, does not hide the result that came with the repository.
        if record.status == "failed" and (before := found.get(record.key)) and before.status == "done":
            failed[record.key] = record.reason or ""
            continue
        found[record.key], places[record.key] = sharing.of(record), str(path)
        own.add(record.key)
        if record.history and (later := histories.keep(record)) is not None:
            found[later] = found[later].model_copy(update={"history": []})
    return Records(found, broken, frozenset(own), failed, places)


class _Histories:
    """Which record of each row of each table keeps its history: the finished one of the first fold and seed."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, str], Key] = {}

    def keep(self, record: Record) -> Key | None:
        """Take one more record; returns the key of the one that loses its history, if one does."""
        key = record.key
        before = self._first.setdefault(key[:3], key)
        if before == key:
            return None
        if record.status != "done" or before < key:
            return key
        self._first[key[:3]] = key
        return before


class _Sharing:
    """Gives equal protocols, versions and the like of many records one place in memory."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Any] = {}

    def of(self, record: Record) -> Record:
        """The record with parts that it shares with those before."""
        update = {}
        for name in ("protocol", "metric_specs", "device", "versions", "overrides"):
            value = getattr(record, name)
            text = json.dumps(value, default=vars)
            update[name] = self._known.setdefault((name, text), value)
        return record.model_copy(update=update)
