"""The study of all methods: which records are its rows, and its differences."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

import benchmarks
from benchmarks.methods.table import METHODS
from benchmarks.records.record import Key, Record, RecordError
from benchmarks.studies import does_search_pay
from benchmarks.studies.does_search_pay import PUBLISHED, REFERENCES, Data, rows, table
from tasks.spec import Metric


def make(preset: str, method: str, fold: int, score: float, **other: Any) -> Record:
    names = does_search_pay.METRICS
    values = dict.fromkeys(names, score)
    protocol = {"task": does_search_pay.TASK, "version": 1, "data": "", "config": {}, "settings": {}}
    device, when = {"type": "cpu", "name": "", "threads": 1}, "2026-01-01T00:00:00+00:00"
    fields: dict[str, Any] = {"protocol": protocol, "data": "", "published": None, "device": device, "versions": {}}
    fields |= {"commit": None, "command": "", "started": when, "finished": when, "status": "done"}
    fields |= {"metrics": values, "metrics_last": values, "validation": values}
    specs = [Metric(name) for name in names]
    key = {"task": does_search_pay.TASK, "preset": preset, "method": method, "fold": fold, "seed": 0}
    return Record(metric_specs=specs, **(key | fields | other))


def records(*every: Record) -> dict[Key, Record]:
    return {one.key: one for one in every}


@pytest.mark.parametrize("data", ["50salads", "seglearn"])
def test_every_method_has_a_row_and_labels_are_distinct(data: Data) -> None:
    made = rows(data)
    assert list(dict.fromkeys(row.method for row in made)) == list(METHODS)
    assert len({row.label for row in made}) == len(made)
    assert len({row[:2] for row in made}) == len(made)
    assert set(REFERENCES) <= {row.label for row in made}


def test_no_record_is_a_row_of_both_data_sets() -> None:
    assert not {row.preset for row in rows("50salads")} & {row.preset for row in rows("seglearn")}


def test_differences_are_paired_and_of_this_data_set_only() -> None:
    found = records(
        *(make("compact-50salads-spread-0.1", "baseline", fold, 60.0 + 10 * fold) for fold in (1, 2, 3)),
        *(make("compact-50salads-spread-0.1", "local_single", fold, 61.0 + 10 * fold) for fold in (1, 2, 3)),
        *(make("compact-50salads-paper-rule", "local_single", fold, 58.0 + 10 * fold) for fold in (1, 2, 3)),
        make("compact-seglearn-spread-0.1", "one_shot_single", 1, 99.0),
    )
    text = table(found, "50salads")
    assert text is not None
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    by_label = {line[0]: line[1:] for line in lines}
    assert by_label["local_single, spread 0.1"][1:4] == ["+1.0 ± 0.0", "–", "+3.0 ± 0.0"]
    assert by_label[PUBLISHED][1] == "-2.0 ± 0.0"
    assert by_label["baseline"][4] == "3"
    assert "one_shot_single" not in by_label
    assert table(found, "seglearn") is None  # it has no baseline


def test_failed_cells_are_no_rows() -> None:
    failed = make("compact-seglearn-spread-0.1", "baseline", 1, 0.0, status="failed", reason="x", metrics=None)
    assert table(records(failed), "seglearn") is None
    assert table({}, "50salads") is None


def test_every_row_is_run_once_per_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    suite = SimpleNamespace(main=lambda words: calls.append(words) or len(calls) % 2)
    monkeypatch.setattr(benchmarks, "suite", suite, raising=False)
    monkeypatch.setitem(sys.modules, "benchmarks.suite", suite)
    options = does_search_pay.Options(data="seglearn", methods=("baseline", "local_single"), seeds=(0, 1))
    assert does_search_pay.run(options) == 1
    ran = [
        (words[0], method, words[words.index("--seeds") + 1])
        for words in calls
        for method in words[words.index("--method") + 1 : words.index("--")]
    ]
    wanted = [row for row in rows("seglearn") if row.method in options.methods]
    assert sorted(ran) == sorted((row.preset, row.method, str(seed)) for row in wanted for seed in options.seeds)


def test_50_salads_need_their_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert does_search_pay.main(["50salads"]) == 2
    assert "--root" in capsys.readouterr().err


def test_two_kinds_of_own_data_are_no_study() -> None:
    preset = "compact-50salads-spread-0.1"
    whole = {"task": does_search_pay.TASK, "version": 1, "settings": {}}
    protocols = [
        whole | {"data": f"own data in {name}", "config": {"epochs": 40, "search": name}} for name in ("a", "b")
    ]
    mixed = records(
        make(preset, "baseline", 1, 60.0, protocol=protocols[0]),
        make(preset, "tuned_single", 1, 61.0, protocol=protocols[1]),
    )
    with pytest.raises(RecordError, match="own data in b"):
        table(mixed, "50salads")
    same = protocols[1] | {"data": "own data in a"}  # another search alone may share the table
    assert table(mixed | records(make(preset, "tuned_single", 1, 61.0, protocol=same)), "50salads")
