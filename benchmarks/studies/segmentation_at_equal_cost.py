"""Action segmentation with few layers: searches and tuned designs at equal budgets.

    python -m benchmarks.studies.segmentation_at_equal_cost [--layers 3] [--results results/segmentation_at_equal_cost]

The protocol, written before any number of a test part was seen, but for one training of the hand design with 3 and one
with 6 layers (fold 1, seed 0), which timed the study. It is the study `search_at_equal_cost` on another task; the
methods, their budgets and their settings are its own, unchanged.

Data: the embedded wrist recordings (`tasks.action_segmentation`), 7 exercises, 10 subjects; 5 folds, two subjects left
out in each, two more for validation; every 4th frame. Three seeds.

Network: MS-TCN of one stage of 32 maps, with 3, 4, 6 or 10 layers of kernel 3. One training is 24 epochs of 9 steps,
otherwise as in the preset "tiny": Adam at 0.003, a tenth of it from epoch 18. Every second epoch the validation part is
scored; the mean of the five metrics selects the epoch and ranks designs. No setting was chosen by results.

Methods, with the trainings that finding the design takes: hand (1, 2, 4, ...), 0; tuned, 3: 15 geometric designs, first
and last dilation from 1, 3, 11, 38, 128; random, 3: 15 designs of powers of two to 128; genetic, 3; local, 1: from the
hand design; one_shot, 1: over powers of two to 128; one_shot_argmax, 1; one_shot_ranked, 3; one_shot_to_local, 2; and
one_shot_or_local, 3: the better on validation of the structures before and after the local search.

The one primary comparison: one_shot_or_local against tuned, F1@25, 3 layers, 5 folds, 3 seeds. It is the search that
chooses by the task's metrics at the end, at the same cost; one-shot and local search follow the frame-wise training
loss. All else is secondary: other metrics, methods and numbers of layers. Differences are in points, of the same fold
and seed; means and 95 % intervals are over folds, seeds of a fold averaged first. Tables count how many intervals leave
out 0, and how many would by chance.

Addition, committed before any result with 4, 6 or 10 layers, but for that training of the hand design with 6; results
with 3 layers had been seen, and those of two stages of 10 layers in `does_search_pay`, where one-shot search and tuning
were both better than the hand design, and alike:

- On each of these three numbers of layers one comparison counts: the same rule against tuned, F1@25, 5 folds, 3 seeds.
  By chance 0.08 of three would be decided, each way.
- How many layers a search replaces: the same rule against the hand design of every number of layers, F1@25. It replaces
  so many as the largest hand design that is not better on average; with the interval, since that is wide.
- Where the gain ends: the first number of layers with which the rule is not measurably better than hand in F1@25.
- Whether one-shot alone suffices: one_shot against tuned and against one_shot_or_local, F1@25.
- Order: hand, tuned and the rule with 4, then 6, then 10 layers; then local and random, then genetic, with 3 layers
  first. A number of layers that lacks one of the 15 pairs of a method is said to be unfinished.

Second addition, committed before any result of random, local, genetic, one_shot_argmax or one_shot_ranked; those of the
other methods had been seen. All of it is secondary. F1@25, 5 folds, 3 seeds, each number of layers:

- random, local and genetic against tuned and against hand: 12 comparisons each, of which chance decides 0.3, each way.
  One number counts: how many are decided for the search against tuned.
- the rule against random, which costs the same: whether searching gains more than drawing designs. Four comparisons.
- one_shot_ranked, which chooses by the task's metrics, against one_shot, which follows the training loss; and
  one_shot_argmax against one_shot.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, NamedTuple

import matplotlib
import torch
from matplotlib.figure import Figure
from pydantic import AfterValidator, with_config
from typing_extensions import TypedDict

from benchmarks.records.places import ROOT
from benchmarks.records.protocol import fingerprint
from benchmarks.records.schema import STRICT, Amount, Label, Layers, Percent, Seed, Versions, Whole
from benchmarks.records.statistics import Estimate, Values, estimate, number, paired
from benchmarks.report.figures import SERIES, SHAPES, STYLE, svg
from benchmarks.report.markdown import pipe
from benchmarks.studies import measurements
from benchmarks.studies.equal_cost_comparisons import check, compare, described, lines_of_study, settings_of, to_measure
from benchmarks.studies.equal_cost_searches import RULES
from benchmarks.studies.equal_cost_segmentation import SegmentationCase
from rfnext.files import write_bytes, write_text
from rfnext.receptive_field import multiply_adds
from tasks.action_segmentation.config import TINY, Config
from tasks.action_segmentation.datasets import facts
from tasks.action_segmentation.task import TASK
from tasks.command_line import parse_or_end
from tasks.ranges import NOT_NEGATIVE, check_names, check_ranges

log = logging.getLogger(__name__)

LAYERS = (3, 4, 6, 10)

SEEDS = (0, 1, 2)

METHODS = (
    "hand",
    "tuned",
    "random",
    "genetic",
    "local",
    "one_shot",
    "one_shot_argmax",
    "one_shot_ranked",
    "one_shot_to_local",
    "one_shot_or_local",
)
"""Rows of the tables."""

REFERENCES = ("hand", "tuned")
"""What every method is compared with."""

METRICS = tuple(metric.name for metric in TASK.metrics)

PRIMARY = "f1@25"
"""The metric that counts."""

RULE = "one_shot_or_local"
"""The method that is tested."""

WHOLE = len(SEEDS) * len(TINY.folds)
"""Pairs of fold and seed that a row must have."""

DRAWN = ("hand", "tuned", "random", "local", "one_shot", "one_shot_or_local")
"""Lines of the figure; those after the first are compared with the hand design of every number of layers."""

ENDS = (1, 3, 11, 38, 128)
"""First and last dilations of the tuned design: in equal ratios up to the searches' bound."""

RUNGS = (4, 10)
"""Epochs of every candidate of a ranking, and in all of the best: 15 * 4 + 2 * 6 = 72, three trainings."""


class Name(NamedTuple):
    """One comparison."""

    layers: int
    fold: int
    seed: int


@dataclass(frozen=True)
class Options:
    """Searches and tuned designs of action segmentation at equal budgets."""

    minutes: float = 1e9
    """No comparison is begun later than this."""
    layers: tuple[int, ...] = LAYERS
    """Layers to run."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds to run."""
    methods: tuple[str, ...] = METHODS
    """Methods to run, with those that a rule is made of; what others have measured is kept."""
    only_table: bool = False
    """Run nothing; write the table from the measurements that there are."""
    results: Path = ROOT / "results/segmentation_at_equal_cost"
    """Folder of the measurements and the table."""

    def __post_init__(self) -> None:
        check_ranges(self, {"minutes": NOT_NEGATIVE})
        check_names(self, {"layers": LAYERS, "seeds": SEEDS, "methods": METHODS})


@with_config(STRICT)
class Entry(TypedDict):
    """What a method found, and what it scores."""

    dilations: Layers
    epochs: Whole
    validation: Amount
    scores: dict[Label, Percent]
    step_ms: Amount
    search_step_ms: Amount | None
    commit: Label | None


@with_config(STRICT)
class Line(TypedDict):
    """One comparison."""

    layers: Whole
    fold: Whole
    seed: Seed
    cpu_seconds: Amount
    methods: dict[Label, Entry]
    settings: Label
    versions: Versions


def _known(line: Line) -> Line:
    if unknown := line["methods"].keys() - (set(METHODS) - RULES.keys()):
        raise ValueError(f"is of {min(unknown)}, which is none of the methods")
    for name, entry in line["methods"].items():
        if len(entry["dilations"]) != line["layers"]:
            raise ValueError(f"{name} has {len(entry['dilations'])} dilations for {line['layers']} layers")
        if entry["scores"].keys() != set(METRICS):
            raise ValueError(f"{name} lacks a metric, or has one that is none")
    return line


LINE = Annotated[Line, AfterValidator(_known)]


def order(options: Options) -> Iterator[Name]:
    """The comparisons, layers after layers."""
    for layers in options.layers:
        for seed in options.seeds:
            yield from (Name(layers, fold, seed) for fold in TINY.folds)


def case_of(name: Name) -> SegmentationCase:
    """What a comparison trains on."""
    search = replace(TINY.search, interval=1)
    config = replace(TINY, stages=1, layers=name.layers, epochs=24, lr_drop_epoch=18, validate_every=2, batch=4)
    return SegmentationCase(replace(config, search=search), name.fold, name.seed, ENDS, RUNGS)


def expected(line: Mapping[str, Any]) -> str:
    """What a line says of its settings if they are those of the code."""
    return fingerprint(settings(case_of(Name(*(line[field] for field in Name._fields)))))


def settings(case: SegmentationCase) -> dict[str, Any]:
    """What decides a comparison besides its name."""
    config: Config = case.config
    names = ("dataset", "stride", "validation", "group", "last_segment", "model", "stages", "maps", "dropout", "epochs")
    names += ("batch", "lr", "lr_drop_epoch", "smoothing", "validate_every")
    return {name: getattr(config, name) for name in names} | {"searches": settings_of(case)}


def rounded(scores: Mapping[str, float]) -> dict[str, Any]:
    """Scores as they are stored."""
    return {"scores": {metric: round(scores[metric], 2) for metric in METRICS}}


def run(options: Options, known: dict[Name, dict[str, Any]]) -> None:
    """Run what is not known, until the time is over."""
    end = time.monotonic() + 60 * options.minutes
    for name in order(options):
        entries = known.get(name, {}).get("methods", {})
        if entries.keys() >= to_measure(options.methods):
            continue
        if time.monotonic() > end:
            return
        case, start = case_of(name), time.process_time()
        found = compare(case, to_measure(options.methods), entries, rounded)
        about = {"cpu_seconds": round(time.process_time() - start, 1), "methods": found}
        of = {"settings": fingerprint(settings(case)), "versions": described()}
        known[name] = {**name._asdict(), **about, **of}
        measurements.write(options.results, known.values())
        log.info("%s: %.0f s", name, known[name]["cpu_seconds"])


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Scores and differences, for each number of layers."""
    by_layers = {layers: [line for line in lines if line["layers"] == layers] for layers in LAYERS}
    by_layers = {layers: same for layers, same in by_layers.items() if same}
    parts = [TITLE, "", *_answer(by_layers), SAID, "", "![cost.svg](cost.svg)", ""]
    if len(by_layers) > 1:
        parts += [_replaced(by_layers), ""]
    for layers, same in by_layers.items():
        parts += [f"## {layers} layers: {adds(layers):,} multiply-adds per frame", "", _scores(same), ""]
        parts += [part for reference in REFERENCES for part in _differences(same, reference)]
    return "\n".join(parts)


TITLE = "# Action segmentation with few layers, at equal cost: the numbers"

SAID = (
    "Made by `python -m benchmarks.studies.segmentation_at_equal_cost`, whose first lines are the protocol. MS-TCN of "
    "one stage on the embedded wrist recordings; test part, epoch chosen on validation, in percent. Means ± half width "
    "of the 95 % interval by Student's t over folds, seeds of a fold averaged first. Differences are in points, of the "
    "same fold and seed; above 0 is better. Look-back: inputs of the network on each side that an output reads. n "
    "counts pairs of fold and seed."
)


def _answer(by_layers: Mapping[int, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the protocol compares first, and which rows lack pairs."""
    said = [f"**Answer.** {PRIMARY} of {RULE}, which takes three trainings as tuned and random do, in points:", ""]
    for other in ("tuned", "random", "hand"):
        pairs = {n: paired(values(same, RULE, PRIMARY), values(same, other, PRIMARY)) for n, same in by_layers.items()}
        whole = {n: one if len(one) == WHOLE else {} for n, one in pairs.items()}
        found = [one for one in map(estimate, whole.values()) if one is not None]
        ends = [sum(one.decided and sign * one.mean > 0 for one in found) for sign in (1, -1)]
        shown = ", ".join(f"{_text(estimate(one), signed=True)} with {n}" for n, one in whole.items())
        said.append(f"- Against {other}: {shown} layers. {ends[0]} decided for it, {ends[1]} against it.")
    counts = {(n, name): len(values(same, name, PRIMARY)) for n, same in by_layers.items() for name in METHODS}
    few = [f"{name} with {n} layers ({count} of {WHOLE})" for (n, name), count in counts.items() if 0 < count < WHOLE]
    return [*said, *([f"- Rows that lack pairs and decide nothing: {', '.join(few)}."] if few else []), ""]


def values(lines: Sequence[Mapping[str, Any]], method: str, metric: str) -> Values:
    """(fold, seed) -> score of the test part."""
    measured = [line for line in lines if method in line["methods"]]
    return {(line["fold"], line["seed"]): line["methods"][method]["scores"][metric] for line in measured}


def _scores(lines: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for method in METHODS:
        entries = [line["methods"][method] for line in lines if method in line["methods"]]
        if entries:
            scores = [_text(estimate(values(lines, method, metric))) for metric in METRICS]
            back = fmean(sum(entry["dilations"]) for entry in entries)
            epochs = fmean(entry["epochs"] for entry in entries)
            rows.append([method, *scores, f"{back:.0f}", f"{epochs:.0f}", str(len(entries))])
    return pipe(["method", *(f"{metric} ↑" for metric in METRICS), "look-back", "search epochs", "n"], rows)


def _replaced(by_layers: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """Designs that were sought against the hand design of every number of layers."""
    hands = {layers: values(same, "hand", PRIMARY) for layers, same in by_layers.items()}
    rows = []
    for method in DRAWN[1:]:
        for layers, same in by_layers.items():
            if ours := values(same, method, PRIMARY):
                changes = [_text(estimate(paired(ours, hand)), signed=True) for hand in hands.values()]
                rows.append([f"{method}, {layers} layers", *changes])
    return pipe([f"{PRIMARY} against the hand design of, in points", *(f"{layers} layers" for layers in hands)], rows)


def adds(layers: int) -> int:
    """Multiply-adds of a network for one frame."""
    case, frames = case_of(Name(layers, 1, 0)), 64
    return multiply_adds(case.network(), torch.zeros(1, facts(case.config)["features"], frames)) // frames


def draw(lines: Sequence[Mapping[str, Any]]) -> bytes:
    """The score over the cost, a line per method."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 3.2), layout="constrained")
        panel, layers = figure.subplots(), sorted({line["layers"] for line in lines})
        for index, method in enumerate(DRAWN):
            found = {n: estimate(values([one for one in lines if one["layers"] == n], method, PRIMARY)) for n in layers}
            points = {n: one for n, one in found.items() if one is not None}
            if not points:
                continue
            x = [adds(n) / 1000 + 0.15 * (index - len(DRAWN) / 2) for n in points]  # else intervals hide each other
            half = [one.half_width or 0.0 for one in points.values()]
            style: dict[str, Any] = {"color": SERIES[index], "marker": SHAPES[index], "markersize": 3, "linewidth": 1}
            panel.errorbar(x, [one.mean for one in points.values()], yerr=half, label=method, elinewidth=0.6, **style)
        panel.set_xticks([adds(n) / 1000 for n in layers], [f"{n}\n{adds(n) / 1000:.1f}" for n in layers])
        panel.set_xlabel("layers, and thousands of multiply-adds per frame")
        panel.set_ylabel(f"{PRIMARY} (%)")
        if panel.get_legend_handles_labels()[0]:  # an empty legend is a warning
            panel.legend(fontsize=6)
        return svg(figure)


def _differences(lines: Sequence[Mapping[str, Any]], reference: str) -> list[str]:
    rows, found = list[list[str]](), list[Estimate]()
    # Hand against tuned is tuned against hand.
    for method in (name for name in METHODS if name not in (reference, "hand")):
        changes = [
            estimate(paired(values(lines, method, metric), values(lines, reference, metric))) for metric in METRICS
        ]
        if any(changes):
            rows.append([method, *(_text(one, signed=True) for one in changes)])
            found += [one for one in changes if one is not None and one.half_width is not None]
    decided = [one.mean for one in found if one.decided]
    better = sum(mean > 0 for mean in decided)
    verdict = (
        f"Points against {reference}: {better} of {len(found)} are decided for the method, {len(decided) - better} "
        f"against it; by chance alone about {len(found) / 40:.1f} would be, each way."
    )
    return [verdict, "", pipe(["method", *METRICS], rows), ""] if rows else []


def _text(found: Estimate | None, *, signed: bool = False) -> str:
    return "–" if found is None else number(found, 1, signed=signed)


def read(options: Options) -> dict[Name, dict[str, Any]]:
    """All measurements.

    Raises:
        MeasurementError: if one cannot be read, or may not stand beside the others.
    """
    lines = measurements.read(options.results, LINE, Name._fields)
    check(options.results, lines, expected, adding=not options.only_table)
    return {Name(*(one[field] for field in Name._fields)): one for one in lines}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse_or_end(Options, arguments, description=__doc__)
    lines = lines_of_study(lambda: read(options), None if options.only_table else lambda known: run(options, known))
    text = table(lines)
    write_text(options.results / "table.md", text)
    write_bytes(options.results / "cost.svg", draw(lines))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
