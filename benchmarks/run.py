"""One cell of a table.

    python -m benchmarks.run TASK METHOD [--preset P] [--fold F] [--seed S] [field overrides] [--resume]

`--help` lists tasks and methods; with a TASK also every field of its config with the preset's defaults. A
field that is overridden and belongs to the protocol becomes part of the preset's name ("tiny+epochs=3"), so
that the record neither replaces nor mixes with the preset's own.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 the task's data is missing, 130 interrupted.
"""

import dataclasses
import datetime
import difflib
import itertools
import logging
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

import tasks
from benchmarks.methods import METHODS, Job, Outcome
from benchmarks.record import (
    ROOT,
    Cell,
    Record,
    claim,
    commit,
    describe_device,
    fingerprint,
    kept,
    protocol,
    versions,
    work_folder,
    write,
)
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
        return record


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


def computing_device(device: str) -> torch.device:
    """The torch device that "auto" or a device's name stands for."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


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
    before, after = (_flat(protocol(task, c, {})["config"]) for c in (task.presets[preset], config))
    return {name: value for name, value in after.items() if before.get(name) != value}


def preset_name(task: Task[Any], preset: str, config: Any) -> str:
    """The preset's name, followed by every field of the protocol in which `config` differs from it."""
    name = preset
    for field, value in changes(task, preset, config).items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        name += f"+{field}=" + re.sub(r"[^\w.,-]+", "_", text)
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


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def parse(arguments: Sequence[str]) -> tuple[Job, Options]:
    """Turn a command line into a job.

    Raises:
        UsageError: for an unknown task, method, preset or fold.
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
            command=command_line(task, names[1], preset, options.config, fold, options.seed),
            device=options.device,
            logger=options.logger,
            resume=options.resume,
        ),
        options,
    )


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
        job, options = parse(arguments)
        torch.set_num_threads(options.threads)
        record = run_cell(job)
    except UsageError as error:
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
    if record.status == "done":
        return 0
    print(f"error: {record.reason}", file=sys.stderr)
    return 3 if (record.reason or "").startswith(UNAVAILABLE) else 1


if __name__ == "__main__":
    sys.exit(main())
