"""What it takes to reproduce each published row: hours, memory, disk, steps and the command.

Hours of action segmentation and speech follow from steps that `benchmarks.studies.full_size` has measured; those of
detectors on GPUs are not measured and only estimated, see `paper_rows`.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tasks
from benchmarks.methods.method import Method
from benchmarks.methods.table import METHODS
from benchmarks.records.places import ROOT
from benchmarks.report.markdown import pipe
from benchmarks.report.paper_rows import COCO_IMAGES, SPEECH, TABLES, Line, Published, published_memory, rounded
from benchmarks.studies import measurements

MEASURED = ROOT / "results/full_size"
"""The measurements that come with the repository."""

PLAIN, SEARCH = "training", "search"
"""What is measured of a network: its training, and its training in local search, with 3 branches a conv."""

ON_GPU = "not measured"
"""GPU-hours of every row: no row was run on a GPU."""

ROUGH = 0.1
"""Share of two epochs: hours that follow from a smaller one have a "~"."""

IMAGES = 16
"""Images of a step of a detector."""


@dataclass(frozen=True)
class Job:
    """One network to measure: a preset with fields changed, in one of the stages."""

    task: str
    preset: str
    stage: str
    changed: tuple[tuple[str, Any], ...] = ()

    @property
    def fields(self) -> dict[str, Any]:
        """The changed fields."""
        return dict(self.changed)

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> "Job":
        """What was measured."""
        return cls(measured["task"], measured["preset"], measured["stage"], tuple(measured["fields"].items()))


@dataclass(frozen=True)
class Need:
    """What a row takes. hours: of one core, None if unknown. memory: GB. disk: GB of the data, unpacked.

    rough: hours follow from less than `ROUGH` of two epochs.
    """

    steps: int
    hours: float | None
    memory: float | None
    disk: float | None
    rough: bool = False


def _job(table: Published, line: Line, stage: str) -> Job:
    return Job(table.task, table.preset, stage, tuple(line.fields.items()))


def _stages(method: Method) -> tuple[str, ...]:
    """The trainings of a cell."""
    return (SEARCH,) * len(method.searches) + (PLAIN,) * method.finish.trains


def jobs() -> list[Job]:
    """All that rows need to know, each once: plain trainings also where only a search is needed, for the scoring."""
    found: dict[Job, None] = {}
    for table in (*TABLES, *SPEECH):
        if table.task == "coco_detection":
            continue
        for line in (line for line in table.lines if line.method):
            for stage in (PLAIN, *_stages(METHODS[line.method or ""])):
                found[_job(table, line, stage)] = None
    return sorted(
        found,
        key=lambda job: (job.task, [*tasks.load(job.task).presets].index(job.preset), job.changed, job.stage),
    )


@functools.cache
def committed() -> tuple[dict[str, Any], ...]:
    """The measurements of the repository."""
    return tuple(measurements.read(MEASURED))


def need(table: Published, line: Line, measured: Sequence[Mapping[str, Any]] | None = None) -> Need:
    """What a row takes, in all folds and seeds. measured: default: `committed`."""
    if table.task == "coco_detection":
        return _detector(table, line)
    found = {Job.of(one): one for one in (committed() if measured is None else measured)}
    stages = _stages(METHODS[line.method or ""])
    own = [found.get(_job(table, line, stage)) for stage in stages]
    plain = found.get(_job(table, line, PLAIN))
    cells = table.folds * len(table.seeds)
    if plain is None or None in own:
        return Need(0, None, None, None)
    trainings = [one for one in own if one is not None]
    # A cell scores the test part at the chosen epoch and at the last one, and the validation part once more.
    seconds = sum(_training_seconds(one, plain) for one in trainings) + 2 * plain["test_seconds"] + _validation(plain)
    return Need(
        steps=cells * sum(one["epochs"] * one["steps"] for one in trainings),
        hours=cells * seconds / 3600,
        memory=max(one["peak_gib"] for one in trainings) * 2**30 / 1e9,
        disk=plain["data_gb"],
        rough=min(map(_measured_share, trainings)) < ROUGH,
    )


def _training_seconds(one: Mapping[str, Any], plain: Mapping[str, Any]) -> float:
    """Of all steps of the schedule, and of scoring the validation part whenever it says so."""
    scorings = math.ceil(one["epochs"] / one["validate_every"])
    return one["epochs"] * one["steps"] * one["step_seconds"] + scorings * (
        one["validation_seconds"] or _validation(plain)
    )


def _validation(plain: Mapping[str, Any]) -> float:
    """Seconds of scoring the validation part; where that was not reached, of the test part, which is not smaller."""
    return plain["validation_seconds"] or plain["test_seconds"]


def _detector(table: Published, line: Line) -> Need:
    """Steps of the published schedule, and memory of as many images as a step has, by the published memory of 2."""
    method = METHODS[line.method or ""]
    search, single = published_memory()[table.memory or ""]
    memory = IMAGES / 2 * (search if method.searches else single)
    return Need(len(_stages(method)) * (table.epochs or 0) * math.ceil(COCO_IMAGES / IMAGES), None, memory, None)


COLUMNS = ("table", "row", "steps", "core-hours", "memory, GB", "data", "GPU-hours", "command")


def rows(measured: Sequence[Mapping[str, Any]] | None = None) -> list[tuple[str, ...]]:
    """A line of `COLUMNS` for every row that the repository can measure."""
    found = []
    for table in (*TABLES, *SPEECH):
        for line in (line for line in table.lines if line.method):
            one = need(table, line, measured)
            numbers = [f"{one.steps:,}" if one.steps else "?"]
            numbers += ["not measured" if one.hours is None else "~" * one.rough + rounded(one.hours)]
            numbers += ["?" if one.memory is None else rounded(one.memory)]
            numbers += [table.needs if one.disk is None else f"{rounded(one.disk)} GB"]
            found.append((table.title, ", ".join(line.words), *numbers, ON_GPU, table.command(line)))
    return found


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: what each row takes, and what was measured for it."""
    about = (
        "What it takes to reproduce each published row: all folds and three seeds of action segmentation and speech, "
        "one run of a detector. Core-hours: CPU time on one core of the machine below, the seconds of a measured step"
        " x the steps of the row's preset, scoring included, the wait for the disk not; ~: from less than a tenth of "
        "two epochs. All networks of action segmentation are trained by one schedule, 65 epochs, which need not be "
        "that of their authors. Memory: of one cell, on the CPU; for detectors 8 times the published GPU memory of 2 "
        "images. GPU-hours: no row was run on a GPU. A row that searches is counted with its search; rows of one data"
        " set share that."
    )
    head = ("data", "network", "stage", "steps of an epoch", "measured steps", "seconds a step", "validation, s")
    head += ("test, s", "peak, GiB", "parameters", "test scores after these steps, made-up features")
    lines = []
    for one in measured:
        scoring = "-" if one["validation_seconds"] is None else f"{one['validation_seconds']:.1f}"
        lines.append(
            (
                one["preset"],
                ", ".join(f"{name} {value}" for name, value in one["fields"].items()) or "as in the preset",
                one["stage"],
                str(one["steps"]),
                f"{one['measured_steps']}{_share(one)}",
                f"{one['step_seconds']:.3g} ± {one['step_deviation']:.2g}",
                scoring,
                f"{one['test_seconds']:.1f}",
                f"{one['peak_gib']:.1f}",
                f"{one['parameters']:,}",
                ", ".join(f"{name} {value:g}" for name, value in one["scores"].items()) or "-",
            )
        )
    machines = sorted({f"{one['device']}, torch {one['torch']}, commit {one['commit']}" for one in measured})
    return (
        f"# The published protocols at full size\n\n{about}\n\n{pipe(COLUMNS, rows(measured), words=2)}\n\n"
        "## What was measured\n\nFold 1, two epochs, or the steps until the time was up; one thread, "
        f"{'; '.join(machines)}. Seconds a step: mean and ± standard deviation over all steps but the first; the "
        "videos of steps differ in length.\n\n"
        f"{pipe(head, lines, words=3)}\n"
    )


def _measured_share(one: Mapping[str, Any]) -> float:
    """How much of the two epochs was run."""
    return one["measured_steps"] / (2 * one["steps"])


def _share(one: Mapping[str, Any]) -> str:
    """How much of the two epochs was run, if not all."""
    share = _measured_share(one)
    return "" if share >= 1 else f" ({100 * share:.2g} % of two epochs)"
