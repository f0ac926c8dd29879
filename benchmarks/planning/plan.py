"""The plan of a suite: which cells there are, which are kept, which have to be run, and how long that takes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import tasks
from benchmarks.arguments import UsageError, parse_both, pick, preset_name, refuse_idle
from benchmarks.cell import Cell
from benchmarks.methods.method import Method, SearchStage
from benchmarks.methods.table import METHODS
from benchmarks.records.folder import Records
from benchmarks.records.identity import identify
from benchmarks.records.kept import code_change, data_change, kept
from benchmarks.records.record import Key, Record, is_asked_anew
from tasks.spec import Logger, Task


@dataclass(frozen=True)
class Request:
    """The arguments of a suite.

    suite: a task's suite or preset. tasks, methods, folds: only these, if any. seeds: on every fold.
    resume: keep done cells and continue half-finished trainings. committed: keep records that were not run in this
    folder, too.
    overrides: command line of config fields, for one task. name: of the config that they make.
    """

    suite: str
    results: Path
    tasks: Sequence[str] = ()
    methods: Sequence[str] = ()
    folds: Sequence[int] = ()
    seeds: Sequence[int] = (0,)
    logger: Logger = "none"
    resume: bool = True
    committed: bool = False
    overrides: Sequence[str] = ()
    name: str | None = None


@dataclass
class PlannedTable:
    """The cells of one table.

    kept: done cells. missing: those to run. unavailable: what is missing, if they cannot be run.
    changed: why cells are to run whose record differs only in its data.
    unseen: whether the data's files are not here, so that what is kept may be of others.
    older: what to say of kept cells that other code of the task has made, None if there are none.
    left_out: methods that make no sense for the task, with the reason.
    """

    task: str
    preset: str
    kept: list[Cell] = field(default_factory=list)
    missing: list[Cell] = field(default_factory=list)
    unavailable: str | None = None
    changed: dict[Key, str] = field(default_factory=dict)
    unseen: bool = False
    older: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def runnable(self) -> list[Cell]:
        """Cells to run that can be run."""
        return [] if self.unavailable else self.missing

    def __str__(self) -> str:
        return f"{self.task} {self.preset}"


@dataclass
class Plan:
    """What a suite has to do.

    presets: names of suites and presets by task. broken: tasks that cannot be loaded, and why.
    skipped: what else is left out, and why.
    """

    tables: list[PlannedTable] = field(default_factory=list)
    presets: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[Cell]:
        """Cells to run that can be run."""
        return [cell for table in self.tables for cell in table.runnable]

    @property
    def kept(self) -> list[Cell]:
        """Cells that are done."""
        return [cell for table in self.tables for cell in table.kept]

    @property
    def left_out(self) -> list[tuple[str, str, str]]:
        """Table, method and reason of what makes no sense for a task."""
        return [(str(table), *pair) for table in self.tables for pair in table.left_out.items()]

    @property
    def unavailable(self) -> dict[str, str]:
        """What cannot be run, and why: what to download and where to put it."""
        return self.broken | {str(table): table.unavailable for table in self.tables if table.unavailable}


def make_plan(request: Request, records: Records) -> Plan:
    """Sort the cells of a suite into kept and missing ones.

    Raises:
        UsageError: for an unknown task or method, and if no task has the preset.
        SystemExit: for wrong overrides, which tyro has explained.
    """
    if (request.overrides or request.name) and len(request.tasks) != 1:
        raise UsageError("fields after -- and --name belong to one task; name it with --task")
    plan = Plan()
    methods = _methods(request)
    for task in _tasks(request, plan):
        presets = task.presets_of(request.suite)
        if request.name and len(presets) > 1:
            raise UsageError(f"--name belongs to one preset; {request.suite} is {', '.join(presets)} of {task.name}")
        if not presets:
            plan.skipped.append(f"{task.name} has no preset {request.suite!r}; it has {', '.join(task.presets)}")
        for preset in presets:
            if table := _table(task, preset, methods, request, records, plan):
                plan.tables.append(table)
    _refuse_nothing(request, plan)
    return plan


def _methods(request: Request) -> list[Method]:
    if not request.methods:
        return [method for method in METHODS.values() if method.standard]
    named = [pick("method", name, [*METHODS, "all"]) for name in request.methods]
    return [method for name, method in METHODS.items() if name in named or "all" in named]


def _tasks(request: Request, plan: Plan) -> list[Task[Any]]:
    found = []
    for name in [pick("task", name, tasks.names()) for name in request.tasks] or tasks.names():
        try:
            task = tasks.load(name)
        except Exception as error:  # e.g. a task that lacks a package; the others are still run
            plan.broken[name] = f"cannot be loaded: {type(error).__name__}: {error}"
            continue
        plan.presets[name] = [*task.presets, *(suite for suite in task.suites if suite not in task.presets)]
        found.append(task)
    return found


def _refuse_nothing(request: Request, plan: Plan) -> None:
    """Raise UsageError if there is no cell at all."""
    if plan.presets and not any(request.suite in presets for presets in plan.presets.values()):
        pick("preset", request.suite, dict.fromkeys(name for names in plan.presets.values() for name in names))
    if not any(table.kept or table.missing for table in plan.tables) and not plan.broken:
        reasons = [*plan.skipped, *(f"{table}: {method} {why}" for table, method, why in plan.left_out)]
        raise UsageError(f"no cell to run; {'; '.join(reasons)}")


def _table(
    task: Task[Any], base: str, methods: Sequence[Method], request: Request, records: Records, plan: Plan
) -> PlannedTable | None:
    """The planned table of a preset, or None, with a note in the plan, if it has none of the folds."""
    prog = "python -m benchmarks.suite ... --"
    _, config = parse_both(_Nothing(), task.presets[base], request.overrides, prog=prog)
    refuse_idle(task.presets[base], config)
    folds = task.folds(config)
    if unknown := [fold for fold in request.folds if fold not in folds]:
        known = ", ".join(map(str, folds))
        plan.skipped.append(f"{task.name} has no fold {', '.join(map(str, unknown))}; it has {known}")
    chosen = [fold for fold in folds if fold in (request.folds or folds)]
    if not chosen:
        return None
    identity = identify(task, config)
    table = PlannedTable(task.name, preset_name(task, base, config, request.name, identity))
    table.unseen = identity is None and task.data_files is not None and task.data_files(config) is not None
    table.left_out = {m.name: reason for m in methods if (reason := m.unfit(task, config))}
    rows = [method for method in methods if method.name not in table.left_out]
    protocols: dict[str, dict[str, Any]] = {}
    records_kept: list[Record] = []
    for fold, seed, method in ((f, s, m) for f in chosen for s in request.seeds for m in rows):
        cell = Cell(
            task=task,
            preset=table.preset,
            config=config,
            method=method,
            fold=fold,
            seed=seed,
            results=request.results,
            base=base,
            logger=request.logger,
            resume=request.resume,
            identity=identity,
        )
        if method.name not in protocols:
            protocols[method.name] = cell.protocol()
        planned = protocols[method.name]
        anew = not request.resume or is_asked_anew(cell.key, cell.results)
        done = None if anew else kept(cell.key, planned, records, committed=request.committed)
        (table.kept if done else table.missing).append(cell)
        records_kept += [done] if done else []
        if not done and (change := data_change(cell.key, planned, task.data_label(config), records)):
            table.changed[cell.key] = change
    table.older = code_change(task.name, records_kept)
    if table.missing:
        table.unavailable = task.unavailable(config)
    return table


@dataclass(frozen=True)
class _Nothing:
    """No options beside the config's fields."""


SharedSearch = tuple[str, str, int, int, str]
"""Task, preset, fold, seed and name of a search that is done once."""


def shared_searches(cell: Cell) -> list[SharedSearch]:
    """The searches of a cell that other cells may share, each going on from the one before."""
    place = cell.task.name, cell.preset, cell.fold, cell.seed
    return [(*place, search.name) for search in cell.method.searches if search.shared]


def estimate_seconds(missing: Sequence[Cell], records: Sequence[Record], training: float | None = None) -> float | None:
    """Seconds that one worker would take for the missing cells, by records like them; None if there are none.

    training: seconds of one training, for rows of which no record tells.

    A cell's training is estimated by the finished records of its task, preset and method, or of the other methods where
    that has none; a search by the trainings that it costs. A search that several cells share is counted once.
    """
    timed: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.status == "done" and not record.resumed:
            timed.setdefault((record.task, record.preset), []).append(record)
    rows: dict[tuple[str, str, str], tuple[float, dict[str, float]] | None] = {}
    counted: set[SharedSearch] = set()
    total = 0.0
    for cell in missing:
        row = cell.key[:3]
        if row not in rows:
            rows[row] = _row_seconds(cell.method, timed.get(row[:2], [])) or _by_training(cell.method, training)
        if (known := rows[row]) is None:
            return None
        total += known[0]
        for search in cell.method.searches:
            key = (cell.task.name, cell.preset, cell.fold, cell.seed, search.name)
            if key not in counted:
                total += known[1][search.name]
            if search.shared:
                counted.add(key)
    return total


def _row_seconds(method: Method, similar: Sequence[Record]) -> tuple[float, dict[str, float]] | None:
    """Seconds of a method's cell without its searches, and of each search, by records of its table."""
    trained = [r for r in similar if r.training.seconds]
    own = [r for r in trained if r.method == method.name]
    if not (same := own or trained):
        return None
    training = fmean(r.training.seconds for r in same)
    alone = fmean(r.evaluation_seconds for r in same) + (training if method.finish.trains else 0)
    if own and not method.searches:  # a finish may choose something on the validation part
        alone += fmean(r.search.seconds for r in own)
    return alone, {search.name: _search_seconds(search, similar, training) for search in method.searches}


def _by_training(method: Method, training: float | None) -> tuple[float, dict[str, float]] | None:
    """As `_row_seconds`, by the time of one training."""
    if training is None:
        return None
    return training * method.finish.trains, {search.name: training * search.trainings for search in method.searches}


def _search_seconds(search: SearchStage, similar: Sequence[Record], training: float) -> float:
    """Of a search without those before it: by records of both, else by its number of trainings."""
    whole, before = _mean_search(search, similar), _mean_search(search.start, similar) if search.start else 0.0
    if whole is None or before is None:
        return search.trainings * training
    return max(0.0, whole - before)


def _mean_search(search: SearchStage, similar: Sequence[Record]) -> float | None:
    """Seconds of a search and those before it, by records that end with it; None if there are none."""
    seconds = [r.search.seconds for r in similar if (method := METHODS.get(r.method)) and method.search == search]
    return fmean(seconds) if seconds else None
