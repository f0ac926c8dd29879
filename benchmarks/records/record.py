"""The record of a cell: what was run, on what data and machine, and what came out.

    results/runs/<task>/<preset>/<method>/fold<f>-seed<k>.json   what this machine ran: whole records, not committed
    results/<task>-<preset>/records.jsonl                        committed: one line per cell, without histories

`records.lines` reads and writes the .jsonl files, `records.folder` all of a results folder.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from benchmarks.records import schema
from benchmarks.records.places import work_folder
from benchmarks.records.protocol import of_files
from rfnext.files import parse_json, read_text, reason, write_text
from tasks.spec import Metric

SCHEMA = 2

LONGEST = 2**24
"""Bytes of a record, or of a line of a .jsonl file; those of real ones are a thousandth."""

UNAVAILABLE = "unavailable: "
"""Begins the reason of a cell whose data is missing or cannot be used."""


class RecordError(ValueError):
    """A record file that cannot be used; the message names the file, the line and the mend."""


class Key(NamedTuple):
    """Which cell of which table a record is of."""

    task: schema.Name
    preset: schema.Name
    method: schema.Method
    fold: schema.Seed
    seed: schema.Seed

    def __str__(self) -> str:
        return f"{self.task} {self.preset} {self.method} fold {self.fold} seed {self.seed}"

    @property
    def _place(self) -> str:
        return f"{self.task}/{self.preset}/{self.method}/fold{self.fold}-seed{self.seed}"

    def path(self, results: Path) -> Path:
        """File of the whole record."""
        return results / "runs" / f"{self._place}.json"

    @classmethod
    def of(cls, path: Path) -> "Key | None":
        """Whose whole record belongs in a file of a results folder; None if it is no such file."""
        match = re.fullmatch(r"(.*/)?runs/([^/]+)/([^/]+)/([^/]+)/fold(\d{1,10})-seed(\d{1,10})\.json", path.as_posix())
        if match is None:
            return None
        _, task, preset, method, fold, seed = match.groups()
        return cls(task, preset, schema.current_name(method), int(fold), int(seed))

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

    epochs: schema.Whole = 0
    seconds: schema.Amount = 0.0
    peak_memory_mb: schema.Amount | None = None
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


def _sound(metric: Metric) -> Metric:
    for text in (metric.name, metric.unit):
        if not text.isprintable() or len(text) > 100:
            raise ValueError("has a name or unit that is not printable or too long")
    if not metric.name or not 0 <= metric.decimals <= 12:
        raise ValueError("has no name, or decimals that are not 0 to 12")
    return dataclasses.replace(metric, unit="") if metric.unit == "1" else metric  # as older records have none


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
    device: name, and threads of torch. commit: of this repository, "+dirty" if tracked files had changes. code: of the
        task, see `machine.code`; None in records from before it was kept.
    started, finished: ISO 8601, UTC. pictures: paths relative to the results folder.
    receptive_field: of the scored network, see `benchmarks.receptive_fields.measure`; None where it was not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: schema.Name
    preset: schema.Name
    method: schema.Method
    fold: schema.Seed
    seed: schema.Seed
    status: Literal["done", "failed"]
    protocol: schema.Protocol
    metric_specs: Annotated[list[Annotated[Metric, AfterValidator(_sound)]], Field(min_length=1)]
    data: str
    published: str | None
    device: schema.Device
    versions: dict[str, str | None]
    commit: str | None
    command: schema.Command
    started: schema.Time
    finished: schema.Time
    base: str = ""
    overrides: schema.Json = Field(default_factory=dict)
    reason: str | None = None
    metrics: dict[str, schema.Real] | None = None
    metrics_last: dict[str, schema.Real] | None = None
    validation: dict[str, schema.Real] | None = None
    structure: schema.Dilations | None = None
    history: list[schema.Round] = Field(default_factory=list)
    search: Cost = Cost()
    training: Cost = Cost()
    evaluation_seconds: schema.Amount = 0.0
    resumed: bool = False
    pictures: list[schema.Inside] = Field(default_factory=list)
    receptive_field: schema.ReceptiveField | None = None
    code: str | None = None
    schema_version: Literal[2] = SCHEMA

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.protocol["task"] != self.task:
            raise ValueError(f"protocol.task is {self.protocol['task']!r}, task is {self.task!r}")
        if len({spec.name for spec in self.metric_specs}) < len(self.metric_specs):
            raise ValueError("metric_specs names a metric twice")
        if self.status == "failed":
            if not self.reason:
                raise ValueError(f"{self.key}: a failed cell needs a reason")
            return self
        expected = {spec.name for spec in self.metric_specs}
        for kind in ("metrics", "metrics_last", "validation"):
            values = getattr(self, kind)
            if values is None or set(values) != expected:
                raise ValueError(f"{kind} of {self.key} has {sorted(values or {})}, not {sorted(expected)}")
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


def ask_anew(key: Key, results: Path) -> None:
    """Have a cell run again whose record would be kept, until there is a new record; OSError if the disk refuses."""
    write_text(_request(key, results), "")


def is_asked_anew(key: Key, results: Path) -> bool:
    """Whether a cell was to be run again, by `ask_anew`, and has no new record yet."""
    return _request(key, results).exists()


def _request(key: Key, results: Path) -> Path:
    return key.work(results) / "run-anew"


def write(record: Record, results: Path) -> Path:
    """Write the record's file whole or not at all, and return its path; OSError if the disk refuses."""
    path = record.key.path(results)
    # One line per field: short enough to read, and a diff shows which field changed.
    fields = record.model_dump(mode="json")
    lines = [f"  {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items()]
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    _request(record.key, results).unlink(missing_ok=True)
    return path


def read(path: Path) -> Record:
    """Read one whole record.

    Raises:
        RecordError: if the file is not a whole record of this schema or lies under another cell's name.
        FileNotFoundError: if there is none.
    """
    text = ""
    try:
        text = read_text(path, LONGEST)
        record = checked(parse_json(text), text)
    except FileNotFoundError:
        raise
    except ValidationError as error:
        raise RecordError(f"{path}{_line_of(error, text)}: not a whole record ({said(error)}); {_MEND}") from None
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable record ({reason(error)}); {_MEND}") from error
    if Key.of(path) != record.key:
        raise RecordError(f"{path}: holds the record of {record.key}; move it to its place or {_MEND}")
    return record


_MEND = "delete the file and start the suite again"


def _line_of(error: ValidationError, text: str) -> str:
    """ ":3" of the line where the first wrong field begins, in a file as `write` makes it; "" where none does."""
    field = f'  "{next(iter(error.errors()[0]["loc"]), "")}":'
    return next((f":{number}" for number, line in enumerate(text.split("\n"), 1) if line.startswith(field)), "")


def checked(content: Any, text: str | None = None) -> Record:
    """The record of a JSON value.

    Args:
        content: the value.
        text: the value as JSON, if that is at hand.

    Raises:
        ValidationError: if it is none; see `said`.
        ValueError: if it is of another schema.
    """
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA:
        found: Any = type(content).__name__
        if isinstance(content, dict):
            found = content.get("schema_version", content.get("schema"))
        raise ValueError(f"not a record of schema {SCHEMA} (found {shortened(repr(found))})")
    # JSON has one kind of number, and its strict reading takes 1 for 1.0; that of Python values would not.
    return Record.model_validate_json(json.dumps(content) if text is None else text, strict=True)


def said(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in one line."""
    first = error.errors()[0]
    what = first["msg"].removeprefix("Value error, ")
    return shortened(f"{'.'.join(map(str, first['loc']))} {what}".strip())


def shortened(text: str) -> str:
    """A text of a file, on one line and not longer than one."""
    text = "".join(one if one.isprintable() else "?" for one in text[:300])
    return text if len(text) < 300 else f"{text}..."


def without_history(record: Record) -> Record:
    """A record without what only figures of single cells show: history, pictures, profiles of receptive fields."""
    field = record.receptive_field
    if field is not None:
        axes = [{name: value for name, value in axis.items() if name not in _PROFILE} for axis in field["axes"]]
        field = field | {"axes": axes}
    return record.model_copy(update={"history": [], "pictures": [], "receptive_field": field})


_PROFILE = ("edges", "share")
