"""One cell of a table.

    python -m benchmarks.run TASK METHOD [--preset P] [--fold F] [--seed S] [field overrides] [--resume]
    python -m benchmarks.run TASK global_ --trial-workers 2        # the candidates of its search side by side
    python -m benchmarks.run --from RECORD [--results DIR] [paths of the data]      # again, from its own config

`--help` lists tasks and methods; with a TASK also every field of its config with the preset's defaults. A
field that is overridden and belongs to the protocol becomes part of the preset's name ("tiny+epochs=3"), so
that the record neither replaces nor mixes with the preset's own.

With --from, the metrics are compared with the record's: on the same machine and versions they are equal.

Exit status: 0 done (--from: and equal), 1 failed (or different), 2 wrong usage, 3 the task's data is missing,
4 different on another machine or with other versions, 130 interrupted.
"""

import contextlib
import dataclasses
import datetime
import difflib
import itertools
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

import tasks
from benchmarks import pool
from benchmarks.methods import METHODS
from benchmarks.record import (
    ROOT,
    Cell,
    Record,
    RecordError,
    claim,
    commit,
    computing_device,
    describe_device,
    fingerprint,
    flat,
    in_a_name,
    kept,
    protocol,
    protocol_differences,
    read,
    rebuild,
    versions,
    work_folder,
    write,
)
from benchmarks.training import Job, Outcome
from rfnext import Structure
from rfnext.files import write_bytes
from rfnext.integrations.wandb import RUN_FILE, init_arguments, log_structure, offline_runs
from tasks.spec import Logger, Split, Task

log = logging.getLogger(__name__)

UNAVAILABLE = "unavailable: "


class UsageError(ValueError):
    """A command line that cannot be run; the message says what to write instead."""


@dataclass(frozen=True)
class Options:
    """How a cell is run, besides the fields of the task's config."""

    preset: str = "tiny"
    """Named config of the task."""
    fold: int | None = None
    """Official train/test split; the first one if not given."""
    seed: int = 0
    """Seed of initial weights, order of the data, dropout and random structures."""
    resume: bool = False
    """Continue an interrupted training of this very cell from its checkpoint."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """Threads of torch on the CPU; 1 as in the suite, so that results do not depend on the cores."""
    trial_workers: int | Literal["auto"] | None = None
    """Candidates that a search trains at a time, each in a process of its own: a number, or auto for one per GPU or
    core; by default one, in this process, or on a cluster all that fit. Results do not depend on it;
    latencies are always measured in this process, on its device, and are never the same twice."""
    ray_address: str | None = None
    """Train candidates on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local to start one here; all else runs
    here. All machines must see the results folder."""
    gpus_per_trial: float | None = None
    """GPUs of a candidate on a cluster, may be a fraction; by default 1 if it has any."""
    logger: Logger = "none"
    """Where the training's curves go."""
    results: Path = ROOT / "results"
    """Folder of the records; checkpoints and logs go to its work folder."""


def run_cell(job: Job, *, wait: bool = True, rerun: bool = True) -> Record:
    """Run a cell and write its record, also if it fails; return the record.

    Args:
        job: the cell.
        wait: for another process that works on the same cell; otherwise raise `record.Busy`.
        rerun: run the cell even if its record is done and has the planned protocol.

    Raises:
        OSError: if the record cannot be written.
        KeyboardInterrupt: if interrupted; no record is written then.
    """
    cell = job.cell
    lock = work_folder(job.results) / "locks" / f"{cell}.lock".replace(" ", "-")
    with claim(lock, wait=wait):
        if not rerun and (done := kept(cell, job.protocol(), job.results)):
            return done
        started = now()
        if missing := job.task.unavailable(job.config):
            record = make_record(job, started, reason=UNAVAILABLE + missing)
        else:
            try:
                outcome = METHODS[cell.method].run(job, **METHODS[cell.method].settings)
                record = make_record(job, started, **_findings(outcome), pictures=_illustrate(job, outcome))
            except SystemExit as error:
                if isinstance(error.__context__, KeyboardInterrupt):  # what Lightning makes of Ctrl-C
                    raise KeyboardInterrupt from error
                raise
            except Exception as error:
                log.exception("%s failed", cell)
                record = make_record(job, started, reason=f"{type(error).__name__}: {error}")
        write(record, job.results)
        if job.logger == "wandb":
            try:
                log_to_wandb(job, record)
            except Exception:  # the record is what counts
                log.exception("%s: the result was not logged", cell)
        return record


def log_to_wandb(job: Job, record: Record) -> None:
    """Add a cell's result to the run of its final training, or to one of its own if there was none.

    Config and cost go to the run's config and summary, pictures and sounds and a table of the metrics to its media,
    the structure to an artifact.
    """
    import wandb

    cell, folder = record.cell, job.folder("train")
    if not (folder / RUN_FILE).exists():
        folder = cell.work(job.results)
        folder.mkdir(parents=True, exist_ok=True)
    name = " ".join(folder.relative_to(work_folder(job.results)).parts)
    with wandb.init(**init_arguments(folder, name=name, group=f"{cell.task} {cell.preset}")) as run:
        about = dataclasses.asdict(cell) | {"data": record.data, "protocol": fingerprint(record.protocol)}
        run.config.update(record.protocol["config"] | about, allow_val_change=True)
        run.summary["status"] = record.status
        if record.metrics is None or record.metrics_last is None or record.validation is None:
            run.summary["reason"] = record.reason
            return
        kinds = {"test": record.metrics, "test_last_epoch": record.metrics_last, "validation": record.validation}
        run.summary.update({f"{kind}/{name}": value for kind, found in kinds.items() for name, value in found.items()})
        for stage, cost in (("search", record.search), ("training", record.training)):
            run.summary.update({f"cost/{stage}_{part}": value for part, value in dataclasses.asdict(cost).items()})
        rows = [[kind, *(found[spec.name] for spec in record.metric_specs)] for kind, found in kinds.items()]
        columns: list[str | int] = ["part", *(f"{spec.name} ({spec.unit})" for spec in record.metric_specs)]
        run.log({"metrics": wandb.Table(columns=columns, data=rows)})
        media = {".png": wandb.Image, ".jpg": wandb.Image, ".wav": wandb.Audio, ".svg": wandb.Html}
        for picture in map(Path, record.pictures):
            if kind := media.get(picture.suffix):
                run.log({picture.stem: kind(str(job.results / picture))})
        if record.structure is not None:
            designed = next((seen["structure"] for seen in record.history if seen["step"] == 0), None)
            log_structure(run, Structure({name: tuple(d) for name, d in record.structure.items()}), designed)


def offline_folders(cell: Cell, results: Path) -> list[Path]:
    """What `wandb sync` uploads of a cell: the runs of its trainings and of the searches that it starts from."""
    searches = work_folder(results) / cell.task / cell.preset / "searches"
    starts = [searches / name / f"fold{cell.fold}-seed{cell.seed}" for name in METHODS[cell.method].searches]
    return [path for folder in (*starts, cell.work(results)) for path in offline_runs(folder)]


@dataclass(frozen=True)
class Assignment:
    """A cell on its way to a worker: its job without the task, whose functions need not be picklable.

    results: the driver's folder. mark: its `pool.mark`.
    patient: wait for another process that works on the same cell.
    """

    cell: Cell
    config: Any
    results: Path
    mark: str
    command: str = ""
    logger: Logger = "none"
    resume: bool = False
    patient: bool = False


@dataclass(frozen=True)
class Delivery:
    """What a worker hands back. files: paths relative to the results folder and their content, the record's file
    not among them; None if the worker has written everything into the driver's folder itself."""

    record: Record
    files: dict[str, bytes] | None = None


LOG_BYTES = 100_000
"""How much of a log's end a worker without the driver's folder hands back."""


def log_path(cell: Cell, results: Path) -> Path:
    """What a cell's worker printed."""
    return cell.work(results) / "log.txt"


def work(assignment: Assignment) -> Delivery:
    """Run a cell in a worker process, whose output goes to the cell's log from here on.

    The record is written as soon as the cell ends. A worker that does not see the driver's folder works in a
    temporary one of its machine and hands the files over.

    Raises:
        Busy: if another process works on the cell and the assignment is not patient.
        RuntimeError: for a SystemExit, which would end the worker.
    """
    cell, results = assignment.cell, assignment.results
    shared_folder = pool.sees(results, assignment.mark)
    if not shared_folder:
        results = Path(tempfile.gettempdir()) / f"rfnext-{assignment.mark}"
    log_file = log_path(cell, results)
    pool.print_to(log_file)
    job = Job(
        cell,
        tasks.load(cell.task),
        assignment.config,
        results,
        settings=METHODS[cell.method].settings,
        command=assignment.command,
        device=pool.device(),
        logger=assignment.logger,
        resume=assignment.resume,
    )
    try:
        record = run_cell(job, wait=assignment.patient, rerun=False)
    except SystemExit as error:
        raise RuntimeError(f"SystemExit: {error.code}") from error
    if shared_folder:
        return Delivery(record)
    files = {name: (results / name).read_bytes() for name in record.pictures}
    return Delivery(record, files | {log_file.relative_to(results).as_posix(): log_file.read_bytes()[-LOG_BYTES:]})


def receive(delivery: Delivery, results: Path) -> Record:
    """Write what a worker could not write itself, and return its record."""
    if delivery.files is not None:
        for name, content in delivery.files.items():
            write_bytes(results / name, content)
        write(delivery.record, results)
    return delivery.record


def make_record(job: Job, started: str, *, reason: str | None = None, **found: Any) -> Record:
    """The record of a cell that was run, or of one that failed if there is a reason.

    Raises ValueError if a metric is missing or not a finite number.
    """
    return Record(
        **dataclasses.asdict(job.cell),
        status="failed" if reason else "done",
        reason=reason and portable(reason),
        protocol=job.protocol(),
        metric_specs=list(job.task.metrics_of(job.config)),
        data=job.task.data_label(job.config),
        published=job.task.published(job.config),
        device=describe_device(computing_device(job.device)),
        versions=versions(),
        commit=commit(),
        command=job.command,
        started=started,
        finished=now(),
        **found,
    )


def _findings(outcome: Outcome) -> dict[str, Any]:
    found = {part.name: getattr(outcome, part.name) for part in dataclasses.fields(outcome) if part.name != "model"}
    return found | {"structure": {name: list(dilation) for name, dilation in outcome.structure.items()}}


def _illustrate(job: Job, outcome: Outcome) -> list[str]:
    """Pictures of the first cell of each method, as paths relative to the results folder."""
    cell = job.cell
    if job.task.illustrate is None or (cell.fold, cell.seed) != (job.task.folds(job.config)[0], 0):
        return []
    folder = job.results / "figures" / cell.task / cell.preset / cell.method
    folder.mkdir(parents=True, exist_ok=True)
    try:
        paths = job.task.illustrate(outcome.model, job.config, Split("test", cell.fold), folder)
    except Exception:  # a picture is no reason to lose a training
        log.exception("%s: no pictures", cell)
        return []
    return [path.resolve().relative_to(job.results.resolve()).as_posix() for path in paths]


def now() -> str:
    """Date and time, UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def portable(text: str) -> str:
    """Text without this machine's folders: records are committed."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


LAST_SEED = 2**32 - 1
"""The largest seed that NumPy takes."""


def check_seed(seed: int, option: str = "--seed") -> None:
    """Raises UsageError if a random generator would refuse the seed."""
    if not 0 <= seed <= LAST_SEED:
        raise UsageError(f"{option} must be between 0 and {LAST_SEED}, got {seed}")


def pick(kind: str, name: str, known: Iterable[str]) -> str:
    """`name`, if it is known; otherwise UsageError with the closest known one."""
    names = list(known)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise UsageError(f"unknown {kind} {name!r}{hint}; known: {', '.join(names)}")


def changes(task: Task[Any], preset: str, config: Any) -> dict[str, Any]:
    """Fields of the protocol in which `config` differs from the preset, by dotted name."""
    before, after = (flat(protocol(task, c, {})["config"]) for c in (task.presets[preset], config))
    return {name: value for name, value in after.items() if before.get(name) != value}


def preset_name(task: Task[Any], preset: str, config: Any) -> str:
    """The preset's name, followed by every field of the protocol in which `config` differs from it."""
    name = preset
    for field, value in changes(task, preset, config).items():
        name += f"+{field}={in_a_name(value)}"
    # It becomes the name of a folder.
    return name if len(name) <= 100 else f"{name[:89]}+{fingerprint(protocol(task, config, {}))}"


def command_line(task: Task[Any], method: str, preset: str, config: Any, fold: int, seed: int) -> str:
    """What to type to run a cell again. Paths, which belong to no protocol, are left to whoever types it."""
    words = ["python -m benchmarks.run", task.name, method, "--preset", preset, "--fold", fold, "--seed", seed]
    for name, value in changes(task, preset, config).items():
        *groups, leaf = name.replace("_", "-").split(".")
        if isinstance(value, bool):
            words.append("--" + ".".join([*groups, leaf if value else f"no-{leaf}"]))
        else:
            values = value if isinstance(value, list) else [value]
            words += ["--" + ".".join([*groups, leaf]), *(shlex.quote(str(item)) for item in values)]
    for part in dataclasses.fields(config):
        differs = getattr(config, part.name) != getattr(task.presets[preset], part.name)
        if differs and not part.metadata.get("protocol", True):
            words += [f"--{part.name.replace('_', '-')}", part.name.upper()]
    return " ".join(map(str, words))


def override(task: Task[Any], preset: str, arguments: Sequence[str], prog: str) -> Any:
    """A preset's config with some fields given on the command line.

    Raises SystemExit for a wrong option or value, which tyro has explained.
    """
    config = task.presets[preset]
    return tyro.cli(type(config), args=list(arguments), default=config, prog=prog)


def parse(arguments: Sequence[str]) -> tuple[Job, Options]:
    """Turn a command line into a job.

    Raises:
        UsageError: for an unknown task, method, preset or fold, an impossible seed or number of threads.
        SystemExit: after --help (0) or a wrong option (2), which tyro has explained.
    """
    names = list(itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[:2]))
    known_tasks = tasks.names()
    overview = (
        "Runs one method on one task: one cell of a table.\n\n"
        f"TASK: {', '.join(known_tasks)}\n\n"
        "METHOD:\n\n" + "\n\n".join(f"{method.name}: {method.description}" for method in METHODS.values())
    )
    if not names:
        tyro.cli(Options, args=list(arguments), prog="python -m benchmarks.run TASK METHOD", description=overview)
        raise UsageError(f"give a TASK ({', '.join(known_tasks)}) and a METHOD ({', '.join(METHODS)}) first")
    task = tasks.load(pick("task", names[0], known_tasks))
    if len(names) == 2:
        pick("method", names[1], METHODS)
    rest = list(arguments[len(names) :])
    preset = pick("preset", _value_of("--preset", rest) or "tiny", task.presets)
    config = task.presets[preset]
    shape = dataclasses.make_dataclass(
        "Arguments",
        [("config", Annotated[type(config), tyro.conf.arg(name="")], dataclasses.field(default=config))],
        bases=(Options,),
        frozen=True,
    )
    prog = f"python -m benchmarks.run {task.name} {names[1] if len(names) == 2 else 'METHOD'}"
    presets = f"PRESET of {task.name}: {', '.join(task.presets)}. Defaults below are those of {preset}."
    try:
        options = tyro.cli(shape, args=rest, prog=prog, description=f"{overview}\n\n{presets}")
    except ValueError as error:  # from the config's own checks
        raise UsageError(str(error)) from error
    if len(names) < 2:
        raise UsageError(f"give a METHOD after the task: {', '.join(METHODS)}")
    check_seed(options.seed)
    if options.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {options.threads}")
    folds = task.folds(options.config)
    fold = folds[0] if options.fold is None else options.fold
    if fold not in folds:
        raise UsageError(f"{task.name} {preset} has no fold {fold}; its folds: {', '.join(map(str, folds))}")
    return (
        Job(
            cell=Cell(task.name, preset_name(task, preset, options.config), names[1], fold, options.seed),
            task=task,
            config=options.config,
            results=options.results,
            settings=METHODS[names[1]].settings,
            command=command_line(task, names[1], preset, options.config, fold, options.seed),
            device=options.device,
            logger=options.logger,
            resume=options.resume,
        ),
        options,
    )


def candidate_workers(method: str, options: Options) -> contextlib.AbstractContextManager[pool.Pool | None]:
    """Where a method's search trains its candidates; None: one after another in this process.

    Raises:
        UsageError: if the options make no sense.
        ClusterError: if the cluster cannot be used.
    """
    count = options.trial_workers
    if count not in (None, "auto") and count < 1:
        raise UsageError(f"--trial-workers must be at least 1 or auto, got {count}")
    if options.gpus_per_trial is not None and options.ray_address is None:
        raise UsageError("--gpus-per-trial is for clusters; give --ray-address, too")
    able = [
        name
        for name, one in METHODS.items()
        if one.ranks or any(search.startswith("genetic") for search in one.searches)
    ]
    if (count is not None or options.ray_address is not None) and method not in able:
        known = ", ".join(able)
        raise UsageError(f"{method} trains nothing side by side; --trial-workers and --ray-address are for {known}")
    if options.ray_address is not None:
        return pool.on_ray(options.ray_address, workers=count or "auto", gpus_per_worker=options.gpus_per_trial)
    if count is None:
        return contextlib.nullcontext()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # numeric libraries of the workers read it when loaded
    devices = pool.choose_devices(count)
    return pool.local(devices if options.device == "auto" else [options.device] * len(devices))


@dataclass(frozen=True)
class Again:
    """Run the cell of a record again, as the record says, and compare."""

    record: Annotated[Path, tyro.conf.arg(name="from")]
    """The record's file."""
    results: Path | None = None
    """Folder to keep the new record in, with its work folder; by default nothing is kept."""
    device: str = ""
    """auto, cpu, cuda, cuda:1, ...; by default of the record's type."""


def parse_again(arguments: Sequence[str], scratch: Path) -> tuple[Job, Record]:
    """Turn `--from RECORD ...` into the job of the record, whose config comes from the file alone.

    The results go to `scratch` unless the arguments name another folder.

    Raises:
        UsageError: if the record cannot be run again by this code.
        SystemExit: after --help (0) or a wrong option (2), which tyro has explained.
    """
    prog = "python -m benchmarks.run"
    path = _value_of("--from", arguments)
    if not path:
        tyro.cli(Again, args=list(arguments), prog=prog)
        raise UsageError("--from wants the file of a record")
    try:
        old = read(Path(path).resolve())
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such record") from error
    except RecordError as error:
        raise UsageError(str(error)) from error
    if old.status != "done":
        raise UsageError(f"{path}: the record of a failed cell has nothing to compare with ({old.reason})")
    task = tasks.load(pick("task", old.task, tasks.names()))
    method = METHODS[pick("method", old.method, METHODS)]
    try:
        config = rebuild(type(task.presets["tiny"]), old.protocol.get("config"))
        shape = dataclasses.make_dataclass(
            "Arguments",
            [("config", Annotated[type(config), tyro.conf.arg(name="")], dataclasses.field(default=config))],
            bases=(Again,),
            frozen=True,
            kw_only=True,
        )
        options = tyro.cli(shape, args=list(arguments), prog=prog, description=f"The cell of {path}.")
    except ValueError as error:
        raise UsageError(f"{path}: {error}; its config is not one of this code's {old.task}") from error
    here = protocol(task, options.config, method.settings)
    if differing := protocol_differences(old.protocol, here):
        raise UsageError(f"{path}: cannot be run again by this code: {', '.join(differing)}")
    results = options.results or scratch
    if old.cell.path(results).resolve() == Path(path).resolve():
        raise UsageError(f"--results {results} would replace the record itself; give another folder")
    torch.set_num_threads(old.device["threads"])
    device = options.device or old.device["type"]
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"{path} was made on {old.device['name']}, there is no GPU here; --device cpu runs it anyway")
    settings = METHODS[old.cell.method].settings
    return Job(old.cell, task, options.config, results, settings=settings, command=old.command, device=device), old


def compare_again(old: Record, new: Record) -> tuple[list[str], list[str]]:
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


def run_again(arguments: Sequence[str]) -> int:
    """Run a record's cell again and say whether it gives the same; see the module for the exit status."""
    with tempfile.TemporaryDirectory(prefix="rfnext-again-") as scratch:
        job, old = parse_again(arguments, Path(scratch))
        new = run_cell(job)
    print(f"{new.cell}: {describe(new)}")
    if new.status == "failed":
        print(f"error: {new.reason}", file=sys.stderr)
        return 3 if (new.reason or "").startswith(UNAVAILABLE) else 1
    results, places = compare_again(old, new)
    for line in results:
        print(f"different: {line}")
    for line in places:
        print(f"not the same machine or version: {line}")
    if not results:
        print("equal: all metrics and the structure are those of the record")
        return 0
    print(f"different: {len(results)} values" + ("; machine or versions differ, too" if places else ""))
    return 4 if places else 1


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The last value given to a flag, as `--flag value` or `--flag=value`."""
    value = None
    for argument, following in itertools.pairwise([*arguments, ""]):
        if argument == flag:
            value = following
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value


def describe(record: Record) -> str:
    """A record in one line: its metrics, or why there are none."""
    if record.status == "failed" or record.metrics is None:
        return f"failed: {(record.reason or '').splitlines()[0]}"
    specs = record.metric_specs
    return ", ".join(f"{spec.name} {record.metrics[spec.name]:.{spec.decimals}f} {spec.unit}" for spec in specs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module for the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    try:
        if _value_of("--from", arguments) is not None:
            return run_again(arguments)
        job, options = parse(arguments)
        torch.set_num_threads(options.threads)
        with candidate_workers(job.cell.method, options) as workers:
            record = run_cell(dataclasses.replace(job, workers=workers))
    except (UsageError, pool.ClusterError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was recorded. The same command with --resume continues.", file=sys.stderr)
        return 130
    print(f"{record.cell}: {describe(record)}")
    print(f"record: {record.cell.path(job.results)}")
    if job.logger == "wandb" and (folders := offline_folders(record.cell, job.results)):
        print(f"Weights & Biases, offline; upload with: wandb sync {shlex.join(map(str, folders))}")
    if record.status == "done":
        return 0
    print(f"error: {record.reason}", file=sys.stderr)
    return 3 if (record.reason or "").startswith(UNAVAILABLE) else 1


if __name__ == "__main__":
    sys.exit(main())
