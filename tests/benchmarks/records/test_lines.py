"""Files of many records: what is written comes back, and a broken line is named and left out."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.folder import read_all
from benchmarks.records.lines import CONTEXT, read_lines, write_lines
from benchmarks.records.places import ROOT
from benchmarks.records.record import Record, without_history


def changed(**fields: Any) -> Callable[[str], str]:
    """Replaces fields of a record's text; those that are None are removed."""

    def change(text: str) -> str:
        content = json.loads(text) | fields
        return json.dumps({name: value for name, value in content.items() if name not in fields or value is not None})

    return change


def test_lines_give_every_field_but_the_history(several: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "toy-tiny" / "records.jsonl"
    write_lines(path, reversed(several))
    found = list(read_lines(path).records.values())
    expected = sorted((without_history(record) for record in several), key=lambda record: record.key)
    for ours, theirs in zip(found, expected, strict=True):
        assert {name: getattr(ours, name) for name in Record.model_fields} == {
            name: getattr(theirs, name) for name in Record.model_fields
        }
    again = tmp_path / "again.jsonl"
    write_lines(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_a_report_leaves_committed_lines_as_they_are(tmp_path: Path) -> None:
    """A user who runs the benchmark in a clone has no changes of files that others measured."""
    committed = sorted((ROOT / "results").glob("*/records.jsonl"))
    assert len(committed) > 10
    for path in committed:
        write_lines(tmp_path / path.name, read_lines(path).records.values())
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path


def test_what_cells_have_in_common_is_written_once(several: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_lines(path, several)
    contents = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [content for content in contents if "context" not in content]
    contexts = [content for content in contents if "context" in content]
    assert len(lines) == len(several)
    assert 1 < len(contexts) < len(several)
    for content in lines:
        assert not set(CONTEXT) & set(content)
        assert "history" not in content or content["history"] == []


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"task": "toy"}', '{"in_context": 99}', '{"context": 0}{'])
def test_a_broken_line_is_named_by_its_number(several: list[Record], tmp_path: Path, text: str) -> None:
    path = tmp_path / "toy-tiny" / "records.jsonl"
    write_lines(path, several)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], text, *lines[3:]]))
    found = read_lines(path)
    (fault,) = found.broken
    assert str(fault).startswith(f"{path}:4: ")
    assert "restore the file" in str(fault)
    assert len(str(fault).splitlines()) == 1
    assert {record.key for record in found.records.values()} == {record.key for record in several}
    assert read_all(tmp_path).broken == [fault]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema_version": 1}, "found 1"), ({"schema_version": None, "schema": 1}, "found 1"), ({"device": 3}, "device")],
)
def test_a_broken_context_is_named_once_with_the_cells_that_need_it(
    several: list[Record], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "records.jsonl"
    write_lines(path, several)
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([changed(**change)(first), *rest]))
    broken = read_lines(path).broken
    assert re.match(f"{path}:1: .*{message}.*restore the file", str(broken[0]))
    assert several[0].key in broken[0].keys


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "toy-tiny" / "records.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00")
    (fault,) = read_all(tmp_path).broken
    assert str(fault).startswith(f"{path}:1: ")
