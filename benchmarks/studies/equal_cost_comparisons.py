"""What the studies at equal cost share: a comparison of methods, what decides it, and which measurements may stand side
by side."""

import logging
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from benchmarks.records.machine import commit, versions
from benchmarks.studies.equal_cost_searches import METHODS, RULES, SETTINGS, Methods, with_rules
from benchmarks.studies.equal_cost_training import ENDS, Case
from benchmarks.studies.measurements import NAME, MeasurementError, end_on_error
from rfnext import pin_implementation
from rfnext.ops import native_build

DECIDING = ("torch", "numpy")
"""Packages whose version may change a result. Beyond that, processors and kernels round differently, and what a search
finds can follow from that; but such results are of equal standing, as those of two seeds are."""


def settings_of(case: Case) -> dict[str, Any]:
    """What decides what the methods find, besides the settings of a training."""
    search = case.config.search
    local = {name: getattr(search, name) for name in search.__dataclass_fields__ if name != "bounds"}
    local |= {"bounds": [search.bounds.min, search.bounds.max]}
    ends = {} if case.ends == ENDS else {"ends": case.ends}
    return {"local": local, "longest": case.longest, "rungs": case.rungs, **ends, **SETTINGS}


def described() -> dict[str, str | None]:
    """Versions of what computes here."""
    return {name: version for name, version in versions().items() if name in ("python", *DECIDING)}


def to_measure(wanted: Collection[str]) -> set[str]:
    """The methods to measure for some rows: those of a rule follow from its two methods, and are not stored."""
    return {method for row in wanted for method in RULES.get(row, (row,))}


def compare(
    case: Case, wanted: Collection[str], known: Mapping[str, Any], rounded: Callable[[dict[str, float]], dict[str, Any]]
) -> dict[str, Any]:
    """The rows of the wanted methods on one case; those that are known are kept. rounded: scores as they are stored.

    Raises:
        MeasurementError: if a training diverged before its first epoch was scored, so that it has no scores.
    """
    methods, entries = Methods(case), dict(known)
    for label, method in METHODS.items():
        if label not in wanted or label in entries or (found := method(methods)) is None:
            continue
        training = methods.trained(found.design)
        validation = training.best_until(case.config.epochs)
        if validation == math.inf:
            raise MeasurementError(f"{label} with dilations {found.design}: the training diverged before it was scored")
        test = training.scores("test")
        entries[label] = {
            "dilations": found.design,
            "epochs": found.epochs,
            "validation": round(validation, 5),
            **rounded(test),
            "step_ms": round(1e3 * training.seconds / training.step, 2),
            "search_step_ms": None if found.step is None else round(1e3 * found.step, 2),
            "commit": commit(),
        }
    return {label: entries[label] for label in METHODS if label in entries}


def lines_of_study(
    read: Callable[[], dict[Any, dict[str, Any]]], run: Callable[[dict[Any, dict[str, Any]]], None] | None
) -> list[dict[str, Any]]:
    """All that a study has measured, with what `run` adds and rows of rules; ends the process if it cannot be read."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rfnext").setLevel(logging.WARNING)  # else every round of every search
    torch.set_num_threads(1)
    known = end_on_error(read)
    if run is not None:
        # Equal runs give equal bits.
        with pin_implementation("taps" if native_build.failure() else "native"):
            end_on_error(lambda: run(known))
    return [{**line, "methods": with_rules(line["methods"])} for line in known.values()]


def check(folder: Any, lines: Sequence[Mapping[str, Any]], expected: Callable[[Any], str], *, adding: bool) -> None:
    """Refuse measurements that may not stand side by side.

    Args:
        folder: of the measurements.
        lines: all of them.
        expected: line -> fingerprint of the settings that the code has for it now.
        adding: whether more are to be measured here.

    Raises:
        MeasurementError: if a line is of other settings than the code has now, or of other versions than the line
            before it or, if more are to be measured, than those here.
    """
    here = {name: described()[name] for name in DECIDING} if adding else None
    for number, line in enumerate(lines, 1):
        where = f"{folder / NAME}:{number}"
        if line["settings"] != expected(line):
            what = "was measured under other settings than the code has now, and rows of both would be compared"
            raise MeasurementError(f"{where}: {what}; give a folder of your own by --results, or delete the line")
        versions = {name: line["versions"].get(name) for name in DECIDING}
        if versions != (here := here or versions):
            what = f"was measured with {_text(versions)}, not {_text(here)}, and rows of both would be compared"
            raise MeasurementError(f"{where}: {what}; give a folder of your own by --results, or delete the line")


def _text(versions: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
