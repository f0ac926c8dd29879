"""The study of whole searches' time: its table, and what it refuses."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tasks
from benchmarks.studies import measurements, search_time
from benchmarks.studies.search_time import BRANCHES, NATIVE, PLAIN, WAYS, main, table
from rfnext.ops import native_build


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is measured instead of training."""
    seconds = {name: [2.0, 4.0] for name in WAYS} | {BRANCHES: [6.0, 10.0], NATIVE: [2.0, 5.0]}
    about = {"task": "action_segmentation", "preset": "tiny", "overrides": {"epochs": 4}, "data": "", "epochs": 4}
    about |= {"files": None, "branches": 3, "threads": 1, "device": "AMD EPYC", "torch": "2", "commit": "abc"}
    one = about | {"seconds": seconds, "other_structure": []}
    monkeypatch.setattr(search_time, "chosen", lambda options, fields: (SimpleNamespace(), SimpleNamespace()))
    monkeypatch.setattr(search_time, "measure", lambda options, task, config: dict(one))
    return one


def row(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if "EPYC" in line]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_ratios_are_of_the_same_round(measured: dict[str, Any]) -> None:
    name, *cells = row(table([measured]))
    assert "action_segmentation tiny, 4 epochs" in name
    assert dict(zip(WAYS, cells, strict=False))[PLAIN] == "3.0"
    # Rounds: 6 / 2 and 10 / 4; 6 / 2 and 10 / 5.
    assert cells[1] == "8.0 (2.75; 2.50 to 3.00)"
    assert cells[-1] == "2.50 (2.00 to 3.00)"


def test_a_measurement_replaces_the_older_one_of_the_same_kind(measured: dict[str, Any], tmp_path: Path) -> None:
    measurements.write(tmp_path, [measured | {"commit": "old"}, measured | {"threads": 2}])
    assert main(["--results", str(tmp_path)]) == 0
    assert [(one["threads"], one["commit"]) for one in measurements.read(tmp_path)] == [(1, "abc"), (2, "abc")]
    assert (tmp_path / "table.md").read_text("utf-8").count("EPYC") == 2
    # Other data is another kind; measurements of before its files counted are known by its name.
    before = {name: value for name, value in measured.items() if name != "files"} | {"commit": "old"}
    measurements.write(tmp_path, [measured | {"files": "other"}, before | {"data": "other"}, before])
    assert main(["--results", str(tmp_path)]) == 0
    kept = {(one["data"], one.get("files"), one["commit"]) for one in measurements.read(tmp_path)}
    assert kept == {("", "other", "abc"), ("other", None, "old"), ("", None, "abc")}


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--task", "action_segmentatio"], "action_segmentation"), (["--preset", "huge"], "small")]
)
def test_what_does_not_exist_is_refused_with_what_does(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native_build, "failure", lambda: None)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


def test_fields_of_the_config_are_read_from_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_build, "failure", lambda: None)
    task = tasks.load("action_segmentation")
    options = search_time.Options()
    _, config = search_time.chosen(options, ["--epochs", "2", "--search.branches", "5"])
    assert (config.epochs, config.search.branches) == (2, 5)
    assert config.search.rule == task.presets["tiny"].search.rule
    with pytest.raises(SystemExit):
        search_time.chosen(options, ["--no-such-field", "2"])
