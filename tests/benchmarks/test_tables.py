"""Tables: the numbers are right, and what is missing, broken or mixed is said instead of shown."""

import csv
import dataclasses
import io
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import record, tables
from benchmarks.methods import METHODS, Job
from benchmarks.record import Cost, Record, RecordError
from benchmarks.run import make_record

WHEN = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def write(job: Callable[..., Job], results: Path) -> Callable[..., Record]:
    """Writes one record: accuracy given, or a reason for having none."""

    def one(method: str, fold: int, seed: int, accuracy: float | str, **other: Any) -> Record:
        of_job = {name: other.pop(name) for name in ("config", "preset", "task") if name in other}
        one = job(method, fold=fold, seed=seed, **of_job)
        if isinstance(accuracy, str):
            made = make_record(one, WHEN, reason=accuracy)
        else:
            values = {"accuracy": accuracy, "loss": 1 - accuracy / 100}
            made = make_record(
                one,
                WHEN,
                **{
                    "metrics": values,
                    "metrics_last": values | {"accuracy": accuracy - 1},
                    "validation": values,
                    "training": Cost(5, 2.0 * fold, 500.0 + seed, "resident"),
                }
                | other,
            )
        record.write(made, results)
        return made

    return one


def report(results: Path, name: str = "toy-tiny") -> str:
    _, errors = tables.make(results)
    assert errors == []
    return (results / "tables" / f"{name}.md").read_text("utf-8")


def cells(text: str, title: str, row: str) -> list[str]:
    """The cells of one row of one section."""
    section = text.split(f"## {title}")[1].split("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in line.strip("| ").split(" | ")][1:]


def test_the_interval_is_over_folds_after_averaging_their_seeds() -> None:
    values = {(1, 0): 69.0, (1, 1): 71.0, (2, 0): 72.0, (2, 1): 72.0, (3, 0): 70.0, (3, 1): 78.0}
    found = tables.estimate(values)
    assert found is not None
    assert found.mean == pytest.approx(72.0)
    # Fold means 70, 72, 74: standard deviation 2; t(0.975, 2 degrees of freedom) = 4.3027 in any t table.
    assert found.half_width == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)
    assert (found.units, found.cells) == (3, 6)


def test_with_one_fold_the_interval_is_over_seeds() -> None:
    found = tables.estimate({(1, 0): 60.0, (1, 1): 64.0})
    assert found is not None
    # t(0.975, 1) = 12.7062; standard deviation of 60 and 64 is 2.8284.
    assert found.half_width == pytest.approx(12.7062 * 2.8284 / 2**0.5, rel=1e-4)
    assert found.units == 2


def test_one_number_has_no_interval_and_none_has_no_mean() -> None:
    assert tables.estimate({(1, 0): 60.0}) == tables.Estimate(60.0, None, 1, 1)
    assert tables.estimate({}) is None


def test_a_report_shows_means_differences_last_epochs_and_costs(write: Callable[..., Record], results: Path) -> None:
    for fold, ours, theirs in ((1, 72.0, 70.0), (2, 75.0, 72.0), (3, 78.0, 74.0)):
        write("baseline", fold, 0, theirs)
        write("local_single", fold, 0, ours, search=Cost(5, 3.0, 700.0, "resident"))
    text = report(results)
    test = "Test part, epoch chosen on the validation part"
    assert cells(text, test, "baseline")[:3] == ["72.0 ± 5.0", "0.280 ± 0.050", "3"]
    assert cells(text, test, "baseline")[3:] == ["0", "0.0", "4.0", "–", "500"]
    assert cells(text, test, "local_single")[2:] == ["3", "5", "3.0", "4.0", "700", "500"]
    # Differences 2, 3, 4: mean 3, half width 4.3027 / sqrt(3); far narrower than the rows' own intervals.
    assert cells(text, "Difference to baseline", "local_single") == ["+3.0 ± 2.5", "-0.030 ± 0.025", "3"]
    assert cells(text, "Test part, last epoch", "baseline")[0] == "71.0 ± 5.0"
    assert cells(text, "Every cell", "fold 2, seed 0") == ["72.0", "75.0"]
    for part in (
        "Data: synthetic toy signals.",
        "Folds 1, 2, 3; seeds 0.",
        "Student's t over folds",
        "Protocol ",
    ):
        assert part in text
    assert "published" not in text


def test_differences_are_paired(write: Callable[..., Record], results: Path) -> None:
    for fold, accuracy in ((1, 50.0), (2, 90.0)):
        write("baseline", fold, 0, accuracy)
    write("local_single", 1, 0, 51.0)
    text = report(results)
    # Only fold 1 has both; the means of the two rows differ by 19 points for no reason but the fold.
    assert cells(text, "Difference to baseline", "local_single")[::2] == ["+1.0 [1]", "1"]
    assert "- [1] not run" in text


def test_failed_missing_and_broken_cells_are_dashes_with_reasons(write: Callable[..., Record], results: Path) -> None:
    for fold in (1, 2, 3):
        write("baseline", fold, 0, 70.0 + fold)
    write("local_single", 1, 0, 72.0)
    write("local_single", 2, 0, "RuntimeError: out | of memory")
    broken = write("local_single", 3, 0, 72.0).cell.path(results)
    broken.write_text('{"schema": 1')
    write("local_multi", 1, 0, "unavailable: download toy.zip")
    paths, errors = tables.make(results)
    assert [path.name for path in paths] == ["toy-tiny.md"]
    assert len(errors) == 1
    assert str(broken) in errors[0]
    text = paths[0].read_text("utf-8")
    notes = dict(line[2:].split(" ", 1) for line in text.split("## Notes")[1].splitlines() if line[:3] == "- [")
    single = cells(text, "Test part, epoch chosen", "local_single")
    assert single[0] == "72.0 [1][2]"
    assert single[2] == "1 of 3"
    assert notes["[1]"] == "RuntimeError: out \\| of memory"
    assert notes["[2]"].startswith("broken record file fold3-seed0.json")
    multi = cells(text, "Test part, epoch chosen", "local_multi")
    assert multi[0].startswith("– [3]")
    assert notes["[3]"] == "unavailable: download toy.zip"
    every = cells(text, "Every cell", "fold 2, seed 0")
    assert every[:2] == ["72.0", "– [1]"]
    assert notes[every[2].removeprefix("– ")] == "not run"
    assert tables.main(["--results", str(results)]) == 1


def test_mixed_protocols_are_refused_and_other_tables_are_made(
    write: Callable[..., Record], results: Path, toy: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in (1, 2):
        write("baseline", fold, 0, 70.0)
    odd = write("local_single", 1, 0, 72.0, config=toy.Config(epochs=9))
    write("baseline", 1, 0, 70.0, preset="slow")
    assert tables.main(["--results", str(results)]) == 1
    message = capsys.readouterr().err
    assert str(odd.cell.path(results)) in message
    assert "config.epochs is 9 instead of 5" in message
    assert str(results / "runs/toy/tiny/baseline") in message
    assert not (results / "tables/toy-tiny.md").exists()
    assert (results / "tables/toy-slow.md").exists()
    assert "toy, preset tiny: refused" in (results / "tables/README.md").read_text()


def test_settings_may_differ_between_methods_but_not_within_one(
    write: Callable[..., Record], results: Path, job: Callable[..., Job]
) -> None:
    write("baseline", 1, 0, 70.0)
    path = write("random_search", 1, 0, 70.0).cell.path(results)
    write("random_search", 2, 0, 70.0)
    report(results)
    path.write_text(path.read_text().replace('"candidates": 5', '"candidates": 7'))
    (found,) = tables.group(*record.read_all(results))
    with pytest.raises(RecordError, match=r"settings\.candidates is"):
        tables.check_protocols(found, results)


def test_published_rows_appear_only_beside_records_of_the_same_data(
    write: Callable[..., Record], results: Path, toy: ModuleType
) -> None:
    task = dataclasses.replace(toy.TASK, published=lambda config: "action_segmentation.breakfast")
    metrics = (*task.metrics, dataclasses.replace(task.metrics[0], name="f1@10"))
    values = {"accuracy": 66.0, "loss": 0.5, "f1@10": 50.0}
    write(
        "baseline",
        1,
        0,
        66.0,
        task=dataclasses.replace(task, metrics=metrics),
        metrics=values,
        metrics_last=values,
        validation=values,
    )
    text = report(results)
    row = cells(text, "Test part, epoch chosen", "published: MS-TCN [1]")
    assert row[:3] == ["66.3", "", "52.6"]
    assert "- [1] Source: author, ms-tcn issue 7" in text
    for title in ("Test part, last epoch", "Every cell"):
        assert "published" not in text.split(f"## {title}")[1].split("## ")[0]


def test_every_published_row_names_data_result_and_source() -> None:
    content = tomllib.loads(tables.PUBLISHED.read_text("utf-8"))
    rows = content["row"]
    assert len({(row["key"], row["name"]) for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"key", "name", "source", "values"}
        assert row["source"].strip()
        assert all(0 < value < 100 for value in row["values"].values())


def test_published_numbers_are_those_of_the_checked_list(shared: Path) -> None:
    checked = tomllib.loads((shared / "published.toml").read_text("utf-8"))
    ours = {(row["key"], row["name"]): row for row in tomllib.loads(tables.PUBLISHED.read_text("utf-8"))["row"]}
    expected = []
    for section in ("coco", "coco_panoptic", "semantic_segmentation", "imagenet_s"):
        for rows in checked[section].values():
            if isinstance(rows, dict):
                expected += [tuple(values) for values in rows.values()]
    for dataset in ("50salads", "gtea", "breakfast"):
        expected += [tuple(entry["row"]) for entry in checked["action_segmentation"][dataset].values()]
    # One more than the list's tables: the accuracy of RF-Next on Breakfast, which the list has in a note.
    found = sorted(tuple(row["values"].values()) for row in ours.values())
    assert found == sorted([*expected, (70.8,)])
    assert "70.8" in checked["action_segmentation"]["note"]


def test_equal_records_give_equal_files(write: Callable[..., Record], results: Path) -> None:
    history = [
        {"step": step, "structure": {f"stage.{i}.conv": [2**i + step, 2**i] for i in range(8)}} for step in range(4)
    ]
    for method in METHODS:
        for fold in (1, 2):
            write(method, fold, 0, 60.0 + fold, history=history)
    tables.make(results)
    made = [*(results / "tables").iterdir(), *(results / "figures").iterdir()]
    before = {path: path.read_bytes() for path in made}
    names = {path.name for path in made}
    assert names == {
        "README.md",
        *(f"toy-tiny{end}" for end in (".md", ".csv", ".tex", "-bars.svg", "-dilations.svg")),
    }
    tables.make(results)
    assert {path: path.read_bytes() for path in made} == before
    for path in made:
        assert path.stat().st_size < 100_000
    assert b"stage.7.conv" in before[results / "figures/toy-tiny-dilations.svg"]
    text = before[results / "tables/toy-tiny.md"].decode()
    for name in ("toy-tiny-bars.svg", "toy-tiny-dilations.svg"):
        assert f"](../figures/{name})" in text
    rows = text.split("## ")[1].splitlines()[4:]
    assert [row.split()[1] for row in rows if row] == list(METHODS)


def test_csv_and_latex_carry_the_same_numbers(write: Callable[..., Record], results: Path) -> None:
    for fold, ours, theirs in ((1, 72.0, 70.0), (2, 75.0, 72.0), (3, 78.0, 74.0)):
        write("baseline", fold, 0, theirs)
        write("local_single", fold, 0, ours)
    tables.make(results)
    rows = list(csv.DictReader(io.StringIO((results / "tables/toy-tiny.csv").read_text())))
    (row,) = [r for r in rows if (r["table"], r["method"], r["metric"]) == ("difference", "local_single", "accuracy")]
    assert float(row["mean"]) == pytest.approx(3.0)
    assert float(row["ci95_half_width"]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert (row["units"], row["cells"]) == ("3", "3")
    latex = (results / "tables/toy-tiny.tex").read_text()
    assert r"local\_single & +3.0 $\pm$ 2.5" in latex
    assert latex.count(r"\begin{tabular}{lrrr}") == latex.count(r"\end{tabular}") == 2
    assert r"accuracy (\%) $\uparrow$" in latex


def test_an_overridden_preset_has_a_table_of_its_own(
    write: Callable[..., Record], results: Path, toy: ModuleType
) -> None:
    write("baseline", 1, 0, 70.0)
    write("baseline", 1, 0, 75.0, preset="tiny+epochs=9", config=toy.Config(epochs=9))
    assert "70.0" in report(results)
    assert "75.0" in report(results, "toy-tiny+epochs=9")
    assert "(toy-tiny%2Bepochs%3D9.md)" in (results / "tables/README.md").read_text()


def test_without_records_nothing_is_claimed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--results", str(results)]) == 0
    assert "no records" in capsys.readouterr().out
    assert not results.exists()
