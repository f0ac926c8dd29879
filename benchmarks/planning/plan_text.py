"""What a suite says before it starts: its tables with their cells and times, what is missing, how to get it."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tabulate import tabulate

import tasks
from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.planning.estimate import Timed, time_training
from benchmarks.planning.plan import Plan, PlannedTable, estimate_seconds
from benchmarks.records.record import Record
from benchmarks.running import pool
from benchmarks.running.live import duration
from tasks.rounds import shortage
from tasks.spec import DataError, SearchUnit

LONGEST = 40.0
"""Seconds that timing a table's steps may take."""

Times = Mapping[str, float | None]
"""Table -> seconds of one worker for what is missing, None where nothing tells."""


def show_details(plan: Plan) -> None:
    """Print tasks with their presets, methods, and the state of every cell of the plan."""
    for name, presets in plan.presets.items():
        print(f"task {name}: presets {', '.join(presets)}")
    for method in METHODS.values():
        print(f"method {method.name}: {method.description}{'' if method.standard else ' (only if named, or by all)'}")
    for name, method, reason in plan.left_out:
        print(f"left out: {name} {method}: {reason}")
    cells = [(cell.key, "done") for cell in plan.kept]
    changed = {key: change for table in plan.tables for key, change in table.changed.items()}
    for table in plan.tables:
        cells += [(cell.key, "unavailable" if table.unavailable else "to run") for cell in table.missing]
    width = max((len(state) for _, state in cells), default=0)
    for key, state in sorted(cells):
        print(f"{state:<{width}} {key}{f': {changed[key]}' if key in changed else ''}")


def show_plan(plan: Plan, records: Sequence[Record], size: int, machine: str | None) -> float | None:
    """Print a line per table, the total, and what is missing with how to get it; return the seconds that all takes.

    Args:
        plan: the plan.
        records: whose costs the estimate is made of.
        size: number of workers.
        machine: device name of the records that are preferred, since they were made here.
    """
    for note in plan.skipped:
        print(f"skipped: {note}")
    times: dict[str, float | None] = {}
    notes: list[str] = []
    rows = []
    for table in plan.tables:
        left, note = _left(table, records, machine)
        if table.runnable:
            times[str(table)] = left
        notes += [note] if note else []
        notes += [
            f"{table}: {change} ({count} cell{'s' if count > 1 else ''})"
            for change, count in Counter(table.changed.values()).items()
        ]
        notes += [f"{table}: the data of its kept cells is not here"] if table.unseen and table.kept else []
        notes += [f"{table}: {table.older}"] if table.older else []
        notes += _short_searches(table)
        rows.append(_row(table, left))
    header = ("task", "preset", "cells", "done", "to run", "unavailable", "work left")
    if rows:
        print(tabulate(rows, header, tablefmt="plain", disable_numparse=True, colalign=("left",) * 2 + ("right",) * 5))
    for note in notes:
        print(note)
    known = [value for value in times.values() if value is not None]
    _show_missing(plan)
    _show_total(plan, times, size)
    return sum(known) / size if len(known) == len(times) else None


def show_needs() -> None:
    """Print what each published row takes, and its command."""
    from benchmarks.report import needs  # with scipy and the tables, which no other plan needs

    print("\nWhat each published row takes (results/full_size/table.md says how it was measured; ~: by few steps):")
    for title, row, steps, hours, memory, data, gpu, command in needs.rows():
        print(f"{title}, {row}: {steps} steps, core-hours {hours}, memory {memory} GB, data {data}, GPU-hours {gpu}")
        print(f"    {command}")


def _row(table: PlannedTable, left: float | None) -> tuple[str, ...]:
    cells, runnable = len(table.kept) + len(table.missing), len(table.runnable)
    said = "-" if not table.runnable else "unknown" if left is None else duration(left)
    gone = len(table.missing) - runnable
    return table.task, table.preset, str(cells), str(len(table.kept)), str(runnable), str(gone), said


def _short_searches(table: PlannedTable) -> list[str]:
    """What is said of local searches whose training is too short for their rounds, before they are run."""
    searching = [cell for cell in table.runnable if any(search.rounds for search in cell.method.searches)]
    if not searching:
        return []
    task, config = searching[0].task, searching[0].config
    length: tuple[int, SearchUnit] = (config.epochs, "epochs")
    if task.search_length is not None:
        try:
            length = task.search_length(config)
        except DataError:  # its cells say what is wrong
            return []
    said = shortage(config.search, *length)
    return [f"{table}: {said} ({len(searching)} cell{'s' if len(searching) > 1 else ''})"] if said else []


def time_elsewhere(cell: Cell) -> Timed:
    """Time a cell's training in a process of its own: what it takes of memory is free again, also if that is too much.

    Raises what the training raises, and WorkerDied if its process ended.
    """
    (device,) = pool.choose_devices(1)
    with pool.local([device]) as one:
        (future,) = one.run(_Timing(device), [cell])
    return future.result()


@dataclass(frozen=True)
class _Timing:
    device: str

    def __call__(self, cell: Cell) -> Timed:
        return time_training(cell.task, cell.config, device=self.device, seconds=LONGEST)


def _left(table: PlannedTable, records: Sequence[Record], machine: str | None) -> tuple[float | None, str]:
    """Seconds of one worker for a table's missing cells, and what they follow from if not from records of here."""
    if not table.runnable:
        return None, ""
    own = [record for record in records if record.device["name"] == machine]
    if (here := estimate_seconds(table.runnable, own)) is not None:
        return here, ""
    if (anywhere := estimate_seconds(table.runnable, records)) is not None:
        return anywhere, f"{table}: time by records of another machine"
    cell = table.runnable[0]
    try:
        print(f"timing a step of {table}, since no record tells its time", flush=True)
        timed = time_elsewhere(cell)
    except Exception as error:  # the cell itself will say it better
        return None, f"{table}: no step could be timed ({type(error).__name__}: {str(error).splitlines()[0]})"
    if math.isinf(timed.training):
        return None, f"{table}: no record tells its time, and {timed}"
    seconds = estimate_seconds(table.runnable, [], timed.training)
    return seconds, f"{table}: no record tells its time; timed here: {timed}"


def _show_missing(plan: Plan) -> None:
    """Print what cannot be run, each reason and each download once."""
    names: dict[str, list[str]] = {}
    reasons: dict[tuple[str, ...], str] = {}
    commands: dict[tuple[str, ...], list[str]] = {}
    for name, reason in plan.broken.items():
        names.setdefault(reason, []).append(name)
    for table in plan.tables:
        if table.unavailable is None:
            continue
        task = tasks.load(table.task)
        lines = task.download(table.missing[0].config) if task.download else ()
        reasons.setdefault(lines, table.unavailable.partition("; ")[0].partition(". ")[0])
        (commands.setdefault(lines, []) if lines else names.setdefault(table.unavailable, [])).append(str(table))
    for reason, several in names.items():
        print(f"unavailable: {', '.join(several)}: {reason}")
    for lines, several in commands.items():
        print(f"unavailable: {', '.join(several)}: {reasons[lines]}; get the data by")
        print("\n".join(f"    {line}" for line in lines))


def _show_total(plan: Plan, times: Times, size: int) -> None:
    known = [value for value in times.values() if value is not None]
    guess = f"about {duration(sum(known) / size)}" if known or not times else "time unknown"
    if len(known) < len(times):
        guess += f" and {len(times) - len(known)} of {len(times)} tables of unknown time" if known else ""
    unavailable = sum(len(table.missing) - len(table.runnable) for table in plan.tables)
    guess = f"; {guess}" if plan.missing else ""
    print(
        f"{len(plan.kept) + len(plan.missing) + unavailable} cells: {len(plan.kept)} kept, {len(plan.missing)} to run, "
        f"{unavailable} unavailable; workers: {size}{guess}",
        flush=True,
    )
