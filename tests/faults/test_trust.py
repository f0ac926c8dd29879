"""The table of what was tried: its numbers are those of the lines, and wrong ones end it with status 1."""

import importlib.util
from pathlib import Path

import pytest

from benchmarks.studies import measurements
from tests.faults import trust

ABOUT = {"commit": "abc", "date": "2026-01-01", "status": 0}


def line(measurement: str, **values: object) -> dict[str, object]:
    return {"measurement": measurement, "command": trust.MEASUREMENTS[measurement].command, **ABOUT, **values}


LINES = [
    line("kills", kills=5, equal=True),
    line("kills", kills=3, equal=False),
    line("kills", kills=0, equal=False, error="it failed"),
    line("ranks", name="one_shot", ranks=4, difference=2e-16, equal_structures=True),
    line("ranks", name="local", ranks=2, difference=2e-16, equal_structures=False),
    line("ranks", name="round of 300 layers", ranks=2, ms=3.0),
    line("fuzz", inputs=1000, findings={"npy: crash": 2}),
    line("resume", what="res2net_search", tensors=280, different=0),
]


def test_counts_are_those_of_the_lines() -> None:
    rows = [row for row in trust.table(LINES).splitlines() if "`python -m tests." in row and row.startswith("|")]
    assert [row.split("|")[2].strip() for row in rows] == ["5 of 9", "280 of 280", "1 of 2", "998 of 1,000"]


def test_a_script_that_was_ended_is_told() -> None:
    assert "5 of 5, ended early" in trust.table([line("kills", kills=5, equal=True) | {"status": -15}])


def test_every_script_is_there() -> None:
    for one in trust.MEASUREMENTS.values():
        assert importlib.util.find_spec(one.command.split()[0])


def test_the_committed_table_is_that_of_its_lines() -> None:
    lines = measurements.read(trust.FOLDER)
    assert (trust.FOLDER / "table.md").read_text("utf-8") == trust.table(lines)


@pytest.mark.parametrize("equal", [True, False])
def test_a_script_that_finds_something_ends_it_with_1(
    equal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "run", lambda name: [line(name, crashes=3, equal=equal)])
    assert trust.main(["points", "--folder", str(tmp_path)]) == (0 if equal else 1)
    assert measurements.read(tmp_path) == [line("points", crashes=3, equal=equal)]


def test_a_line_that_counts_nothing_leaves_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = line("kernels", calls=3, wrong=0, reports=0)
    measurements.write(tmp_path, [good])
    monkeypatch.setattr(trust, "run", lambda name: [line(name, reports=0)])  # the compiler was too slow
    assert trust.main(["kernels", "--folder", str(tmp_path)]) == 1
    assert measurements.read(tmp_path) == [good]
