"""What studies have measured: one line each, read strictly."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records.places import ROOT
from benchmarks.studies import measurements

STUDIES = {
    "planted_truth": "benchmarks.studies.planted_truth",
    "genetic_cost": "benchmarks.studies.genetic_cost",
    "search_time": "benchmarks.studies.search_time",
    "search_at_equal_cost": "benchmarks.studies.search_at_equal_cost",
    "segmentation_at_equal_cost": "benchmarks.studies.segmentation_at_equal_cost",
    "full_size": "benchmarks.studies.full_size",
    "trust": "tests.faults.trust",
}
FOLDERS = {"search_at_equal_cost": "treering"}
"""Where a study keeps measurements of several data sets apart, one of these."""
BESIDE = {"references": "benchmarks.studies.equal_cost_references"}
"""What a folder inside a study's is read by."""
READS_FIRST = {
    "planted_truth": ["--seeds", "1"],
    "genetic_cost": ["--seeds", "1"],
    "search_at_equal_cost": ["--only-table"],
    "segmentation_at_equal_cost": ["--only-table"],
    "search_time": ["--task", "action_segmentation", "--preset", "tiny"],
    "full_size": ["gtea"],
}
"""Arguments with which a study reads its file before it measures anything."""


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert measurements.read(tmp_path) == []
    measured = [{"seed": 0, "lags": [1, 2], "accuracy": 90.12}, {"seed": 1, "commit": None}]
    measurements.write(tmp_path, measured)
    assert measurements.read(tmp_path) == measured


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        ("[1]", "an object"),
        ('{"seed": 0, "seed": 1}', "appears twice"),
        ('{"seed": 0}', "the same seed as line 1"),
        ("[" * 2000, "nested too deeply"),
    ],
)
def test_a_broken_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    measurements.write(tmp_path, [{"seed": 0}])
    path = tmp_path / measurements.NAME
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(measurements.MeasurementError, match=rf"{measurements.NAME}:2: .*{said}") as error:
        measurements.read(tmp_path, key=["seed"])
    assert "\n" not in str(error.value)


def text_for_a_number(value: Any) -> Any:
    """The value with the last number in it as a text."""
    if isinstance(value, dict):
        for name in reversed(value):
            changed = text_for_a_number(value[name])
            if changed is not value[name]:
                return {**value, name: changed}
    elif isinstance(value, list) and value:
        changed = text_for_a_number(value[-1])
        return [*value[:-1], changed] if changed is not value[-1] else value
    elif isinstance(value, (int, float)):
        return str(value)
    return value


def a_layer_less(line: dict[str, Any]) -> dict[str, Any]:
    """zip() would pass over the missing one: the table would be of another set of layers."""
    line = json.loads(json.dumps(line))
    next(entry for entry in line["methods"].values() if entry["dilations"])["dilations"].pop()
    return line


ODD: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    *((name, text_for_a_number) for name in STUDIES if name not in ("planted_truth", "trust")),
    *((name, lambda line: dict(list(line.items())[1:])) for name in STUDIES),
    ("planted_truth", lambda line: line | {"seed": "0"}),
    ("planted_truth", a_layer_less),
    ("search_at_equal_cost", a_layer_less),
    ("segmentation_at_equal_cost", a_layer_less),
    ("search_time", lambda line: line | {"seconds": line["seconds"] | {"search, native": [1.0]}}),
    ("planted_truth", lambda line: line | {"lags": [0, *line["lags"][1:]]}),
    ("full_size", lambda line: line | {"preset": "gtea-2"}),
    ("full_size", lambda line: line | {"step_seconds": 0}),
    ("trust", lambda line: line | {"measurement": "points", "equal": True, "crashes": "116"}),
    ("trust", lambda line: line | {"measurement": "luck"}),
]


@pytest.mark.parametrize(("study", "change"), ODD)
def test_an_odd_line_is_one_error_and_nothing_is_overwritten(
    study: str,
    change: Callable[[dict[str, Any]], Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = FOLDERS.get(study, "")
    good = (ROOT / "results" / study / folder / measurements.NAME).read_text().splitlines()[0]
    path = tmp_path / folder / measurements.NAME
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{good}\n{json.dumps(change(json.loads(good)))}\n")
    before = path.read_bytes()
    module = importlib.import_module(STUDIES[study])
    monkeypatch.setattr(module, "measure", None, raising=False)
    schema = module.Line if study == "genetic_cost" else module.LINE
    with pytest.raises(SystemExit) as end:
        measurements.read_or_end(path.parent, schema)
    said = capsys.readouterr().err
    assert (end.value.code, said.count("\n"), f"{path}:2: no measurement" in said) == (1, 1, True), said
    if study in READS_FIRST:
        with pytest.raises(SystemExit):
            module.main(["--results", str(tmp_path), *READS_FIRST[study]])
    assert path.read_bytes() == before
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [path]


@pytest.mark.parametrize("study", STUDIES)
def test_all_that_is_committed_is_read(study: str) -> None:
    files = list((ROOT / "results" / study).rglob(measurements.NAME))
    assert files
    for file in files:
        module = importlib.import_module(BESIDE.get(file.parent.name, STUDIES[study]))
        assert measurements.read(file.parent, module.Line if study == "genetic_cost" else module.LINE)
