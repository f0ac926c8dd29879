"""The tables that people wrote on searches at equal cost have the numbers that follow from the measurements."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.places import ROOT
from benchmarks.records.statistics import Values, estimate, number, paired
from benchmarks.studies import equal_cost_references, measurements
from benchmarks.studies import segmentation_at_equal_cost as segmentation
from benchmarks.studies.equal_cost_searches import with_rules
from benchmarks.studies.equal_cost_tables import Measured
from benchmarks.studies.search_at_equal_cost import folder_of

FORECASTS, SEGMENTED = ROOT / "results/search_at_equal_cost", ROOT / "results/segmentation_at_equal_cost"
SERIES = {
    "demand of Victoria": "elecdemand",
    "calls to a bank": "calls",
    "stops by police": "stops",
    "births per day": "births",
    "flights from New York": "departures",
    "cars on a motorway": "motorway",
    "demand of England and Wales": "taylor",
    "tree rings": "treering",
    "tree rings, no lags": "treering",
    "sunspots": "sunspots",
    "passengers of a station": "ridership",
    "temperature": "temperature",
    "tweets": "tweets",
}
RULE = (3, "periods_or_local")


@cache
def measured(data: str) -> Measured:
    lines = measurements.read(FORECASTS / folder_of(data))
    return Measured({**one, "methods": with_rules(one["methods"])} for one in lines if one["data"] == data)


def rows(page: Path, start: str) -> Iterator[list[str]]:
    """Cells of the rows of the first table after a line that begins so; without what makes them bold."""
    lines = iter(page.read_text(encoding="utf-8").partition(f"\n{start}")[2].splitlines())
    for line in lines:
        if line.startswith("| "):
            break
    for line in lines:
        if not line.startswith("|"):
            return
        if not line.startswith("| ---"):
            yield [cell.strip().replace("*", "").removesuffix(" %") for cell in line.strip("|").split("|")]


def text(values: Values) -> str:
    found = estimate(values)
    return "no expert" if found is None else number(found, 1, signed=True)


def test_the_first_table_of_the_evidence() -> None:
    found = list(rows(ROOT / "docs/evidence.md", "bold is decided."))
    assert len(found) == 12
    for name, hand, *others in found:
        of = measured(SERIES[name.removeprefix("named in advance: ")])
        changes = [of.change(RULE, (3, opponent)) for opponent in ("tuned", "expert")]
        changes.append(of.change((3, "one_shot_periods"), (3, "tuned")))
        assert others[:-1] == list(map(text, changes)), name
        against_hand, skill = estimate(of.change(RULE, (3, "hand"))), estimate(of.values(*RULE, "skill"))
        assert against_hand is not None
        assert skill is not None
        assert [hand, others[-1]] == [number(against_hand, 0, signed=True), f"{skill.mean:+.0f}"], name


def test_the_table_against_the_ridge_regression() -> None:
    lines = [one for one in equal_cost_references.read(FORECASTS) if one["method"] == "ridge"]
    ridge = {(one["data"], one["fold"]): one["mse"] for one in lines}
    found = list(rows(FORECASTS / "README.md", "## Against forecasts without a network"))
    assert len(found) == 12
    for name, *changes in found:
        data = SERIES[name]
        ours = [measured(data).values(3, method) for method in ("hand", "tuned", RULE[1])]
        against = [{key: 100 * (mse / ridge[data, key[0]] - 1) for key, mse in one.items()} for one in ours]
        assert changes == list(map(text, against)), name


def of_segmentation() -> dict[int, list[Mapping[str, Any]]]:
    lines = measurements.read(SEGMENTED)
    found: dict[int, list[Mapping[str, Any]]] = {layers: [] for layers in segmentation.LAYERS}
    for one in lines:
        found[one["layers"]].append({**one, "methods": with_rules(one["methods"])})
    return found


METHODS = {"the rule": "one_shot_or_local", "the same": "one_shot_or_local", "one-shot alone": "one_shot"}


@pytest.mark.parametrize(
    "place", [("docs/evidence.md", "that double reach"), ("results/search_at_equal_cost/README.md", "## Action")]
)
def test_the_tables_of_action_segmentation(place: tuple[str, str]) -> None:
    lines, compared = of_segmentation(), 0
    for name, *cells in rows(ROOT / place[0], place[1]):
        if " against " not in name:
            continue
        ours, theirs = (METHODS.get(part.split(",")[0], part.split(",")[0]) for part in name.split(" against "))
        if ours not in segmentation.METHODS or theirs not in segmentation.METHODS:
            continue
        compared += 1
        for layers, cell in zip(segmentation.LAYERS, cells, strict=True):
            values = [segmentation.values(lines[layers], method, "f1@25") for method in (ours, theirs)]
            assert cell == text(paired(*values)), (name, layers)
    assert compared >= 4
