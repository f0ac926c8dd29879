"""Run the cell of a record again, from its own config, and compare: `python -m benchmarks.run --from RECORD`.

RECORD is the file of a whole record (results/runs/...) or a committed records.jsonl, in which --method, --fold and
--seed choose the cell. On the same machine and versions the metrics are equal.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

import tasks
from benchmarks.arguments import UsageError, check_device, parse_both, pick
from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.records.identity import identify
from benchmarks.records.lines import Broken, read_lines
from benchmarks.records.protocol import of_files, protocol, same_but_data
from benchmarks.records.record import UNAVAILABLE, Record, RecordError, read
from rfnext.lazy import LazyModule
from tasks.file_names import real_path
from tasks.plain import differences, rebuild
from tasks.spec import Task

if TYPE_CHECKING:
    from benchmarks.running import execute
else:
    execute = LazyModule("benchmarks.running.execute")

FLAG = "--from"


@dataclass(frozen=True)
class Options:
    """Run the cell of a record again, as the record says, and compare."""

    record: Annotated[Path, tyro.conf.arg(name="from")]
    """The record's file, or a records.jsonl."""
    method: str | None = None
    """Which cell of a records.jsonl: of this method,"""
    fold: int | None = None
    """of this fold,"""
    seed: int | None = None
    """of this seed."""
    results: Path | None = None
    """Folder to keep the new record in, with its work folder; by default nothing is kept."""
    device: str = ""
    """auto, cpu, cuda, cuda:1, ...; by default of the record's type."""


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Whether a command line names a record."""
    return any(argument == FLAG or argument.startswith(f"{FLAG}=") for argument in arguments)


def open_record(options: Options) -> Record:
    """The record that the options name.

    Raises:
        UsageError: if there is no such record, or several.
    """
    path = real_path(options.record)
    broken: list[Broken] = []
    try:
        if path.suffix == ".jsonl" and path.exists():
            lines = read_lines(path)
            records, broken = list(lines.records.values()), lines.broken
        else:
            records = [read(path)]
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such record") from error
    except RecordError as error:
        raise UsageError(str(error)) from error
    wanted = {"method": options.method, "fold": options.fold, "seed": options.seed}
    wanted = {name: value for name, value in wanted.items() if value is not None}
    chosen = [one for one in records if all(getattr(one, name) == value for name, value in wanted.items())]
    if len(chosen) != 1:
        known = ", ".join(dict.fromkeys(one.method for one in records))
        if broken:
            raise UsageError(f"{broken[0]}, and its other lines hold {len(chosen)} cells that are meant")
        raise UsageError(f"{path}: {len(chosen)} of its cells are meant; give --method ({known}), --fold and --seed")
    if chosen[0].status != "done":
        raise UsageError(f"{path}: the record of a failed cell has nothing to compare with ({chosen[0].reason})")
    return chosen[0]


def parse(arguments: Sequence[str], scratch: Path) -> tuple[Cell, Record]:
    """Turn `--from RECORD ...` into the record's cell, whose config comes from the file alone.

    The results go to `scratch` unless the arguments name another folder.

    Raises:
        UsageError: if the record cannot be run again by this code.
        SystemExit: after --help (0) or a wrong option (2), which tyro has explained.
    """
    prog = "python -m benchmarks.run"
    options, _ = tyro.cli(Options, args=list(arguments), prog=prog, return_unknown_args=True)
    old = open_record(options)
    task = tasks.load(pick("task", old.task, tasks.names()))
    method = METHODS[pick("method", old.method, METHODS)]
    try:
        config = rebuild(type(next(iter(task.presets.values()))), old.protocol.get("config"))
    except ValueError as error:
        raise UsageError(f"{options.record}: {error}; its config is not one of this code's {old.task}") from error
    options, config = parse_both(options, config, arguments, prog=prog, description=f"The cell of {options.record}.")
    identity = identify(task, config)
    here = protocol(task, config, method.settings_of(task, config), identity)
    if differing := _differences(old, task, config, here):
        raise UsageError(f"{options.record}: cannot be run again by this code: {', '.join(differing)}")
    results = options.results or scratch
    record = options.record.resolve()
    if record in (old.key.path(results).resolve(), (results / record.parent.name / record.name).resolve()):
        raise UsageError(f"--results {results} would replace the record itself; give another folder")
    import torch

    torch.set_num_threads(old.device["threads"])
    device = options.device or old.device["type"]
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"the record was made on {old.device['name']}, there is no GPU here; --device cpu runs it")
    check_device(device)
    base = old.base if old.base in task.presets else next(iter(task.presets))
    where = {"device": device, "threads": old.device["threads"], "identity": identity}
    return Cell(task, old.preset, config, method, old.fold, old.seed, results, base, **where), old


def _differences(old: Record, task: Task[Any], config: Any, here: Mapping[str, Any]) -> list[str]:
    """In what a record's protocol differs from that of its cell here; empty if the cell can be run again."""
    data = here["data"]
    if not of_files(old.protocol):  # made by the code, or of before files counted
        data = task.data_label(config)
    elif not of_files(here):  # the files are missing, and running the cell says so
        data = old.protocol.get("data")
    differing = differences(old.protocol, {**here, "data": data})
    if differing and same_but_data(old.protocol, here):
        differing.append("give the folder of the record's data by --root PATH")
    return differing


def compare(old: Record, new: Record) -> tuple[list[str], list[str]]:
    """What differs between two records of a cell: in results, and in machine and versions."""
    results = [
        f"{kind} {name}: {theirs!r} in the record, {ours!r} now"
        for kind in ("metrics", "metrics_last", "validation", "structure")
        for name, theirs, ours in _differing(getattr(old, kind) or {}, getattr(new, kind) or {})
    ]
    places = [
        f"{name}: {theirs} in the record, {ours} here"
        for before, after in ((old.device, new.device), (old.versions, {**dict.fromkeys(old.versions), **new.versions}))
        for name, theirs, ours in _differing(before, {key: after.get(key) for key in before})
    ]
    return results, places


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = {**before, **after}
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def main(arguments: Sequence[str]) -> int:
    """Run a record's cell again and say whether it gives the same; see `benchmarks.run` for the exit status.

    Raises:
        UsageError: if the record cannot be run again by this code.
    """
    with tempfile.TemporaryDirectory(prefix="rfnext-again-") as scratch:
        cell, old = parse(arguments, Path(scratch))
        new = execute.run_cell(cell)
    print(f"{new.key}: {execute.describe(new)}")
    if new.status == "failed":
        print(f"error: {new.reason}", file=sys.stderr)
        return 3 if (new.reason or "").startswith(UNAVAILABLE) else 1
    results, places = compare(old, new)
    for line in results:
        print(f"different: {line}")
    for line in places:
        print(f"not the same machine or version: {line}")
    if not results:
        print("equal: all metrics and the structure are those of the record")
        return 0
    print(f"different: {len(results)} values" + ("; machine or versions differ, too" if places else ""))
    return 4 if places else 1
