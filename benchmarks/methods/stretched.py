"""The hand design with other ends, as a search: what searches have to beat where the design is too short."""

import math

from torch import nn

from benchmarks.methods.candidates import powers, redesigned
from benchmarks.methods.genetic import Evaluations, rungs_of
from benchmarks.methods.method import Found
from benchmarks.methods.searching import Searching
from benchmarks.methods.training import as_lists, build
from rfnext import Structure, Where, halve


def stretched(job: Searching) -> Found:
    """The hand design, its first and last dilation chosen on validation by successive halving.

    The candidates are all pairs of every other power of two that a search may choose. Rungs are shares of a
    full training.

    Raises:
        RuntimeError: if all evaluations failed.
        NotShared, NoWorkerLeft: if workers have no access to the results folder, or none is left.
        OtherData: if the data was changed.
    """
    cell, settings = job.cell, {**job.settings, "candidates": powers(job.cell)[::2]}
    model, ends = build(cell), settings["candidates"]
    pairs = [(first, last) for first in ends for last in ends if first <= last]
    designs = list(dict.fromkeys(stretched_design(model, cell.task.where, *pair) for pair in pairs))
    rungs = rungs_of(cell.config.epochs, settings["rungs"])
    evaluations = Evaluations(job, settings)
    halve(designs, rungs, evaluations, promoted=settings["promoted"], map=evaluations.map)
    if not evaluations.fitness:
        raise RuntimeError(f"all of {len(designs)} designs failed, the last one by: {evaluations.error}")
    finalists = evaluations.trained_longest()
    best = max(finalists, key=lambda one: finalists[one])
    history = [{"step": evaluations.epochs, "structure": as_lists(best), "fitness": finalists[best]}]
    return Found(job.folder, evaluations.cost(), evaluations.resumed, best, history)


def stretched_design(model: nn.Module, where: Where, first: int, last: int) -> Structure:
    """The network's design with other ends: dilations from `first` to `last`, in the order and ratios of the design.

    Its dilation 1 becomes `first`, its largest D becomes `last`, and d in between becomes
    first (last / first) ** (log d / log D), rounded. A design of ones becomes `first` everywhere. Axes whose kernel is
    1 or even keep their dilation.
    """
    largest = max(max(dilation) for dilation in Structure.read(model, where).values())

    def moved(d: int) -> int:
        share = math.log(d) / math.log(largest) if largest > 1 else 0.0
        return max(1, round(first * (last / first) ** share))

    return redesigned(model, where, moved)
