"""The study of planted lags: what its lines keep, and what is computed anew."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.machine import versions
from benchmarks.records.places import ROOT
from benchmarks.studies import genetic_cost, measurements, planted_searches, planted_truth
from benchmarks.studies.planted_searches import spaced
from benchmarks.studies.planted_task import SHARED, Data
from benchmarks.studies.planted_truth import DCLS, METHODS, main, run, table

RESULTS = ROOT / "results/planted_truth"
METHOD = tuple[Callable[..., Any], dict[str, Any]]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> dict[str, METHOD]:
    """Four methods, one of which starts from another, and one epoch."""
    names = ("hand design", "tuned_single", "one_shot, log2", "one_shot_to_local, log2")
    methods = {name: METHODS[name] for name in names}
    monkeypatch.setattr(planted_truth, "METHODS", methods)
    for module in (planted_truth, planted_searches):
        monkeypatch.setattr(module, "EPOCHS", 1)
    return methods


def commits(found: dict[str, Any]) -> list[str]:
    return [entry["commit"] for entry in found["methods"].values()]


def test_an_entry_is_kept_only_where_its_settings_are_todays(few: dict[str, METHOD]) -> None:
    first = json.loads(json.dumps(run(0, {}, "first")))
    assert commits(first) == ["first"] * 4
    assert first["methods"]["one_shot, log2"]["settings"] == {"readout": "log2"}
    assert first["methods"]["hand design"]["versions"]["torch"] == versions()["torch"]
    assert run(0, first, "second") == first

    method, settings = few["one_shot_to_local, log2"]
    few["one_shot_to_local, log2"] = method, settings | {"branches": 5}
    second = json.loads(json.dumps(run(0, first, "second")))
    assert commits(second) == ["first", "first", "first", "second"]
    assert second["methods"]["one_shot_to_local, log2"]["settings"]["branches"] == 5

    few["one_shot, log2"] = few["one_shot, log2"][0], {"readout": "argmax"}
    third = json.loads(json.dumps(run(0, second, "third")))
    assert commits(third) == ["first", "first", "third", "third"]  # the last starts from what the one before it found

    assert commits(run(0, third | {"settings": SHARED | {"steps": 1}}, "fourth")) == ["fourth"] * 4


def test_one_line_per_seed_is_kept_and_seeds_that_are_not_asked_for_stay(
    few: dict[str, METHOD], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted_truth, "table", lambda seeds: f"{len(seeds)} seeds\n")
    assert main(["--seeds", "2", "--results", str(tmp_path)]) == 0
    before = measurements.read(tmp_path)
    assert [one["seed"] for one in before] == [0, 1]
    assert main(["--seeds", "1", "--results", str(tmp_path)]) == 0
    assert measurements.read(tmp_path) == before
    assert (tmp_path / "table.md").read_text() == "1 seeds\n"


def test_the_committed_lines_are_of_todays_settings_and_make_the_table() -> None:
    seeds = measurements.read(RESULTS)
    if not seeds:
        pytest.skip("no measurements are committed")
    for seed, one in enumerate(seeds):
        assert (one["seed"], one["settings"], one["lags"]) == (seed, SHARED, Data(seed).lags)
        assert {name: entry["settings"] for name, entry in one["methods"].items()} == {
            name: settings for name, (_, settings) in METHODS.items()
        }
        assert all(commits(one))
    assert table(seeds) == (RESULTS / "table.md").read_text("utf-8")


def test_a_table_has_the_share_of_layers_at_their_lag() -> None:
    entry = {"search_epochs": 40, "accuracy": 80.0}
    names = ("hand design", "tuned_single")
    seeds = [
        {"lags": [1, 2, 4, 8, 20], "methods": {name: entry | {"dilations": found} for name in names}}
        for found in ([1, 2, 4, 8, 22], [3, 4, 9, 16, 40])
    ]
    (line,) = [line for line in table(seeds).splitlines() if line.startswith("| hand design")]
    # All five within a tenth or one step, then none: 50 % on average.
    assert line.split("|")[2].strip() == "50 (2 seeds)"
    assert line.split("|")[4].strip() == "80.0 (2 seeds)"


def test_learnable_spacings_are_the_version_that_the_settings_say() -> None:
    pytest.importorskip("DCLS")
    model = spaced(Data(0), METHODS[DCLS][1]["version"])
    assert {conv.version for conv in model.reach} == {"gauss"}


def test_seeds_whose_genetic_cost_is_measured_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"dilations": [1, 2], "search_epochs": 80, "fitness": 68.4, "accuracy": 93.7}
    measured = {"seed": 0, "lags": [1, 3], "commit": "abc", "versions": {}, "methods": {"one_shot_to_local": entry}}
    measurements.write(tmp_path, [measured])
    monkeypatch.setattr(genetic_cost, "run", lambda seed: measured | {"seed": seed, "commit": "new"})
    assert genetic_cost.main(["--seeds", "2", "--results", str(tmp_path)]) == 0
    assert [one["commit"] for one in measurements.read(tmp_path)] == ["abc", "new"]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (tmp_path / "table.md").read_text().splitlines()
    ]
    assert ["0", "1 3", "one_shot_to_local", "1 2", "80", "68.4", "93.7"] in [row[:7] for row in rows]
