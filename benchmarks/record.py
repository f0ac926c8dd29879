"""One JSON file per cell of a table: what was run, on what data and machine, and what came out.

    results/runs/<task>/<preset>/<method>/fold<f>-seed<k>.json     the records: small, committed
    results/work/                                                  checkpoints, logs, locks: never committed

Two records may share a table only if their protocols are equal; `protocol` says what belongs to it.
"""

import contextlib
import dataclasses
import enum
import fcntl
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch

import rfnext
from rfnext.files import write_text
from rfnext.ops import native_build as native_library
from tasks.spec import Metric, Task

SCHEMA = 1
DECIDING = (
    *("torch", "lightning", "numpy", "scipy", "seglearn"),
    *("mmdet", "mmengine", "mmcv-lite", "mmcv", "mmpretrain", "pycocotools", "torchvision", "timm"),
    *("librosa", "soundfile", "auraloss", "pystoi", "G722", "espeakng-loader", "DCLS"),
)
"""Packages whose version may change a result of some task."""

ROOT = Path(__file__).resolve().parents[1]


class RecordError(ValueError):
    """A record file that cannot be used; the message names the file and the mend."""


@dataclass(frozen=True, order=True)
class Cell:
    """Which run of which table: the name of a record."""

    task: str
    preset: str
    method: str
    fold: int
    seed: int

    def __str__(self) -> str:
        return f"{self.task} {self.preset} {self.method} fold {self.fold} seed {self.seed}"

    def path(self, results: Path) -> Path:
        """Where the record lies."""
        return results / "runs" / self.task / self.preset / self.method / f"fold{self.fold}-seed{self.seed}.json"

    def work(self, results: Path) -> Path:
        """Folder of this cell's checkpoints and log, not yet created."""
        return work_folder(results) / self.task / self.preset / self.method / f"fold{self.fold}-seed{self.seed}"

    @classmethod
    def of(cls, path: Path) -> "Cell | None":
        """The cell that a record file is named after; None if it is not named like a record."""
        match = re.fullmatch(r"fold(\d+)-seed(\d+)\.json", path.name)
        if match is None or len(path.parents) < 3:
            return None
        method, preset, task = (parent.name for parent in list(path.parents)[:3])
        return cls(task, preset, method, int(match[1]), int(match[2]))


@dataclass(frozen=True)
class Cost:
    """What all trainings of one stage took together.

    peak_memory_mb: the most that the stage held at one time, in MiB; None where it cannot be measured.
    memory_measure: "cuda" (torch.cuda.max_memory_allocated), "resident" (the process's peak resident set,
        which includes the interpreter and its libraries) or None.
    """

    epochs: int = 0
    seconds: float = 0.0
    peak_memory_mb: float | None = None
    memory_measure: Literal["cuda", "resident"] | None = None

    def __add__(self, other: "Cost") -> "Cost":
        """Of this and then the other: epochs and seconds add up, of the memory the larger one counts."""
        peak = max(self.peak_memory_mb or 0, other.peak_memory_mb or 0) or None
        measure = self.memory_measure or other.memory_measure
        return Cost(self.epochs + other.epochs, self.seconds + other.seconds, peak, measure)


@dataclass(frozen=True)
class Record:
    """The result of one cell, or why there is none.

    protocol: what must be equal for two records to share a table; holds the full config. See `protocol`.
    metrics: test part, network of the epoch that was best on the validation part. metrics_last: test part,
        last epoch. validation: validation part, network of `metrics`. All None unless `status` is "done".
    structure: dilations of the scored network. history: one entry per round of the search.
    search, training: cost of finding the structure and of training the network that is scored; a search that
        several methods share is counted in the record of each.
    resumed: the seconds cover only the part after the interruption.
    device: name, and threads of torch. commit: of this repository, "+dirty" if tracked files had changes.
    started, finished: ISO 8601, UTC. pictures: paths relative to the results folder.
    receptive_field: of the scored network, see `benchmarks.receptive_fields.measure`; None where it was not measured.
    """

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
    reason: str | None = None
    metrics: dict[str, float] | None = None
    metrics_last: dict[str, float] | None = None
    validation: dict[str, float] | None = None
    structure: dict[str, list[int]] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    search: Cost = Cost()
    training: Cost = Cost()
    evaluation_seconds: float = 0.0
    resumed: bool = False
    pictures: list[str] = field(default_factory=list)
    receptive_field: dict[str, Any] | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.status == "done":
            expected = {spec.name for spec in self.metric_specs}
            for kind in ("metrics", "metrics_last", "validation"):
                values = getattr(self, kind)
                if values is None or set(values) != expected:
                    raise ValueError(f"{kind} of {self.cell} has {sorted(values or {})}, not {sorted(expected)}")
                if bad := [name for name, value in values.items() if not math.isfinite(value)]:
                    raise ValueError(f"{kind} of {self.cell} is not finite: {', '.join(bad)}")
        elif self.status != "failed" or not self.reason:
            raise ValueError(f"{self.cell}: status must be 'done', or 'failed' with a reason")

    @property
    def cell(self) -> Cell:
        return Cell(self.task, self.preset, self.method, self.fold, self.seed)


def protocol(task: Task[Any], config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a cell's result besides fold, seed and machine, as plain JSON values.

    settings: the method's own. They may differ between the rows of a table; the rest (`shared`) may not.
    Config fields with metadata {"protocol": False} (paths) are left out, in nested dataclasses too.

    Raises TypeError naming the field if a value has no JSON form.
    """
    return {
        "task": task.name,
        "version": task.version,
        "data": task.data_label(config),
        "config": _plain(config, "config"),
        "settings": _plain(dict(settings), "settings"),
    }


def shared(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a protocol that all rows of a table have in common."""
    return {key: value for key, value in protocol.items() if key != "settings"}


def protocol_differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In what two protocols differ, field by field with its dotted name; empty if they are equal."""
    old, new = ({name: repr(value) for name, value in flat(side).items()} for side in (before, after))
    pairs = {name: (old.get(name, "missing"), new.get(name, "missing")) for name in {**old, **new}}
    return [f"{name} is {there} instead of {here}" for name, (here, there) in pairs.items() if here != there]


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """The first 10 hex digits of the SHA-256 of a protocol in canonical JSON."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _plain(value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(value):
        kept = [part for part in dataclasses.fields(value) if part.metadata.get("protocol", True)]
        return {part.name: _plain(getattr(value, part.name), f"{name}.{part.name}") for part in kept}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{name} is a {type(value).__name__}; a protocol holds dataclasses and JSON values only")


def in_a_name(value: Any) -> str:
    """A field's value as a part of a preset's name, which becomes the name of a folder."""
    return re.sub(r"[^\w.,-]+", "_", as_text(value))


def as_text(value: Any) -> str:
    """A field's value as its reader would write it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


Kind = TypeVar("Kind")


def rebuild(kind: type[Kind], stored: Any, name: str = "config") -> Kind:
    """The value of type `kind`, a config, whose JSON form in a protocol is `stored`.

    Fields that belong to no protocol (paths) get their defaults. Nothing is converted: what does not have the
    field's type is refused.

    Raises ValueError naming the field that is missing, unknown or of another type.
    """
    return _rebuilt(kind, stored, name)


def _rebuilt(kind: Any, stored: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(stored, dict):
        known = {part.name for part in dataclasses.fields(kind) if part.metadata.get("protocol", True)}
        if unknown := sorted(stored.keys() - known):
            raise ValueError(f"{name} has no field {', '.join(unknown)} here")
        if missing := sorted(known - stored.keys()):
            raise ValueError(f"{name} lacks the field {', '.join(missing)}")
        hints = typing.get_type_hints(kind)
        return kind(**{key: _rebuilt(hints[key], value, f"{name}.{key}") for key, value in stored.items()})
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            with contextlib.suppress(ValueError):
                return _rebuilt(option, stored, name)
    elif origin is typing.Literal:
        if any(stored == value and type(stored) is type(value) for value in arguments):
            return stored
    elif origin in (tuple, list) and isinstance(stored, list):
        kinds = arguments[:1] * len(stored) if origin is list or arguments[1:] == (...,) else arguments
        if len(kinds) == len(stored):
            pairs = enumerate(zip(kinds, stored, strict=True))
            return origin(_rebuilt(part, item, f"{name}[{i}]") for i, (part, item) in pairs)
    elif origin in (dict, Mapping) and isinstance(stored, dict):
        return {key: _rebuilt(arguments[1], value, f"{name}.{key}") for key, value in stored.items()}
    elif isinstance(kind, type) and issubclass(kind, enum.Enum | Path) and isinstance(stored, str):
        return kind(stored)
    elif kind is type(stored) or kind is Any or (kind is float and type(stored) is int):
        return stored
    raise ValueError(f"{name} is {stored!r}, which is no {getattr(kind, '__name__', kind)}")


def write(record: Record, results: Path) -> Path:
    """Write the record's file whole or not at all, and return its path; OSError if the disk refuses."""
    path = record.cell.path(results)
    # One line per field: short enough to read, and a diff shows which field changed.
    fields = {part.name: _plain(getattr(record, part.name), part.name) for part in dataclasses.fields(record)}
    lines = [f"  {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in fields.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_text(path, text)
    write_text(_seal(record.cell, results), _digest(text.encode()))
    return path


def _seal(cell: Cell, results: Path) -> Path:
    return cell.work(results) / "record.sha256"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read(path: Path) -> Record:
    """Read one record.

    Raises RecordError if the file is not a whole record of this schema or lies under another cell's name, and
    FileNotFoundError if there is none.
    """
    mend = "delete the file and start the suite again"
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise RecordError(f"{path}: not a readable record ({error}); {mend}") from error
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
        found = raw.get("schema") if isinstance(raw, dict) else type(raw).__name__
        raise RecordError(f"{path}: not a record of schema {SCHEMA} (found {found!r}); {mend}")
    try:
        raw["metric_specs"] = [Metric(**spec) for spec in raw["metric_specs"]]
        raw["search"], raw["training"] = Cost(**raw["search"]), Cost(**raw["training"])
        record = Record(**raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"{path}: not a whole record ({error}); {mend}") from error
    if record.cell != Cell.of(path):
        raise RecordError(f"{path}: holds the record of {record.cell}; move it to its place or {mend}")
    return record


def read_all(results: Path) -> tuple[list[Record], dict[Path, str]]:
    """All records of a results folder in the order of their paths, and what is wrong with broken files."""
    records: list[Record] = []
    broken: dict[Path, str] = {}
    for path in sorted((results / "runs").glob("*/*/*/*.json")):
        try:
            records.append(read(path))
        except RecordError as error:
            broken[path] = str(error)
    return records, broken


def kept(cell: Cell, planned: Mapping[str, Any], results: Path, *, elsewhere: bool = False) -> Record | None:
    """The cell's record if it is done and its protocol is the planned one; otherwise it has to be run.

    A record that was not made in this folder (one that came with the repository, or was copied from another machine)
    counts only if `elsewhere` is set: whoever runs the benchmark wants to see it run. What was made here leaves a
    digest in the work folder, which is never committed.
    """
    path = cell.path(results)
    try:
        record = read(path)
        made_here = elsewhere or _seal(cell, results).read_text("utf-8") == _digest(path.read_bytes())
    except (FileNotFoundError, RecordError):
        return None
    return record if made_here and record.status == "done" and record.protocol == planned else None


def work_folder(results: Path) -> Path:
    """The folder for checkpoints, logs and locks; it hides itself from git wherever the results folder is."""
    folder = results / "work"
    if not (folder / ".gitignore").exists():
        write_text(folder / ".gitignore", "*\n")
    return folder


class Busy(RuntimeError):
    """Another process holds the lock."""


@contextlib.contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`, so that two processes never work in the same place.

    The lock belongs to the open file (flock), so the system frees it when its process ends however it ends:
    there are no stale locks, and the file may stay.

    Raises Busy, naming the holder, if another process holds it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise Busy(f"{path} is held by {file.read().strip() or 'another process'}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def computing_device(device: str) -> torch.device:
    """The torch device that "auto" or a device's name stands for."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def describe_device(device: torch.device) -> dict[str, Any]:
    """Name of the device that computes, torch's threads on the host, and whether rfnext has kernels for its CPU.

    The last two decide how sums are rounded, and so the digits of a result.
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = platform.processor() or platform.machine()
        with contextlib.suppress(OSError):
            found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
            name = found[1].strip() if found else name
    native = native_library.failure() is None
    return {"type": device.type, "name": name, "threads": torch.get_num_threads(), "native_kernels": native}


def versions() -> dict[str, str | None]:
    """Versions of the packages that decide a result; None where one is not installed as a package."""
    found: dict[str, str | None] = {"python": platform.python_version(), "rfnext": rfnext.__version__}
    for name in DECIDING:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


SHIPPED_COMMIT = "RFNEXT_COMMIT"
"""Environment variable: the commit of code that was sent to another machine without its git history."""


def commit() -> str | None:
    """This repository's commit, "+dirty" if tracked files outside results/ differ; None outside of git."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    if shipped := os.environ.get(SHIPPED_COMMIT):
        return shipped
    try:
        head = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+dirty" if changed else "")
