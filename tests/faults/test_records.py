"""Odd records: never a traceback, the record is named, the rest is shown as without it, and nothing is lost."""

import json
import random
from pathlib import Path

import pytest

from benchmarks.report import build, figures
from tests.faults.record_mutations import TABLE, attempt, folder

pytestmark = pytest.mark.fault


@pytest.mark.parametrize("seed", range(12))
def test_no_odd_record_breaks_a_command(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if seed > 1:  # drawing takes most of the time
        monkeypatch.setattr(figures, "draw", lambda found: {})
    fault, _ = attempt(tmp_path, random.Random(seed))
    assert fault is None


def test_tables_are_those_without_the_broken_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "draw", lambda found: {})
    broken, without = folder(tmp_path / "broken"), folder(tmp_path / "without")
    path = broken / TABLE / "records.jsonl"
    lines = path.read_text().splitlines()
    number, line = next((n, one) for n, one in enumerate(lines) if '"tuned_single","fold":3' in one)
    bad = json.loads(line) | {"evaluation_seconds": -1.0}
    path.write_text("\n".join([*lines[:number], json.dumps(bad), *lines[number + 1 :]]))
    (without / TABLE / "records.jsonl").write_text("\n".join([*lines[:number], *lines[number + 1 :]]))
    kept = path.read_bytes()
    assert build.main(["--results", str(broken)]) == 1
    assert f"{path}:{number + 1}: not a whole record (evaluation_seconds " in capsys.readouterr().err
    assert build.main(["--results", str(without)]) == 0
    assert (broken / TABLE / "table.csv").read_bytes() == (without / TABLE / "table.csv").read_bytes()
    assert "broken record records.jsonl:" in (broken / TABLE / "table.md").read_text()
    assert path.read_bytes() == kept


def test_a_record_of_other_metrics_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "draw", lambda found: {})
    results = folder(tmp_path)
    path = next((results / "runs").rglob("fold2-seed0.json"))
    path.write_text(path.read_text().replace('"name": "edit"', '"name": "edits"').replace('"edit":', '"edits":'))
    assert build.main(["--results", str(results)]) == 1
    said = capsys.readouterr().err
    assert f"{path}: metric_specs is " in said
    assert "other cells is" in said
