"""Many records in one .jsonl file, one line per cell, without histories: what is committed.

A line {"context": n, ...} holds what many cells have in common (protocol, versions, device, names of the layers). The
lines of the cells that follow name it by its number and list their dilations in its order.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from benchmarks.records.record import LONGEST, SCHEMA, Key, Record, checked, said, shortened, without_history
from rfnext.files import parse_json, reason, write_text

CONTEXT = ("protocol", "metric_specs", "data", "published", "device", "versions", "code", "overrides", "schema_version")
"""Fields that many cells of a .jsonl file have in common."""

MEND = "restore the file: git checkout, or copy it anew"


class Broken(NamedTuple):
    """What cannot be used of a file. said: names the file, the line and the field. keys: of the cells that it is of."""

    path: Path
    said: str
    keys: tuple[Key, ...] = ()

    def __str__(self) -> str:
        return self.said


class Lines(NamedTuple):
    """What a .jsonl file holds: records by the number of their line, from 1, and what is broken."""

    records: dict[int, Record]
    broken: list[Broken]


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write records without their histories to a .jsonl file, one line per cell, whole or not at all."""
    contexts: dict[str, int] = {}
    lines = []
    for record in sorted(records, key=lambda record: record.key):
        fields = without_history(record).model_dump(mode="json")
        context = {name: fields.pop(name) for name in CONTEXT}
        if context["code"] is None:  # committed lines from before it was kept stay as they are
            del context["code"]
        if fields["structure"] is not None:
            context["layers"] = list(fields["structure"])
            fields["structure"] = list(fields["structure"].values())
        text = line_of(context)
        if text not in contexts:
            contexts[text] = len(contexts)
            lines.append(line_of({"context": contexts[text]} | context))
        lines.append(line_of(fields | {"in_context": contexts[text]}))
    write_text(path, "".join(f"{line}\n" for line in lines))


def line_of(content: dict[str, Any]) -> str:
    """An object as a line of a .jsonl file, without its end."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


def read_lines(path: Path) -> Lines:
    """The records of a .jsonl file. A line that is none is named and left out; so are lines that differ on one cell."""
    reader = _Reader(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no file")
        with open(path, "rb") as file:
            for number, line in enumerate(_limited(file), 1):
                reader.take(number, line)
    except OSError as error:
        return Lines({}, [Broken(path, f"{path}: cannot be read ({reason(error)}); {MEND}")])
    return Lines(reader.records, reader.broken)


def _limited(file: Any) -> Iterator[bytes]:
    """The lines of a file; of one that is too long, the beginning."""
    while line := file.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and not line.endswith(b"\n"):
            line = file.readline(LONGEST + 1)


class _Reader:
    """Takes line after line. contexts: by their numbers, with the line that each is on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[int, Record] = {}
        self.contexts: dict[int, tuple[int, dict[str, Any]]] = {}
        self._lines: dict[Key, int] = {}
        self._faults: dict[tuple[int, str], list[Key]] = {}

    @property
    def broken(self) -> list[Broken]:
        """What is wrong, in the order of the lines. What is wrong with a context is said once."""
        return [
            Broken(self.path, f"{self.path}:{number}: {what}; {MEND}", tuple(keys))
            for (number, what), keys in sorted(self._faults.items())
        ]

    def take(self, number: int, line: bytes) -> None:
        """One more line."""
        content: Any = None
        try:
            if len(line) > LONGEST:
                raise ValueError(f"it has more than {LONGEST} bytes")
            content = parse_json(line.decode("utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"it is a JSON {type(content).__name__}")
            if "context" in content:
                self._context(number, content)
            else:
                self._record(number, content)
        except (ValueError, RecursionError) as error:
            self._fault(number, f"not a line of a record ({shortened(str(error))})", content)

    def _context(self, number: int, content: dict[str, Any]) -> None:
        name = content.pop("context")
        if type(name) is not int or name in self.contexts:
            raise ValueError("its number of a context is no number, or another line's")
        self.contexts[name] = number, content

    def _record(self, number: int, content: dict[str, Any]) -> None:
        name = content.pop("in_context", None)
        if type(name) is not int or name not in self.contexts:
            raise ValueError("in_context names no context of a line before")
        place, context = self.contexts[name]
        if twice := content.keys() & context.keys():
            raise ValueError(f"{min(twice)} is also in its context")
        layers = context.get("layers")
        whole = content | {field: value for field, value in context.items() if field != "layers"}
        if whole.get("structure") is not None:
            whole["structure"] = _structure(layers, whole["structure"])
        try:
            record = checked(whole)
        except ValidationError as error:
            at = place if str(next(iter(error.errors()[0]["loc"]), "")) in CONTEXT else number
            self._fault(at, f"not a whole record ({said(error)})", whole)
            return
        except ValueError as error:
            self._fault(place if context.get("schema_version") != SCHEMA else number, str(error), whole)
            return
        self._keep(number, record)

    def _keep(self, number: int, record: Record) -> None:
        before = self._lines.setdefault(record.key, number)
        if before == number:
            self.records[number] = record
            return
        what = f"{record.key} is on line {before} already"
        if self.records.get(before) != record:
            self.records.pop(before, None)
            what += ", with other values: neither counts"
        self._fault(number, what, None)

    def _fault(self, number: int, what: str, content: Any) -> None:
        keys = self._faults.setdefault((number, what), [])
        if isinstance(content, dict) and (key := _key(content)) is not None:
            keys.append(key)


def _structure(layers: Any, dilations: Any) -> dict[str, Any]:
    names, found = (value if isinstance(value, list) else [] for value in (layers, dilations))
    if len(names) != len(found) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ValueError("structure has other layers than its context, or no list of dilations")
    return dict(zip(names, found, strict=True))


_KEY = TypeAdapter(Key)


def _key(content: dict[str, Any]) -> Key | None:
    """Of which cell a broken record is, where it says so."""
    try:
        return _KEY.validate_python(tuple(content.get(name) for name in Key._fields), strict=True)
    except ValidationError:
        return None
