"""The record of a cell: what was run, on what data and machine, and what came out.

    results/runs/<task>/<preset>/<method>/fold<f>-seed<k>.json   what this machine ran: whole records, not committed
    results/<task>-<preset>/records.jsonl                        committed: one line per cell, without histories

In a .jsonl file, a line {"context": n, ...} holds what many cells have in common (protocol, versions, device, names of
the layers). The lines of the cells that follow name it by its number and list their dilations in its order.
"""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.records.places import work_folder
from benchmarks.records.protocol import of_files
from rfnext.files import write_text
from tasks.spec import Metric

SCHEMA = 2

CONTEXT = ("protocol", "metric_specs", "data", "published", "device", "versions", "overrides", "schema_version")
"""Fields that many cells of a .jsonl file have in common."""


class RecordError(ValueError):
    """A record file that cannot be used; the message names the file, the line and the mend."""


class Key(NamedTuple):
    """Which cell of which table a record is of."""

    task: str
    preset: str
    method: str
    fold: int
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.preset} {self.method} fold {self.fold} seed {self.seed}"

    @property
    def _place(self) -> str:
        return f"{self.task}/{self.preset}/{self.method}/fold{self.fold}-seed{self.seed}"

    def path(self, results: Path) -> Path:
        """File of the whole record."""
        return results / "runs" / f"{self._place}.json"

    def work(self, results: Path) -> Path:
        """Folder of the cell's checkpoints and log, not yet created."""
        return work_folder(results) / self._place


class Cost(BaseModel):
    """What all trainings of one stage took together.

    peak_memory_mb: the most that the stage held at one time, in MiB; None where it cannot be measured.
    memory_measure: "cuda" (torch.cuda.max_memory_allocated), "resident" (the process's peak resident set, which
        includes the interpreter and its libraries) or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = 0
    seconds: float = 0.0
    peak_memory_mb: float | None = None
    memory_measure: Literal["cuda", "resident"] | None = None

    def __add__(self, other: "Cost") -> "Cost":
        """Of this and then the other: epochs and seconds add up, of the memory the larger one counts."""
        peak = max(self.peak_memory_mb or 0, other.peak_memory_mb or 0) or None
        return Cost(
            epochs=self.epochs + other.epochs,
            seconds=self.seconds + other.seconds,
            peak_memory_mb=peak,
            memory_measure=self.memory_measure or other.memory_measure,
        )


class Record(BaseModel):
    """The result of one cell, or why there is none.

    preset, overrides: the name of the config, and the fields that were changed on the command line (dotted name ->
        value), in the preset `base`.
    protocol: what must be equal for two records to share a table; holds the full config. See `records.protocol`.
    metrics: test part, network of the epoch that was best on the validation part. metrics_last: test part, last epoch.
        validation: validation part, network of `metrics`. All None unless `status` is "done".
    structure: dilations of the scored network. history: one entry per round of the search; empty in .jsonl files.
    search, training: cost of finding the structure and of training the network that is scored; a search that several
        methods share is counted in the record of each.
    resumed: the seconds cover only the part after the interruption.
    device: name, and threads of torch. commit: of this repository, "+dirty" if tracked files had changes.
    started, finished: ISO 8601, UTC. pictures: paths relative to the results folder.
    receptive_field: of the scored network, see `benchmarks.receptive_fields.measure`; None where it was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    preset: str
    method: str
    fold: int
    seed: int
    status: Literal["done", "failed"]
    protocol: dict[str, Any]
    metric_specs: list[Metric]
    data: str
    published: str | None
    device: dict[str, Any]
    versions: dict[str, str | None]
    commit: str | None
    command: str
    started: str
    finished: str
    base: str = ""
    overrides: dict[str, Any] = Field(default_factory=dict)
    reason: str | None = None
    metrics: dict[str, float] | None = None
    metrics_last: dict[str, float] | None = None
    validation: dict[str, float] | None = None
    structure: dict[str, list[int]] | None = None
    history: list[dict[str, Any]] = Field(default_factory=list)
    search: Cost = Cost()
    training: Cost = Cost()
    evaluation_seconds: float = 0.0
    resumed: bool = False
    pictures: list[str] = Field(default_factory=list)
    receptive_field: dict[str, Any] | None = None
    schema_version: Literal[2] = SCHEMA

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.status == "failed":
            if not self.reason:
                raise ValueError(f"{self.key}: a failed cell needs a reason")
            return self
        expected = {spec.name for spec in self.metric_specs}
        for kind in ("metrics", "metrics_last", "validation"):
            values = getattr(self, kind)
            if values is None or set(values) != expected:
                raise ValueError(f"{kind} of {self.key} has {sorted(values or {})}, not {sorted(expected)}")
            if bad := [name for name, value in values.items() if not math.isfinite(value)]:
                raise ValueError(f"{kind} of {self.key} is not finite: {', '.join(bad)}")
        try:
            json.dumps(self.history, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"history of {self.key} is not finite") from error
        return self

    @property
    def key(self) -> Key:
        """Which cell it is of."""
        return Key(self.task, self.preset, self.method, self.fold, self.seed)

    @property
    def title(self) -> str:
        """The preset and what was changed in it, for captions. A name of its own tells data in files apart."""
        if not self.overrides:
            return self.preset
        name = self.preset if of_files(self.protocol) else self.base or self.preset
        return ", ".join([name, *(f"{name}={_text(v)}" for name, v in self.overrides.items())])


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def write(record: Record, results: Path) -> Path:
    """Write the record's file whole or not at all, and return its path; OSError if the disk refuses."""
    path = record.key.path(results)
    # One line per field: short enough to read, and a diff shows which field changed.
    fields = record.model_dump(mode="json")
    lines = [f"  {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    return path


def read(path: Path) -> Record:
    """Read one whole record.

    Raises:
        RecordError: if the file is not a whole record of this schema or lies under another cell's name.
        FileNotFoundError: if there is none.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable record ({error}); {_MEND}") from error
    record = _validated(content, f"{path}", _MEND)
    place = record.key.path(Path()).parts
    if path.parts[-len(place) :] != place:
        raise RecordError(f"{path}: holds the record of {record.key}; move it to its place or {_MEND}")
    return record


_MEND = "delete the file and start the suite again"
_RESTORE = "restore the file: git checkout, or copy it anew"


def _validated(content: Any, where: str, mend: str) -> Record:
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA:
        found: Any = type(content).__name__
        if isinstance(content, dict):
            found = content.get("schema_version", content.get("schema"))
        raise RecordError(f"{where}: not a record of schema {SCHEMA} (found {found!r}); {mend}")
    try:
        return Record.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise RecordError(f"{where}: not a whole record ({said(error)}); {mend}") from None


def said(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in one line."""
    first = error.errors()[0]
    what = first["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, first['loc']))} {what}".strip()


def write_lines(path: Path, records: Iterable[Record]) -> None:
    """Write records without their histories to a .jsonl file, one line per cell, whole or not at all."""
    contexts: dict[str, int] = {}
    lines = []
    for record in sorted(records, key=lambda record: record.key):
        fields = without_history(record).model_dump(mode="json")
        context = {name: fields.pop(name) for name in CONTEXT}
        if fields["structure"] is not None:
            context["layers"] = list(fields["structure"])
            fields["structure"] = list(fields["structure"].values())
        text = json.dumps(context, allow_nan=False)
        if text not in contexts:
            contexts[text] = len(contexts)
            lines.append(json.dumps({"context": contexts[text]} | context, allow_nan=False))
        lines.append(json.dumps(fields | {"in_context": contexts[text]}, allow_nan=False))
    write_text(path, "".join(f"{line}\n" for line in lines))


def without_history(record: Record) -> Record:
    """A record without what only figures of single cells show: history, pictures, profiles of receptive fields."""
    field = record.receptive_field
    if field is not None:
        axes = [{name: value for name, value in axis.items() if name not in _PROFILE} for axis in field["axes"]]
        field = field | {"axes": axes}
    return record.model_copy(update={"history": [], "pictures": [], "receptive_field": field})


_PROFILE = ("edges", "share")


def read_lines(path: Path) -> Iterator[Record]:
    """The records of a .jsonl file.

    Raises:
        RecordError: naming the line that is no record.
    """
    contexts: dict[int, dict[str, Any]] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not a text file ({error}); {_RESTORE}") from error
    for number, line in enumerate(lines, 1):
        try:
            content = json.loads(line)
            if "context" in content:
                contexts[content.pop("context")] = content
                continue
            content |= contexts[content.pop("in_context")]
            layers = content.pop("layers", None)
            if content["structure"] is not None:
                content["structure"] = dict(zip(layers, content["structure"], strict=True))
        except (ValueError, TypeError, KeyError) as error:
            raise RecordError(f"{path}:{number}: not a line of a record ({error!r}); {_RESTORE}") from error
        yield _validated(content, f"{path}:{number}", _RESTORE)


class Records(NamedTuple):
    """What a results folder holds: its records by key, and what is wrong with broken files (path -> reason).

    own: keys of the records that were run in this folder.
    failed: why cells failed in this folder that have a finished record in a .jsonl file, which is the one in `by_key`.
    """

    by_key: dict[Key, Record]
    broken: dict[Path, str]
    own: frozenset[Key]
    failed: dict[Key, str]

    @property
    def all(self) -> list[Record]:
        """All records, in the order of their keys."""
        return [self.by_key[key] for key in sorted(self.by_key)]


def read_all(results: Path) -> Records:
    """All records of a results folder: those that were run in it, and for other cells those of its .jsonl files."""
    found: dict[Key, Record] = {}
    broken: dict[Path, str] = {}
    for path in sorted(results.glob("*/records.jsonl")):
        try:
            found |= {record.key: record for record in read_lines(path)}
        except (RecordError, OSError) as error:
            broken[path] = str(error)
    own: set[Key] = set()
    failed: dict[Key, str] = {}
    for path in sorted((results / "runs").glob("*/*/*/*.json")):
        try:
            record = read(path)
        except RecordError as error:
            broken[path] = str(error)
            continue
        # A run that failed, for want of the data say, does not hide the result that came with the repository.
        if record.status == "failed" and (before := found.get(record.key)) and before.status == "done":
            failed[record.key] = record.reason or ""
            continue
        found[record.key] = record
        own.add(record.key)
    return Records(found, broken, frozenset(own), failed)
