"""What does it cost to search instead of training? Whole trainings of a task, from the first epoch to the last.

    python -m benchmarks.studies.search_time [--task T] [--preset P] [--rounds 5] [--threads N] [fields of the config]

Per round, one after another: the plain network, its local search branch by branch (what the published code computes),
and the same search by `taps` and by `native`. All train for the same epochs on the same data. Validation and
checkpoints are part of it, as in the main job. The table says whether the searches end in different structures.

The result is kept by task, preset, changed fields, device and threads in results/search_time/measurements.jsonl, and
table.md gathers what is there.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import AfterValidator, Field, with_config
from typing_extensions import TypedDict

import tasks
from benchmarks.methods.training import seed_everything
from benchmarks.records.identity import identify
from benchmarks.records.machine import commit, describe_device, versions
from benchmarks.records.places import ROOT
from benchmarks.records.protocol import overrides
from benchmarks.records.schema import STRICT, Json, Label, Name, Positive, Whole
from benchmarks.report.markdown import pipe
from benchmarks.studies import measurements
from rfnext import LocalSearch, Structure, pin_implementation
from rfnext.files import write_text
from rfnext.ops import native_build
from tasks.command_line import parse_or_end
from tasks.ranges import COUNT, THREADS, check_ranges
from tasks.spec import Run, Task

PLAIN = "plain training"
BRANCHES = "search, branch by branch"
NATIVE = "search, native"
WAYS = {PLAIN: None, BRANCHES: "branches", "search, taps": "taps", NATIVE: "native"}
"""Column of the table -> implementation of the operator; None: no search."""

SAME = ("task", "preset", "overrides", "device", "threads", "data", "files")
"""What is equal in two measurements of which the newer replaces the older."""


class UsageError(ValueError):
    """The task or preset cannot be measured here."""


@dataclass(frozen=True)
class Options:
    """Whole searches against whole plain trainings, in turns."""

    task: str = "action_segmentation"
    """A folder of tasks/."""
    preset: str = "tiny"
    """Its config."""
    rounds: int = 5
    """Each trains every way once."""
    threads: int = 1
    """Of torch; the suite runs its cells on one."""
    results: Path = ROOT / "results/search_time"
    """Folder of the measurements and the table."""

    def __post_init__(self) -> None:
        check_ranges(self, {"rounds": COUNT, "threads": THREADS})


def train(task: Task[Any], config: Any, folder: Path, implementation: str | None) -> tuple[float, Structure | None]:
    """Seconds of one training and, of a search, what it found."""
    seed_everything(0)
    model = task.build(config)
    search = None if implementation is None else LocalSearch(model, config.search, task.where)
    with pin_implementation(implementation or "auto"):
        start = time.perf_counter()
        task.fit(model, config, Run(seed=0, fold=task.folds(config)[0], folder=folder, search=search, device="cpu"))
        seconds = time.perf_counter() - start
    return seconds, search and search.structure()


def chosen(options: Options, fields: Sequence[str]) -> tuple[Task[Any], Any]:
    """The task and its config.

    Args:
        options: what names them.
        fields: command line of the config's fields, e.g. --epochs 4.

    Raises:
        UsageError: if there is no such task or preset, or its data or a C compiler is missing.
        SystemExit: if there is no such field.
    """
    if reason := native_build.failure():
        raise UsageError(f"the search by native kernels is part of the comparison: {reason}")
    try:
        task = tasks.load(options.task)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.preset not in task.presets:
        raise UsageError(f"{task.name} has no preset {options.preset!r}; its presets: {', '.join(task.presets)}")
    preset = task.presets[options.preset]
    config = parse_or_end(type(preset), fields, default=preset, prog="python -m benchmarks.studies.search_time")
    if missing := task.unavailable(config):
        raise UsageError(missing)
    return task, config


def measure(options: Options, task: Task[Any], config: Any) -> dict[str, Any]:
    """Seconds of every way and round, and which ways found another structure than the first search did."""
    torch.set_num_threads(options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    found: dict[str, Structure | None] = {}
    # Round 0 reads the data and compiles the kernels.
    for number in range(options.rounds + 1):
        for name, implementation in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                taken, found[name] = train(task, config, Path(folder), implementation)
            if number:
                seconds[name].append(round(taken, 3))
                print(f"round {number}, {name}: {taken:.1f} s", flush=True)
    searched = {name: structure for name, structure in found.items() if structure is not None}
    return {
        "task": task.name,
        "preset": options.preset,
        "overrides": overrides(task.presets[options.preset], config),
        "data": task.data_label(config),
        "files": identity.fingerprint if (identity := identify(task, config)) else None,
        "epochs": config.epochs,
        "branches": config.search.branches,
        "threads": options.threads,
        "device": describe_device(torch.device("cpu"))["name"],
        "torch": versions()["torch"],
        "commit": commit(),
        "seconds": seconds,
        "other_structure": [name for name, structure in searched.items() if structure != searched[BRANCHES]],
    }


@with_config(STRICT)
class Line(TypedDict):
    """All ways on one task. files: of the user's own data; older lines lack it."""

    task: Name
    preset: Name
    overrides: Json
    data: Label
    files: NotRequired[Label | None]
    epochs: Whole
    branches: Whole
    threads: Whole
    device: Label
    torch: Label
    commit: Label | None
    seconds: dict[Label, Annotated[list[Positive], Field(min_length=1)]]
    other_structure: list[Label]


def _as_many_rounds(line: Line) -> Line:
    if line["seconds"].keys() != WAYS.keys() or len({len(rounds) for rounds in line["seconds"].values()}) > 1:
        raise ValueError(f"seconds needs as many rounds of each of: {', '.join(WAYS)}")
    return line


LINE = Annotated[Line, AfterValidator(_as_many_rounds)]


def table(measured: Sequence[dict[str, Any]]) -> str:
    """Markdown: seconds of each way, and its ratio to plain training, round by round."""
    rows = []
    for one in measured:
        seconds = one["seconds"]
        row = [_about(one), f"{statistics.median(seconds[PLAIN]):.1f}"]
        for name in list(WAYS)[1:]:
            row.append(f"{statistics.median(seconds[name]):.1f} ({_ratios(seconds[name], seconds[PLAIN], '; ')})")
        rows.append([*row, _ratios(seconds[BRANCHES], seconds[NATIVE], " (") + ")"])
    said = (
        "Whole trainings, seconds: median over rounds. In brackets: ratio to the plain training of the same round, "
        "median (smallest to largest). Implementations round differently, and what that does to a training grows, so "
        "searches by two of them may end in different structures; that one step is equal, the tests show in float64."
    )
    return f"{said}\n\n{pipe(['task', *WAYS, 'branches / native'], rows)}\n"


def _ratios(above: Sequence[float], below: Sequence[float], between: str) -> str:
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):.2f}{between}{min(ratios):.2f} to {max(ratios):.2f}"


def _about(one: dict[str, Any]) -> str:
    changed = "".join(f", {name} {value}" for name, value in one["overrides"].items() if name != "epochs")
    rounds, threads = len(one["seconds"][PLAIN]), one["threads"]
    about = (
        f"{one['task']} {one['preset']}, {one['epochs']} epochs{changed}, {one['branches']} branches, "
        f"{threads} thread{'s' * (threads > 1)}, {rounds} rounds; {one['device']}, torch {one['torch']}, "
        f"commit {one['commit']}"
    )
    if one["other_structure"]:
        about += f"; another structure than branch by branch: {', '.join(one['other_structure'])}"
    return about


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options, fields = parse_or_end(Options, arguments, description=__doc__, return_unknown_args=True)
    try:
        task, config = chosen(options, fields)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    others = measurements.read_or_end(options.results, LINE)  # before the time is spent
    measured = measure(options, task, config)
    kept = [one for one in others if any(one.get(name, measured[name]) != measured[name] for name in SAME)]
    every = sorted([*kept, measured], key=lambda one: str([one.get(name) for name in SAME]))
    measurements.write(options.results, every)
    text = table(every)
    write_text(options.results / "table.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
