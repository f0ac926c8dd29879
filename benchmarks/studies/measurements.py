"""What a study has measured: the lines of results/<study>/measurements.jsonl, one JSON object each."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from benchmarks.records.lines import line_of
from benchmarks.records.record import said, shortened
from rfnext.files import parse_json, read_text, reason, write_text

Result = TypeVar("Result")

NAME = "measurements.jsonl"
"""The file in a study's folder. Cells of the suite are in files of another name, see `records.record`."""


class MeasurementError(ValueError):
    """A file of measurements that cannot be read; the message names file, line and field."""


def read(folder: Path, line: Any = dict[str, Any], key: Sequence[str] = ()) -> list[dict[str, Any]]:
    """All measurements of a study; none where the file does not exist.

    Reading is strict, and one broken line refuses all: the file is written anew after each measurement, so a line that
    is left out would be lost.

    Args:
        folder: of the study.
        line: type of a line, such as a TypedDict of the types of `records.schema`.
        key: fields that say which measurement a line is; no two lines have the same.

    Raises:
        MeasurementError: naming the line, and the field that is wrong.
    """
    path = folder / NAME
    if not path.exists():
        return []
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise MeasurementError(f"{path}: cannot be read ({reason(error)}); restore it") from error
    schema, found, lines = TypeAdapter(line), [], dict[tuple[str, ...], int]()
    for number, one in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        try:
            content = parse_json(one)
            found.append(schema.validate_json(one, strict=True))
            same = lines.setdefault(tuple(repr(content[name]) for name in key), number)
        except ValidationError as error:
            raise _broken(path, number, said(error)) from error
        except ValueError as error:
            raise _broken(path, number, f"not JSON: {shortened(str(error))}") from error
        if key and same != number:
            raise _broken(path, number, f"the same {', '.join(key)} as line {same}")
    return found


def read_or_end(folder: Path, line: Any, key: Sequence[str] = ()) -> list[dict[str, Any]]:
    """As `read`; an error is said in one line and ends the process with 1."""
    return end_on_error(lambda: read(folder, line, key))


def end_on_error(work: Callable[[], Result]) -> Result:
    """What a function of measurements gives; an error is said in one line and ends the process with 1."""
    try:
        return work()
    except MeasurementError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _broken(path: Path, number: int, what: str) -> MeasurementError:
    return MeasurementError(f"{path}:{number}: no measurement ({what}); restore the file or delete the line")


def write(folder: Path, measured: Iterable[dict[str, Any]]) -> None:
    """Write all measurements of a study, whole or not at all."""
    write_text(folder / NAME, "".join(f"{line_of(one)}\n" for one in measured))
