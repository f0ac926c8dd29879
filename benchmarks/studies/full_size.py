"""What the published protocols cost at their full size: steps, hours, memory and disk of every published row.

    python -m benchmarks.studies.full_size [breakfast 50salads gtea ljspeech] [--labels FOLDER] [--missing]

Makes data of the published sizes in a temporary folder: the sizes of `tasks.action_segmentation.published_sizes` with
2,048 features a frame, and 13,100 clips of noise as long as those of LJSpeech. For each network of the published rows,
two epochs of fold 1 are trained by the task's own code, with the published network, batch and data, and the test part
is scored. What needs more CPU time than --minutes (--others: a search, or another network than the preset's own) is
stopped; its steps until then count. Each runs in a process of its own, on one thread. Seconds are CPU seconds, so that
other load on the machine counts little.

What is measured is kept in results/full_size/measurements.jsonl, the newest of each; table.md has what each row needs.
"""

import contextlib
import dataclasses
import logging
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from pydantic import AfterValidator, Field, with_config
from torch import nn
from typing_extensions import TypedDict

import tasks
from benchmarks.methods.training import seed_everything
from benchmarks.records.machine import PeakMemory, commit, describe_device, versions
from benchmarks.records.places import ROOT
from benchmarks.records.schema import STRICT, Amount, Json, Label, Name, Positive, Real, Whole
from benchmarks.report.needs import PLAIN, Job, jobs, table
from benchmarks.studies import measurements
from rfnext import LocalSearch
from rfnext.files import write_text
from tasks.action_segmentation.published_sizes import SIZES, make_folder
from tasks.command_line import parse_or_end
from tasks.ranges import NOT_NEGATIVE, check_names, check_ranges
from tasks.spec import Progress, Run, Split, Task
from tasks.tts_vocoder.datasets import LJSPEECH_CLIPS

EPOCHS = 2
"""Epochs of each training, unless its time is up."""

SCORED_CLIPS = 3
"""Test clips of speech that are scored; the others are counted as these."""

DISTINCT = 100
"""Made clips of different content; the others are links to these."""


@dataclass(frozen=True)
class Options:
    """Measures what the published rows cost."""

    data: tyro.conf.Positional[tuple[str, ...]] = ()
    """Data sets; default: all."""
    labels: Path | None = None
    """Folder of 50 Salads of the MS-TCN release, of which mapping, labels and splits are used; default: made-up."""
    minutes: float = 20
    """CPU time of the training of a preset's own network."""
    others: float = 1
    """CPU minutes of each search and each other network."""
    missing: bool = False
    """Measure only what has no line yet."""
    results: Path = ROOT / "results/full_size"
    """Folder of the measurements and the table."""

    def __post_init__(self) -> None:
        check_ranges(self, {"minutes": NOT_NEGATIVE, "others": NOT_NEGATIVE})
        check_names(self, {"data": sorted({job.preset for job in jobs()})})


@with_config(STRICT)
class Line(TypedDict):
    """One network in one stage."""

    task: Name
    preset: Name
    fields: Json
    stage: Label
    steps: Whole
    validation_seconds: Amount | None
    measured_steps: Whole
    step_seconds: Positive
    step_deviation: Amount
    epochs: Whole
    validate_every: Annotated[int, Field(ge=1)]
    test_seconds: Amount
    scores: dict[Label, Real]
    peak_gib: Positive
    parameters: Whole
    data_gb: Amount
    device: Label
    torch: Label
    commit: Label | None


def _known(line: Line) -> Line:
    if Job.of(line) not in jobs():
        raise ValueError("is of a network that no published row needs")
    return line


LINE = Annotated[Line, AfterValidator(_known)]


class _Enough(BaseException):
    """Ends a training whose time is up; no `except Exception` may hold it."""


def make_data(name: str, root: Path, labels: Path | None) -> None:
    """Make a data set of its published size. labels: of 50 Salads."""
    if name in SIZES:
        make_folder(root, SIZES[name], labels if name == "50salads" else None)
        return
    import soundfile

    random = np.random.default_rng(0)
    (root / "wavs").mkdir(parents=True)
    # Seconds between LJSpeech's extremes, with its mean of 6.57.
    seconds = 1.11 + 8.99 * random.beta(2.2, 1.42, DISTINCT)
    for number in range(LJSPEECH_CLIPS):
        path = root / "wavs" / f"LJ{number:05}.wav"
        if number < DISTINCT:
            wave = np.clip(0.3 * random.standard_normal(round(22050 * seconds[number])), -0.9, 0.9)
            soundfile.write(path, wave, 22050, subtype="PCM_16")
        else:
            path.hardlink_to(root / "wavs" / f"LJ{number % DISTINCT:05}.wav")


def measure(job: Job, root: Path, minutes: float) -> dict[str, Any]:
    """Train and score one network in this process."""
    torch.set_num_threads(1)
    task = tasks.load(job.task)
    config = dataclasses.replace(task.presets[job.preset], root=root, **job.fields)
    own = {"dataset": "folder", "folds": (1,)} if job.preset in SIZES else {}
    short = dataclasses.replace(config, epochs=EPOCHS, validate_every=EPOCHS, **own)
    seed_everything(0)
    memory = PeakMemory("cpu")
    model = task.build(short)
    search = None if job.stage == PLAIN else LocalSearch(model, config.search, task.where)
    found = _train(task, model, short, search, minutes)
    few = {} if job.preset in SIZES else {"test": SCORED_CLIPS}
    scored, start = dataclasses.replace(short, **few), time.process_time()
    scores = task.evaluate(model, scored, Split("test", 1)) if job.stage == PLAIN else {}
    taken = time.process_time() - start
    return {
        "task": job.task,
        "preset": job.preset,
        "fields": job.fields,
        "stage": job.stage,
        **found,
        "epochs": config.epochs,
        "validate_every": config.validate_every,
        "test_seconds": round(taken * (config.test / SCORED_CLIPS if few else 1), 2),
        "scores": {name: round(value, 2) for name, value in scores.items()},
        "peak_gib": round((memory.read() or math.nan) / 1024, 2),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "data_gb": round(sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 1e9, 2),
        "device": describe_device(torch.device("cpu"))["name"],
        "torch": versions()["torch"],
        "commit": commit(),
    }


def _train(
    task: Task[Any], model: nn.Module, config: Any, search: LocalSearch | None, minutes: float
) -> dict[str, Any]:
    """CPU seconds of the steps, the first left out, and of scoring the validation part, where it was reached."""
    steps: list[float] = []
    seen: dict[str, Any] = {"steps": 0, "validation_seconds": None}
    last = begun = time.process_time()

    def follow(progress: Progress) -> None:
        nonlocal last
        now = time.process_time()
        if progress.step:
            steps.append(now - last)
        elif progress.scores:
            seen["validation_seconds"] = round(now - last, 2)
        last, seen["steps"] = now, progress.steps
        if now - begun > 60 * minutes and len(steps) > 3 and not progress.scores:
            raise _Enough

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Enough):
        task.fit(model, config, Run(seed=0, fold=1, folder=Path(folder), search=search, device="cpu", progress=follow))
    counted = steps[1:]
    return seen | {
        "measured_steps": len(steps),
        "step_seconds": round(statistics.fmean(counted), 4),
        "step_deviation": round(statistics.stdev(counted), 4),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options, every = parse_or_end(Options, arguments, description=__doc__), jobs()
    measurements.read_or_end(options.results, LINE)  # before hours are spent
    logging.getLogger("rfnext").setLevel(logging.WARNING)
    context = multiprocessing.get_context("spawn")
    known = {Job.of(one) for one in measurements.read_or_end(options.results, LINE)} if options.missing else set()
    wanted = [job for job in every if job not in known and (not options.data or job.preset in options.data)]
    for name in dict.fromkeys(job.preset for job in wanted):
        with tempfile.TemporaryDirectory() as folder:
            make_data(name, Path(folder) / name, options.labels)
            for job in (one for one in wanted if one.preset == name):
                minutes = options.minutes if job.stage == PLAIN and not job.changed else options.others
                # A process of its own: the largest memory is that of its whole life.
                with ProcessPoolExecutor(1, context) as process:
                    found = process.submit(measure, job, Path(folder) / name, minutes).result()
                print(found, flush=True)
                kept = [one for one in measurements.read_or_end(options.results, LINE) if Job.of(one) != job]
                order = sorted([*kept, found], key=lambda one: every.index(Job.of(one)))
                measurements.write(options.results, order)
                write_text(options.results / "table.md", table(order))
    print(table(measurements.read_or_end(options.results, LINE)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
