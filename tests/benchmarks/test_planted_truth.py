"""The study of planted lags: what its records keep, and what is computed anew."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.record import ROOT, versions
from benchmarks.studies import planted_truth
from benchmarks.studies.planted_truth import DCLS, METHODS, SHARED, Data, run, spaced, table

RESULTS = ROOT / "results/studies/planted_truth"
METHOD = tuple[Callable[..., Any], dict[str, Any]]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> dict[str, METHOD]:
    """Three methods, one of which starts from another, and one epoch."""
    methods = {name: METHODS[name] for name in ("hand design", "one_shot, log2", "one_shot_to_local, log2")}
    monkeypatch.setattr(planted_truth, "METHODS", methods)
    monkeypatch.setattr(planted_truth, "EPOCHS", 1)
    return methods


def commits(record: dict[str, Any]) -> list[str]:
    return [entry["commit"] for entry in record["methods"].values()]


def test_an_entry_is_kept_only_where_its_settings_are_todays(few: dict[str, METHOD]) -> None:
    first = json.loads(json.dumps(run(0, {}, "first")))
    assert commits(first) == ["first"] * 3
    assert first["methods"]["one_shot, log2"]["settings"] == {"readout": "log2"}
    assert first["methods"]["hand design"]["versions"]["torch"] == versions()["torch"]
    assert run(0, first, "second") == first

    method, settings = few["one_shot_to_local, log2"]
    few["one_shot_to_local, log2"] = method, settings | {"branches": 5}
    second = json.loads(json.dumps(run(0, first, "second")))
    assert commits(second) == ["first", "first", "second"]
    assert second["methods"]["one_shot_to_local, log2"]["settings"]["branches"] == 5

    few["one_shot, log2"] = few["one_shot, log2"][0], {"readout": "argmax"}
    third = json.loads(json.dumps(run(0, second, "third")))
    assert commits(third) == ["first", "third", "third"]  # the last starts from what the one before it found

    assert commits(run(0, third | {"settings": SHARED | {"steps": 1}}, "fourth")) == ["fourth"] * 3


def test_a_record_of_before_entries_had_settings_is_computed_anew(few: dict[str, METHOD]) -> None:
    del few["one_shot, log2"], few["one_shot_to_local, log2"]
    old = {"commit": "old", "methods": {"hand design": {"dilations": [1, 2, 4, 8, 16], "accuracy": 1.0}}}
    assert commits(run(0, old, "new")) == ["new"]


def test_the_committed_records_are_of_todays_settings_and_make_the_table() -> None:
    records = [json.loads((RESULTS / f"seed{seed}.json").read_text("utf-8")) for seed in range(20)]
    for seed, record in enumerate(records):
        assert (record["seed"], record["settings"], record["lags"]) == (seed, SHARED, Data(seed).lags)
        assert {name: entry["settings"] for name, entry in record["methods"].items()} == {
            name: settings for name, (_, settings) in METHODS.items()
        }
        assert all(commits(record))
    assert table(records) == (RESULTS / "table.md").read_text("utf-8")


def test_learnable_spacings_are_the_version_that_the_settings_say() -> None:
    pytest.importorskip("DCLS")
    model = spaced(Data(0), METHODS[DCLS][1]["version"])
    assert {conv.version for conv in model.reach} == {"gauss"}
