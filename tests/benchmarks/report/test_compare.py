"""Two results folders: paired differences by hand, and protocols that may not be compared."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.records import record
from benchmarks.records.folder import read_all
from benchmarks.records.lines import write_lines
from benchmarks.records.record import Record
from benchmarks.report import compare
from tasks.plain import differences


@pytest.fixture
def put(make: Callable[..., Record], tmp_path: Path) -> Callable[..., Record]:
    """Writes a record of the toy task into the folder "a" or "b"."""

    def one(folder: str, fold: int, seed: int, accuracy: float, method: str = "baseline", **other: object) -> Record:
        made = make(method, fold, seed, float(accuracy), **other)
        record.write(made, tmp_path / folder)
        return made

    return one


def run(tmp_path: Path, *options: str) -> int:
    return compare.main([str(tmp_path / "a"), str(tmp_path / "b"), *options])


def test_differences_are_paired_by_fold_and_seed(
    put: Callable[..., Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Differences +1, +3 in fold 1, +3, +5 in fold 2, +3 in fold 3: means 2, 4 and 3, so 3 ± t(0.975, 2) * 1 / sqrt(3),
    # which is 4.3027 / 1.7321 = 2.484.
    for fold, seed, before, after in ((1, 0, 50, 51), (1, 1, 60, 63), (2, 0, 70, 73), (2, 1, 80, 85), (3, 0, 40, 43)):
        put("a", fold, seed, before)
        put("b", fold, seed, after)
    put("a", 1, 2, 10)
    put("b", 1, 0, 77, method="local_single")
    assert run(tmp_path, "--csv", str(tmp_path / "out.csv")) == 0
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line[:1] == "|"]
    assert rows[2:] == [
        ["baseline", "accuracy (%) ↑", "60.0", "63.0", "+3.0 ± 2.5", "better", "5"],
        ["baseline", "loss (nats) ↓", "0.400", "0.370", "-0.030 ± 0.025", "better", "5"],
    ]
    assert "Only in A: 1 finished cells (toy tiny baseline fold 1 seed 2, ...)" in out
    assert "Only in B: 1 finished cells (toy tiny local_single fold 1 seed 0, ...)" in out
    with open(tmp_path / "out.csv") as file:
        accuracy, loss = csv.DictReader(file)
    assert (accuracy["metric"], accuracy["pairs"], loss["metric"]) == ("accuracy", "5", "loss")
    assert float(accuracy["difference"]) == 3
    assert float(accuracy["ci95_half_width"]) == pytest.approx(2.4842, abs=1e-3)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [((52, 72.1, 62), "better"), ((48, 67.9, 58), "worse"), ((50, 70, 60), "equal"), ((55, 66, 60), "")],
)
def test_verdicts(put: Callable[..., Record], tmp_path: Path, after: tuple[float, ...], verdict: str) -> None:
    for fold, before, value in zip((1, 2, 3), (50, 70, 60), after, strict=True):
        put("a", fold, 0, before)
        put("b", fold, 0, value)
    found = compare.compare(*(read_all(tmp_path / name).all for name in "ab"))
    assert [row.verdict for row in found.rows] == [verdict] * 2


def test_seeds_that_cancel_out_are_not_called_equal(put: Callable[..., Record], tmp_path: Path) -> None:
    for fold in (1, 2, 3):
        for seed, change in ((0, 1), (1, -1)):
            put("a", fold, seed, 50)
            put("b", fold, seed, 50 + change)
    found = compare.compare(*(read_all(tmp_path / name).all for name in "ab"))
    assert (found.rows[0].difference.mean, found.rows[0].difference.half_width) == (0, 0)
    assert found.rows[0].verdict == ""


def test_other_protocols_are_refused(
    put: Callable[..., Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in (1, 2):
        put("a", fold, 0, 50)
        put("b", fold, 0, 51, config={"width": 9})
    assert run(tmp_path) == 2
    error = capsys.readouterr().err
    assert "not compared, the protocols differ: toy tiny baseline: config.width is 9 instead of 8 (2 cells)" in error
    assert "have no finished cell of one protocol in common" in error
    put("a", 1, 0, 50, method="local_single")
    put("b", 1, 0, 50, method="local_single")
    assert run(tmp_path) == 1


def test_what_is_no_results_folder_or_broken_is_named(
    put: Callable[..., Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = put("a", 1, 0, 50)
    assert run(tmp_path) == 2
    assert f"{tmp_path / 'b'} is no results folder" in capsys.readouterr().err
    put("b", 1, 0, 50)
    broken = made.key._replace(seed=1).path(tmp_path / "b")
    broken.write_text("{")
    assert run(tmp_path) == 1
    assert f"{broken}: not a readable record" in capsys.readouterr().err


def test_both_forms_of_records_are_read(
    make: Callable[..., Record], put: Callable[..., Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put("a", 1, 0, 50)
    write_lines(tmp_path / "b/toy-tiny/records.jsonl", [make("baseline", 1, 0, 50.0)])
    assert run(tmp_path) == 0
    assert "equal" in capsys.readouterr().out


def test_differences_of_protocols_name_every_field() -> None:
    before = {"version": 1, "config": {"a": 1, "b": [1, 2], "gone": None}}
    after = {"version": 2, "config": {"a": 1, "b": [1, 3]}}
    assert differences(before, before) == []
    assert differences(before, after) == [
        "version is 2 instead of 1",
        "config.b is [1, 3] instead of [1, 2]",
        "config.gone is missing instead of None",
    ]
