"""What a study has measured: the lines of results/<study>/measurements.jsonl, one JSON object each."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rfnext.files import parse_json, write_text

NAME = "measurements.jsonl"
"""The file in a study's folder. Cells of the suite are in files of another name, see `records.record`."""


def read(folder: Path) -> list[dict[str, Any]]:
    """All measurements of a study; none where the file does not exist.

    Raises:
        ValueError: naming the line that is not JSON.
    """
    path = folder / NAME
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines() if path.exists() else [], 1):
        try:
            found.append(parse_json(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON ({error}); restore the file or delete the line") from error
    return found


def write(folder: Path, measured: Iterable[dict[str, Any]]) -> None:
    """Write all measurements of a study, whole or not at all."""
    write_text(folder / NAME, "".join(f"{json.dumps(one, allow_nan=False)}\n" for one in measured))
