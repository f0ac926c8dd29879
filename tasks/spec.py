"""What a task is: a value that says how to build, train and score a network on some data.

A task has its own data, networks, training loop and metrics; it is independent of methods and tables.
`tasks/README.md` shows how to add one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, NoReturn, Protocol, TypeVar

if TYPE_CHECKING:  # what is said of a task needs no torch
    import torch
    from torch import Tensor, nn

    from rfnext import LocalConfig, Search, Where

Facts = Mapping[str, Any]
"""What a network and its predictions need to know of the data: plain values, such as the names of classes."""


def names_in(facts: Facts, name: str) -> Sequence[str]:
    """The names that a fact lists; ValueError if it is no list of texts, such as that of a file that was changed."""
    found = facts[name]
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"its {name} are no list of names")
    return found


Part = Literal["train", "validation", "test"]
Logger = Literal["none", "csv", "tensorboard", "wandb"]
SearchUnit = Literal["epochs", "iterations"]
"""What a local search counts; iterations are steps of the optimizer."""


class TaskConfig(Protocol):
    """A task's config: a frozen dataclass with at least these fields, which the methods use."""

    @property
    def epochs(self) -> int:
        """Epochs of one full training. Methods with a smaller budget per training reduce it."""
        ...

    @property
    def search(self) -> LocalConfig:
        """Settings of the local search."""
        ...


Config = TypeVar("Config", bound=TaskConfig)


class DataError(ValueError):
    """Data that a task cannot use; the message is "file:line: problem; how to fix it" (line: if it has lines).

    One of a process that loads batches is the same: torch makes it anew of its kind and its whole traceback, of which
    the message is kept.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.rpartition(f"\n{__name__}.DataError: ")[2].strip())


class Problem(NamedTuple):
    """What is wrong with a file or folder of data, in which line (from 1) if it has lines, and how to fix it."""

    path: Path
    line: int | None
    what: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.path}" if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.what}; {self.fix}"


Report = Callable[[Path, int | None, str, str], object]
"""A function that is called with the four parts of a `Problem`: `fail` raises, a checker collects."""


def fail(path: Path, line: int | None, what: str, fix: str) -> NoReturn:
    """The `Report` of a training: raises DataError at the first problem."""
    raise DataError(str(Problem(path, line, what, fix)))


@dataclass(frozen=True)
class Metric:
    """One number of a task's tables. unit: "" if it has none."""

    name: str
    higher_is_better: bool = True
    decimals: int = 1
    unit: str = "%"

    def said(self, value: float) -> str:
        """A value with name and unit: "accuracy 61.6 %"."""
        return f"{self.name} {value:.{self.decimals}f} {self.unit}".rstrip()


@dataclass(frozen=True)
class Split:
    """A part of one fold, e.g. `Split("test", 1)`. "validation" is always carved out of the fold's training data."""

    part: Part
    fold: int


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    epoch: whole epochs done. step: steps done of the next one. steps: of an epoch. scores: of the validation part,
    where the epoch that has just ended was scored.
    """

    epoch: int
    step: int
    steps: int
    scores: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


def unobserved(progress: Progress) -> None:
    """Nobody follows the training."""


@dataclass(frozen=True)
class Run:
    """The circumstances of one training.

    seed: decides everything random in the training.
    folder: where checkpoints and logs go; exists. If `resume` is set, `fit` continues from the checkpoint there.
    search: a search that was already built for the model, or None for plain training.
    device: "auto", "cpu", "cuda", "cuda:1", ...
    name, group: names of this training and of its group of trainings in a logger.
    schedule_epochs: epochs that the learning-rate schedule spans, if it depends on the length of the training. A
        training that is the beginning or the rest of a longer one gets the epochs of the longer one; None:
        `config.epochs`.
    progress: `fit` calls it after every step and every epoch; what it raises ends the training.
    """

    seed: int
    fold: int
    folder: Path
    search: Search | None = None
    logger: Logger = "none"
    resume: bool = False
    device: str = "auto"
    name: str = ""
    group: str = ""
    schedule_epochs: int | None = None
    progress: Callable[[Progress], None] = unobserved


def device_of(name: str) -> torch.device:
    """The device of "auto" (the first GPU, if there is one), "cpu", "cuda", "cuda:1", ...

    Raises ValueError, naming it, for one that is not here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda":  # without starting CUDA, which takes memory in every process
            here = (device.index or 0) < torch.cuda.device_count()
        else:
            here = device.type != "meta" and torch.zeros(1, device=device).item() == 0
    except (AssertionError, ImportError, OverflowError, RuntimeError, ValueError):
        here = False
    if not here:
        known = ", ".join(["auto", "cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))])
        raise ValueError(f"device {name!r} is not here; give one of {known}")
    return device


SELECTED = "selected.pt"
"""File that `fit` may leave in `Run.folder`: the network of the epoch that was best on the validation part, written by
`checkpoint.save`."""


@dataclass(frozen=True)
class Probe:
    """What the receptive fields of one network are measured on; `benchmarks.receptive_fields` measures them.

    forward: (batch, channel, *size) -> (batch, channel_out, *size_out), by the network in evaluation mode, which the
        caller sets. Differentiable and deterministic. The channels of the output are summed, so it should have one
        channel whose gradient is meaningful: the score of the predicted class rather than of all classes.
    inputs: a few real inputs of the split, always the same, each (1, channel, *size) on the network's device.
    unit: unit of distances in the input, e.g. "frames", "pixels".
    step: size of one input position in that unit, per axis.
    output: what `forward` returns, for captions, e.g. "the predicted class's logit".
    shift: distance of a field's centre from the proportional position of its output in the input, in input positions;
        -(stride - 1) / 2 if the stride comes from padded convs with odd kernels.
    """

    forward: Callable[[Tensor], Tensor]
    inputs: Sequence[Tensor]
    unit: str
    step: tuple[float, ...]
    output: str
    shift: float = 0.0


@dataclass(frozen=True)
class DataFiles:
    """The files that decide a config's results, all that it reads and no others. Each may be missing.

    root: folder that they lie in; their names count from here, so a copy of the data elsewhere is the same data.
    labels: labels, annotations and lists, of which every byte counts. inputs: features, images and sound, of which
        large ones are known by a sample. See `benchmarks.records.identity`.
    own: the user's own data, not a data set that the task has a name for. Its results get a place of their own.
    """

    root: Path
    labels: tuple[Path, ...]
    inputs: tuple[Path, ...]
    own: bool

    def state(self) -> tuple[tuple[int, int] | None, ...]:
        """Size and time of change of each file, None of a missing one: what is read is the same while this is."""
        return tuple(_state(path) for path in (*self.labels, *self.inputs))


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):  # of a name that no file can have
        return None
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Task(Generic[Config]):
    """A benchmark task; `tasks.load(name)` returns the `TASK` value of `tasks/<name>/task.py`.

    metrics: the first one drives searches.
    presets: named configs; always has "tiny", which takes seconds per training on a CPU.
    folds: the fold numbers of a config's data, without reading the data.
    fit: trains in place and leaves the model at its last epoch; writes `SELECTED` if it selects an epoch on validation
        data. Never reads the test part. A training that diverges is no error: `evaluate` says it.
    evaluate: metric name -> value on one part, nan if the training diverged or the network overflows; does not change
        the model's weights.
    where: which convs the methods may search.
    unavailable: None, or why a config cannot run here: what to download and where to put it.
    download: shell commands that put a config's missing data where it is looked for; empty where none do. None: never.
    data_label: what the numbers were measured on, for captions, e.g. "seglearn wrist recordings (embedded)".
    published: key of `benchmarks/published.toml` whose numbers were measured on the very same data, or None.
    data_files: the files that decide a config's results, without raising for what is missing or wrong in them; None for
        data that the code makes by itself or takes from a pinned package. A function of None: all data is of that kind.
    illustrate: writes pictures of predictions into a folder and returns their paths, or None.
    metrics_by_config: the metrics of a config, for tasks whose configs have different metrics; None: always `metrics`.
    longest_input: length of the longest input of a searched conv, in the unit of its dilation; genetic searches try no
        larger dilation. None: not known.
    search_length: how long a full training is, in what a local search counts; None: `config.epochs` epochs.
    leaves_out: names of methods that are not applicable to this task, with the reason, which tables show.
    donor: the config of the network on which method transferred_single searches the structure of a config's own
        network; None: no other network has layers of the same roles. None instead of a function: none ever has.
    roles: by searched layer of an initial network, what it is matched by: a layer gets what the donor's layer of the
        same role found. The donor's layers have different ones.
    probe: what receptive fields are measured on; None: they are not measured.
    suites: presets that are run together, by the name of the suite; "paper": the presets with numbers in papers.
    facts: what `build` reads from the data, for files of networks; None: nothing.
    rebuild: what `build` makes of a config, from these facts instead of the data, without pretrained weights.
    """

    name: str
    version: int
    metrics: tuple[Metric, ...]
    presets: Mapping[str, Config]
    build: Callable[[Config], nn.Module]
    fit: Callable[[nn.Module, Config, Run], None]
    evaluate: Callable[[nn.Module, Config, Split], dict[str, float]]
    where: Where
    unavailable: Callable[[Config], str | None]
    folds: Callable[[Config], tuple[int, ...]]
    data_label: Callable[[Config], str]
    published: Callable[[Config], str | None]
    data_files: Callable[[Config], DataFiles | None] | None = None
    download: Callable[[Config], tuple[str, ...]] | None = None
    illustrate: Callable[[nn.Module, Config, Split, Path], list[Path]] | None = None
    metrics_by_config: Callable[[Config], tuple[Metric, ...]] | None = None
    longest_input: Callable[[Config], int] | None = None
    search_length: Callable[[Config], tuple[int, SearchUnit]] | None = None
    leaves_out: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    donor: Callable[[Config], Config | None] | None = None
    roles: Callable[[nn.Module], Mapping[str, Any]] | None = None
    probe: Callable[[nn.Module, Config, Split], Probe] | None = None
    suites: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    facts: Callable[[Config], Facts] | None = None
    rebuild: Callable[[Config, Facts], nn.Module] | None = None

    def presets_of(self, suite: str) -> tuple[str, ...]:
        """The presets of a suite, or the one preset of that name; none if the task has neither."""
        return self.suites.get(suite, (suite,) if suite in self.presets else ())

    def metrics_of(self, config: Config) -> tuple[Metric, ...]:
        """The metrics of a config; the first one drives searches."""
        return self.metrics if self.metrics_by_config is None else self.metrics_by_config(config)
