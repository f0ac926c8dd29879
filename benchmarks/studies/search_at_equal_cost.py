"""Where does searching pay? Searches and tuned designs at equal budgets, on networks of 2 to 10 layers.

    python -m benchmarks.studies.search_at_equal_cost [--minutes 60] [--results results/search_at_equal_cost]

The protocol, written before any result was seen:

Data (`tasks.load_forecasting`): elecdemand, taylor, calls and births have lags of their own, a day and a week, or a
week and a year; treering has none and is the control. Folds 1 to 5 are blocks in time, each tested later than it was
trained and validated; three seeds.

Network: the task's, 16 channels, with 2, 3, 4, 6, 8 or 10 layers of kernel 3. One training is 12 epochs of 10 steps on
the whole training part, Adam at 0.02 along half a cosine; the epoch is selected on validation. These two were chosen on
the validation parts of elecdemand alone (folds 2 and 4, seed 0, three layers, no search), and stay as they are on the
other sets. So do all settings of the searches, which are those of the preset "tiny" and of the suite's methods.

Methods (`equal_cost_searches`), with the trainings that finding the design takes:

- hand, 0: 1, 2, 4, ...
- expert, 0: knows the seasons: 48, 96, 336 on elecdemand.
- middle, 0: 23 in every layer, the geometric middle of the candidates, which one_shot gives if it has learnt nothing.
  Added when results had been seen.
- tuned, 3: the best on validation of 15 geometric designs, first and last dilation from 1, 4, 16, 64, 256.
- random, 3: the best on validation of 15 random designs of powers of two to 512, by the same short trainings.
- genetic, 3: the genetic search over powers of two to 512, with 15 short trainings of the same kind.
- local, 1: the local search from the hand design, to 512.
- one_shot, 1: the one-shot search over the powers of two to 512, read out by the expectation of log2.
- one_shot_argmax, 1: the same search, read out by the most probable candidate.
- one_shot_periods, 1: with the two highest peaks of the training part's autocorrelation, and their doubles, among the
  candidates; read out by the most probable one.
- one_shot_ranked, 3: both read-outs and samples of the same search, ranked like the designs of tuned and random.
- one_shot_to_local, 2: the local search from what one_shot has found.
- periods_ranked, 3, and periods_to_local, 2: the same two from the search of one_shot_periods.
- exhaustive, 100, with 2 layers only: the best on validation of all 100 designs of powers of two to 512, each trained
  to the end. No search that chooses on validation can be expected to find a better one of them.
- oracle, the same, but the best on the test part. It is no method: it tells how much there is to find.

genetic, one_shot_periods, exhaustive and oracle were added when the results of seed 0 had been seen, periods_ranked and
periods_to_local when those of three seeds of elecdemand and calls had been, one_shot_periods included.

Each design is then trained anew, from the same initial weights. The test part is scored once, after all choices.

Primary number: the change of the mean squared error in percent, 100 (ours / theirs - 1), of the same fold and seed,
against hand and against tuned with as many layers, and against the hand design with any number of layers. Means and
95 % intervals are over folds, seeds of a fold averaged first (`records.statistics`). Tables say how many intervals
leave out 0, and how many would by chance.

Order: elecdemand with 3 layers and all seeds; then seed 0 of its other numbers of layers and of the other sets; then
the rest. A comparison (data, layers, fold, seed) is one line of measurements.jsonl, written when it ends. One that is
there is not run again, unless the settings have changed.
"""

import logging
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import AfterValidator, with_config
from typing_extensions import TypedDict

from benchmarks.records.machine import commit, versions
from benchmarks.records.places import ROOT
from benchmarks.records.protocol import fingerprint
from benchmarks.records.schema import STRICT, Amount, Label, Layers, Real, Seed, Versions, Whole
from benchmarks.studies import measurements
from benchmarks.studies.equal_cost_searches import EXHAUSTED, FINALISTS, LONGEST, METHODS, READ_OUTS, RUNGS, Methods
from benchmarks.studies.equal_cost_tables import write
from benchmarks.studies.equal_cost_training import Case
from rfnext import pin_implementation
from rfnext.ops import native_build
from rfnext.receptive_field import multiply_adds
from tasks.command_line import parse_or_end
from tasks.load_forecasting.config import ORIGINS, PRESETS, Config
from tasks.load_forecasting.models import values
from tasks.ranges import NOT_NEGATIVE, check_names, check_ranges

log = logging.getLogger(__name__)

FIRST = "elecdemand"
"""The set on which all settings were chosen."""

DATA = (FIRST, "births", "taylor", "treering", "calls")

LAYERS = (2, 3, 4, 6, 8, 10)

SEEDS = (0, 1, 2)

PACKAGES = ("python", "torch", "numpy")
"""Those that may change a result."""


class Name(NamedTuple):
    """One comparison."""

    data: str
    layers: int
    fold: int
    seed: int


@dataclass(frozen=True)
class Options:
    """Searches and tuned designs at equal budgets."""

    minutes: float = 1e9
    """No comparison is begun later than this."""
    data: tuple[str, ...] = DATA
    """Sets to run."""
    layers: tuple[int, ...] = LAYERS
    """Layers to run."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds to run."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to run; what others have measured is kept."""
    only_table: bool = False
    """Run nothing; write the table and the figure from the measurements that there are."""
    results: Path = ROOT / "results/search_at_equal_cost"
    """Folder of the measurements, the table and the figure."""

    def __post_init__(self) -> None:
        check_ranges(self, {"minutes": NOT_NEGATIVE})
        check_names(self, {"data": DATA, "layers": LAYERS, "seeds": SEEDS, "methods": METHODS})


@with_config(STRICT)
class Entry(TypedDict):
    """What a method found, and what it scores."""

    dilations: Layers
    epochs: Whole
    validation: Amount
    mse: Amount
    mae: Amount
    skill: Real
    step_ms: Amount
    search_step_ms: Amount | None


@with_config(STRICT)
class Line(TypedDict):
    """One comparison."""

    data: Label
    layers: Whole
    fold: Whole
    seed: Seed
    multiply_adds: Whole
    cpu_seconds: Amount
    methods: dict[Label, Entry]
    settings: Label
    commit: Label | None
    versions: Versions


def _known(line: Line) -> Line:
    if unknown := ({line["data"]} - set(DATA)) | (line["methods"].keys() - METHODS.keys()):
        raise ValueError(f"is of {min(unknown)}, which is none of the data sets and methods")
    for name, entry in line["methods"].items():
        if len(entry["dilations"]) != line["layers"]:
            raise ValueError(f"{name} has {len(entry['dilations'])} dilations for {line['layers']} layers")
    return line


LINE = Annotated[Line, AfterValidator(_known)]


def order() -> Iterator[Name]:
    """All comparisons, the most informative first."""
    groups = [(FIRST, 3, seed) for seed in SEEDS]
    groups += [(FIRST, layers, 0) for layers in (2, 4, 6)]
    groups += [(data, 3, 0) for data in DATA[1:]]
    groups += [(FIRST, layers, 0) for layers in (8, 10)]
    groups += [(data, layers, 0) for layers in (2, 6, 4, 8, 10) for data in DATA[1:]]
    groups += [(data, layers, seed) for seed in SEEDS for layers in LAYERS for data in DATA]
    for data, layers, seed in dict.fromkeys(groups):
        yield from (Name(data, layers, fold, seed) for fold in ORIGINS)


def config_of(data: str, layers: int) -> Config:
    """The settings of one training."""
    tiny = PRESETS["tiny"]
    preset = tiny if data == FIRST else PRESETS[data]
    search = replace(tiny.search, interval=1)
    changed: dict[str, Any] = {"width": tiny.width, "epochs": 12, "lr": 0.02, "validate_every": 1, "search": search}
    return replace(preset, layers=layers, **changed)


def applicable(methods: Collection[str], config: Config) -> set[str]:
    """Those that a config can have: an expert needs seasons, and all designs can be trained only with few layers."""
    without = set() if config.seasons else {"expert"}
    return set(methods) - without - (set() if config.layers <= EXHAUSTED else {"exhaustive", "oracle"})


def settings(config: Config) -> dict[str, Any]:
    """What decides a comparison besides its name."""
    local = asdict(config.search) | {"bounds": [config.search.bounds.min, config.search.bounds.max]}
    searches = {"local": local, "longest": LONGEST, "rungs": RUNGS, "finalists": FINALISTS, "read_outs": READ_OUTS}
    names = ("width", "dropout", "trailing", "epochs", "steps", "lr", "horizon", "seasons", "burn_in")
    return {name: getattr(config, name) for name in names} | {"searches": searches}


def compare(name: Name, wanted: Collection[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted methods on one comparison; those that are known are kept."""
    case = Case(config_of(name.data, name.layers), name.fold, name.seed)
    methods, entries, start = Methods(case), dict(known), time.process_time()
    for label, method in METHODS.items():
        if label not in wanted or label in entries or (found := method(methods)) is None:
            continue
        training = methods.trained(found.design)
        test = training.scores("test")
        entries[label] = {
            "dilations": found.design,
            "epochs": found.epochs,
            "validation": round(training.best_until(case.config.epochs), 5),
            **{metric: round(test[metric], 5 if metric != "skill" else 2) for metric in ("mse", "mae", "skill")},
            "step_ms": round(1e3 * training.seconds / training.step, 2),
            "search_step_ms": None if found.step is None else round(1e3 * found.step, 2),
        }
    length = 1024
    network = case.network()
    counted = multiply_adds(network, values(case.open().inputs[:, :length])) / length
    about = {"multiply_adds": round(counted), "cpu_seconds": round(time.process_time() - start, 1)}
    return {**name._asdict(), **about, "methods": {label: entries[label] for label in METHODS if label in entries}}


def run(options: Options, known: dict[Name, dict[str, Any]]) -> None:
    """Run what is not known, in the order, until the time is over."""
    end = time.monotonic() + 60 * options.minutes
    machine = {"commit": commit(), "versions": {name: v for name, v in versions().items() if name in PACKAGES}}
    for name in order():
        if name.data not in options.data or name.layers not in options.layers or name.seed not in options.seeds:
            continue
        config, before = config_of(name.data, name.layers), known.get(name, {})
        same = {"settings": fingerprint(settings(config))}
        entries = before.get("methods", {}) if before.items() >= same.items() else {}
        if entries.keys() >= applicable(options.methods, config):
            continue
        if time.monotonic() > end:
            return
        known[name] = compare(name, options.methods, entries) | same | machine
        measurements.write(options.results, known.values())
        log.info("%s: %.0f s", name, known[name]["cpu_seconds"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse_or_end(Options, arguments, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rfnext").setLevel(logging.WARNING)  # else every round of every search
    torch.set_num_threads(1)
    lines = measurements.read_or_end(options.results, LINE, Name._fields)
    known = {Name(*(one[field] for field in Name._fields)): one for one in lines}
    if not options.only_table:
        # Equal runs give equal bits.
        with pin_implementation("taps" if native_build.failure() else "native"):
            run(options, known)
    print(write(options.results, list(known.values())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
