"""What does it take to search instead of training? Whole trainings of a task, from the first epoch to the last.

    python -m benchmarks.studies.search_time [--task T] [--preset P] [--rounds 5] [--threads N] [fields of the config]

Per round, one after another: the plain network, its local search branch by branch (what the published code computes),
and the same search by `taps` and by `native`. All train for the same epochs on the same data; validation and
checkpoints belong to it, as in the main job. The table says if the searches end in different structures.

The result is kept by task, preset, device and threads in `results/studies/search_time`, and `table.md` gathers what is
there.
"""

import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

import tasks
from benchmarks.record import ROOT, commit, describe_device, versions
from benchmarks.run import UsageError, override, preset_name
from benchmarks.training import seed_everything
from rfnext import LocalSearch, Structure
from rfnext.files import write_text
from rfnext.ops import native_build as native_library
from rfnext.ops.choice import pin_implementation
from tasks.spec import Run

PLAIN = "plain training"
WAYS = {PLAIN: None, "search, branch by branch": "branches", "search, taps": "taps", "search, native": "native"}


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
    results: Path = ROOT / "results/studies/search_time"
    """Folder of the measurements and the table."""


def train(task: Any, config: Any, folder: Path, implementation: str | None) -> tuple[float, Structure | None]:
    """Seconds of one training and, of a search, what it found."""
    seed_everything(0)
    model = task.build(config)
    search = None if implementation is None else LocalSearch(model, config.search, task.where)
    with pin_implementation(implementation or "auto"):
        start = time.perf_counter()
        task.fit(model, config, Run(seed=0, fold=task.folds(config)[0], folder=folder, search=search, device="cpu"))
        seconds = time.perf_counter() - start
    return seconds, search and search.structure()


def measure(options: Options, fields: Sequence[str]) -> dict[str, Any]:
    """Seconds of every way and round, and which ways found another structure than the first search did.

    Args:
        fields: command line of the config's fields, e.g. --epochs 4.

    Raises:
        UsageError: if there is no such task, preset or field, or its data or a C compiler is missing.
    """
    if reason := native_library.failure():
        raise UsageError(f"the search by native kernels is part of the comparison: {reason}")
    if options.task not in tasks.names():
        raise UsageError(f"no task {options.task!r}; the tasks: {', '.join(tasks.names())}")
    task = tasks.load(options.task)
    if options.preset not in task.presets:
        raise UsageError(f"{task.name} has no preset {options.preset!r}; its presets: {', '.join(task.presets)}")
    config = override(task, options.preset, fields, "python -m benchmarks.studies.search_time")
    if missing := task.unavailable(config):
        raise UsageError(missing)
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
    first = next(iter(searched.values()))
    return {
        "task": task.name,
        "preset": preset_name(task, options.preset, config),
        "data": task.data_label(config),
        "epochs": config.epochs,
        "branches": config.search.branches,
        "threads": options.threads,
        "device": describe_device(torch.device("cpu"))["name"],
        "torch": versions()["torch"],
        "commit": commit(),
        "seconds": seconds,
        "other_structure": [name for name, structure in searched.items() if structure != first],
    }


def table(measured: Sequence[dict[str, Any]]) -> str:
    """Markdown: seconds of each way, and its ratio to plain training, round by round."""
    lines = [
        "Whole trainings, seconds: median over rounds. In brackets: ratio to the plain training of the same round, "
        "median (smallest to largest). Implementations round differently, and what that does to a training grows, so "
        "searches by two of them may end in different structures; that one step is equal, the tests show in float64.",
        "",
        f"| task | {' | '.join(WAYS)} | branches / native |",
        "| --- |" + " ---: |" * (len(WAYS) + 1),
    ]
    for one in measured:
        cells = []
        for name in WAYS:
            times = one["seconds"][name]
            ratios = [t / plain for t, plain in zip(times, one["seconds"][PLAIN], strict=True)]
            spread = f" ({statistics.median(ratios):.2f}; {min(ratios):.2f} to {max(ratios):.2f})"
            cells.append(f"{statistics.median(times):.1f}" + ("" if name == PLAIN else spread))
        names = list(WAYS)
        gains = [b / t for b, t in zip(one["seconds"][names[1]], one["seconds"][names[-1]], strict=True)]
        cells.append(f"{statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})")
        about = (
            f"{one['task']} {one['preset']}, {one['epochs']} epochs, {one['branches']} branches, "
            f"{one['threads']} thread{'s' * (one['threads'] > 1)}, {len(one['seconds'][PLAIN])} rounds; "
            f"{one['device']}, torch {one['torch']}, commit {one['commit']}"
        )
        if one["other_structure"]:
            about += f"; another structure than branch by branch: {', '.join(one['other_structure'])}"
        lines.append(f"| {about} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options, fields = tyro.cli(Options, args=arguments, description=__doc__, return_unknown_args=True)
    try:
        measured = measure(options, fields)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    device = re.sub(r"\W+", "-", measured["device"])
    name = f"{options.task}-{measured['preset']}-{device}-{options.threads}threads.json"
    write_text(options.results / name, json.dumps(measured, indent=1) + "\n")
    text = table([json.loads(path.read_text("utf-8")) for path in sorted(options.results.glob("*.json"))])
    write_text(options.results / "table.md", text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
