"""Running one cell: its searches, its finish, its pictures, and its record, in this process or in a worker."""

import contextlib
import dataclasses
import datetime
import errno
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from benchmarks.cell import Cell
from benchmarks.methods.method import Outcome
from benchmarks.methods.stored import find
from benchmarks.methods.training import as_lists, forget, refuse_other_data
from benchmarks.records.identity import identify
from benchmarks.records.kept import is_current
from benchmarks.records.machine import code, commit, describe_device, versions
from benchmarks.records.places import claim, portable, work_folder
from benchmarks.records.record import UNAVAILABLE, Record, RecordError, is_asked_anew, read, said, write
from benchmarks.running import live
from benchmarks.running.pool import Pool, in_process
from benchmarks.wandb_results import log_to_wandb
from rfnext.files import write_bytes
from tasks import checkpoint
from tasks.spec import DataError, Split, device_of

log = logging.getLogger(__name__)

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says of a disk, quota or limit that is reached, and of a disk that is read-only."""


def run_cell(cell: Cell, pool: Pool | None = None, *, wait: bool = True, keep: bool = False) -> Record:
    """Run a cell and write its record, also if it fails; return the record.

    Args:
        cell: the cell.
        pool: trains the candidates of its search; None: one after another in this process.
        wait: for another process that works on the same cell; otherwise raise `places.Busy`.
        keep: return its record, and run nothing, if that is current (`records.kept`) and not asked for anew.

    Raises:
        OSError: if the record cannot be written, or the disk is full or read-only; an older record stays then.
        KeyboardInterrupt: if interrupted; no record is written then.
    """
    if cell.identity is None:
        cell = dataclasses.replace(cell, identity=identify(cell.task, cell.config))
    lock = work_folder(cell.results) / "locks" / f"{cell}.lock".replace(" ", "-")
    with claim(lock, wait=wait):
        if keep and cell.resume and (done := _current(cell)):
            return done
        try:
            record = _attempt(cell, pool or in_process())
        finally:
            live.end(cell)
        _write(record, cell)
        if record.status == "done":
            forget(cell.work)
        if cell.logger == "wandb":
            try:
                log_to_wandb(cell, record)
            except Exception:  # the record is what counts
                log.exception("%s: the result was not logged", cell)
        return record


def _current(cell: Cell) -> Record | None:
    if is_asked_anew(cell.key, cell.results):
        return None
    try:
        record = read(cell.key.path(cell.results))
    except (FileNotFoundError, RecordError):
        return None
    return record if is_current(record, cell.protocol()) else None


def _attempt(cell: Cell, pool: Pool) -> Record:
    started = now()
    if missing := cell.task.unavailable(cell.config):
        return make_record(cell, started, reason=UNAVAILABLE + missing)
    try:
        refuse_other_data(cell)
        method = cell.method
        found = find(cell, method.search, pool) if method.search else None
        live.begin(cell, None)
        outcome = method.finish.run(cell, pool, found)
        refuse_other_data(cell)
        _keep_network(cell, outcome.model)
        outcome.structure.save(cell.structure)
        return make_record(cell, started, **_findings(outcome), pictures=_illustrate(cell, outcome))
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error
        raise
    except DataError as error:  # found while training; it names file and mend, so a traceback adds nothing
        return make_record(cell, started, reason=f"{UNAVAILABLE}{error}")
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise  # the record of a failure needs space, too, and would replace a finished one
        log.exception("%s failed", cell)
        return make_record(cell, started, reason=f"{type(error).__name__}: {error}")


def _keep_network(cell: Cell, model: nn.Module) -> None:
    """Write the scored network, unless the file could not be opened: some peers have convs that no task builds."""
    facts = cell.task.facts(cell.config) if cell.task.facts else None
    checkpoint.save(cell.model, cell.task.name, cell.config, model, facts)
    try:
        checkpoint.load(cell.model)
    except ValueError as error:
        cell.model.unlink()
        log.info("%s: the network is not kept, since no file can give it back: %s", cell, error)


def _write(record: Record, cell: Cell) -> None:
    """Write a cell's record, unless that says only that the data is missing and there is a finished one."""
    if (record.reason or "").startswith(UNAVAILABLE):
        path = cell.key.path(cell.results)
        with contextlib.suppress(FileNotFoundError, RecordError):
            if read(path).status == "done":
                log.warning("%s: nothing was run, and the finished record in %s stays", cell, path)
                return
    try:
        write(record, cell.results)
    except OSError as error:
        if record.status == "done":
            raise OSError(error.errno, f"{error.strerror}. {_kept_elsewhere(record)}") from error
        raise


def _kept_elsewhere(record: Record) -> str:
    """Keep the record of a finished cell that cannot be written to its place, and say where it is."""
    with contextlib.suppress(OSError):
        folder = Path(tempfile.mkdtemp(prefix="rfnext-unsaved-"))
        return f"The result is kept in {write(record, folder)}: copy that file to its place"
    return f"The result is not kept: {record.model_dump_json()}"


def make_record(cell: Cell, started: str, *, reason: str | None = None, **found: Any) -> Record:
    """The record of a cell that was run, or of one that failed if there is a reason.

    Raises:
        ValueError: if a metric is missing or not a finite number.
    """
    fields = dict(
        **cell.key._asdict(),
        base=cell.base,
        overrides=cell.overrides,
        status="failed" if reason else "done",
        reason=reason and portable(reason),
        protocol=cell.protocol(),
        metric_specs=list(cell.task.metrics_of(cell.config)),
        data=cell.task.data_label(cell.config),
        published=cell.task.published(cell.config),
        device=describe_device(device_of(cell.device)),
        versions=versions(),
        commit=commit(),
        code=code(f"tasks/{cell.task.name}"),
        command=cell.command,
        started=started,
        finished=now(),
        **found,
    )
    try:
        return Record(**fields)
    except ValidationError as error:
        raise ValueError(said(error)) from error


def record_failure(cell: Cell, reason: str) -> Record:
    """Write and return the record of a cell that failed without one; OSError if it cannot be written."""
    record = make_record(cell, now(), reason=reason)
    _write(record, cell)
    return record


def _findings(outcome: Outcome) -> dict[str, Any]:
    found = {part.name: getattr(outcome, part.name) for part in dataclasses.fields(outcome) if part.name != "model"}
    return found | {"structure": as_lists(outcome.structure)}


def _illustrate(cell: Cell, outcome: Outcome) -> list[str]:
    """Pictures of the first cell of each method, as paths relative to the results folder."""
    task = cell.task
    if task.illustrate is None or (cell.fold, cell.seed) != (task.folds(cell.config)[0], 0):
        return []
    folder = cell.results / "pictures" / task.name / cell.preset / cell.method.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = task.illustrate(outcome.model, cell.config, Split("test", cell.fold), folder)
    except Exception:  # a picture is no reason to lose a training
        log.exception("%s: no pictures", cell)
        return []
    return [path.resolve().relative_to(cell.results.resolve()).as_posix() for path in paths]


def now() -> str:
    """Date and time, UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def describe(record: Record) -> str:
    """A record in one line: its metrics, or why there are none."""
    if record.status == "failed" or record.metrics is None:
        return f"failed: {(record.reason or '').splitlines()[0]}"
    return ", ".join(spec.said(record.metrics[spec.name]) for spec in record.metric_specs)


LOG_BYTES = 100_000
"""Of a log's end, handed back by a worker that does not see the driver's folder."""


@dataclass(frozen=True)
class Delivery:
    """What a worker hands back.

    files: paths relative to the results folder and their content, the record's file not among them; None if the worker
        has written everything into the driver's folder itself.
    """

    record: Record
    files: dict[str, bytes] | None = None


@dataclass(frozen=True)
class WholeCell:
    """Work of a worker process: run the cell unless its record is current. The item is the driver's results folder.

    patient: wait for another process that works on the same cell; otherwise raise `places.Busy`.
    """

    patient: bool
    needs_shared_folder: bool = False

    def __call__(self, cell: Cell, results: Path) -> Delivery:
        record = run_cell(cell, wait=self.patient, keep=True)
        if cell.results == results:
            return Delivery(record)
        files = {name: (cell.results / name).read_bytes() for name in record.pictures}
        printed = cell.log.relative_to(cell.results).as_posix()
        return Delivery(record, files | {printed: cell.log.read_bytes()[-LOG_BYTES:]})

    def log(self, cell: Cell, results: Path) -> Path:
        """Of the worker."""
        return cell.log


def receive(delivery: Delivery, results: Path) -> Record:
    """Write what a worker could not write itself, and return its record."""
    if delivery.files is not None:
        for name, content in delivery.files.items():
            write_bytes(results / name, content)
        write(delivery.record, results)
    return delivery.record
