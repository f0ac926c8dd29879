"""The command: the numbers are right, and what is missing, broken or mixed is said instead of shown."""

import csv
import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods.table import METHODS
from benchmarks.records import record
from benchmarks.records.folder import read_all
from benchmarks.records.lines import read_lines, write_lines
from benchmarks.records.record import Cost, Record
from benchmarks.report.build import build, main
from tasks.spec import Metric


def report(results: Path, name: str = "toy-tiny/table.md") -> str:
    _, errors = build(results)
    assert errors == []
    return (results / name).read_text("utf-8")


def cells(text: str, title: str, row: str) -> list[str]:
    """The cells of one row of one section."""
    section = text.split(f"## {title}")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in section.splitlines()]
    (line,) = [line for line in lines if line[:1] == [row]]
    return line[1:]


def numbers(results: Path, name: str = "toy-tiny/table.csv") -> dict[tuple[str, str, str, str], dict[str, str]]:
    rows = csv.DictReader(io.StringIO((results / name).read_text("utf-8")))
    return {(row["table"], row["row"], row["column"], row["unit"]): row for row in rows}


TEST = "Test part, epoch chosen"


def test_a_report_shows_means_differences_last_epochs_and_costs(
    write: Callable[..., Record], results: Path, search: Cost
) -> None:
    for fold, ours, theirs in ((1, 72.0, 70.0), (2, 75.0, 72.0), (3, 78.0, 74.0)):
        write("baseline", fold, 0, theirs)
        write("local_single", fold, 0, ours, search=search)
    text = report(results)
    assert cells(text, TEST, "baseline") == ["72.0 ± 5.0", "0.280 ± 0.050", "3", "0"]
    assert cells(text, TEST, "local_single")[2:] == ["3", "5"]
    assert cells(text, "Cost", "baseline") == ["0", "0.0", "–", "–", "4.0", "500"]
    # Trainings of 2, 4 and 6 s: the mean of 3/2, 3/4 and 3/6 is 0.917.
    assert cells(text, "Cost", "local_single") == ["5", "3.0", "0.92", "700", "4.0", "500"]
    # Differences 2, 3, 4: mean 3, half width 4.3027 / sqrt(3); far narrower than the rows' own intervals.
    assert cells(text, "Difference to baseline", "local_single") == ["+3.0 ± 2.5", "-0.030 ± 0.025", "3"]
    assert cells(text, "Test part, last epoch", "baseline")[0] == "71.0 ± 5.0"
    assert cells(text, "Every cell", "fold 2, seed 0") == ["72.0", "75.0"]
    for part in ("synthetic toy signals", "Folds 1, 2, 3; seeds 0.", "toy machine"):
        assert part in text
    assert "## Notes" not in text
    assert "published:" not in text


def test_the_csv_file_has_the_same_numbers(write: Callable[..., Record], results: Path) -> None:
    for fold, ours, theirs in ((1, 72.0, 70.0), (2, 75.0, 72.0), (3, 78.0, 74.0)):
        write("baseline", fold, 0, theirs)
        write("local_single", fold, 0, ours)
    build(results)
    found = numbers(results)
    row = found["difference", "local_single", "accuracy", "%"]
    assert float(row["mean"]) == pytest.approx(3.0)
    assert float(row["ci95_half_width"]) == pytest.approx(4.3027 / 3**0.5, rel=1e-4)
    assert (row["units"], row["cells"]) == ("3", "3")
    assert float(found["cost", "baseline", "training", "s"]["mean"]) == 4
    assert float(found["cell", "fold 3, seed 0", "local_single", ""]["mean"]) == 78


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
    broken = write("local_single", 3, 0, 72.0).key.path(results)
    broken.write_text('{"schema_version": 1')
    write("local_multi", 1, 0, "unavailable: download toy.zip")
    paths, errors = build(results)
    names = [path.relative_to(results).as_posix() for path in paths]
    assert names == ["toy-tiny/table.md", "paper/table.md", "index.html"]
    assert len(errors) == 1
    assert str(broken) in errors[0]
    text = paths[0].read_text("utf-8")
    notes = dict(line[2:].split(" ", 1) for line in text.split("## Notes")[1].splitlines() if line[:3] == "- [")
    single = cells(text, TEST, "local_single")
    assert single[0] == "72.0 [1][2]"
    assert single[2] == "1 of 3"
    assert notes["[1]"] == "RuntimeError: out \\| of memory"
    assert notes["[2]"].startswith("broken record fold3-seed0.json")
    multi = cells(text, TEST, "local_multi")
    assert multi[0].startswith("– [3]")
    assert notes["[3]"] == "unavailable: download toy.zip"
    every = cells(text, "Every cell", "fold 2, seed 0")
    assert every[:2] == ["72.0", "– [1]"]
    assert notes[every[2].removeprefix("– ")] == "not run"
    assert main(["--results", str(results)]) == 1


def test_mixed_protocols_are_refused_and_other_tables_are_made(
    write: Callable[..., Record], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in (1, 2):
        write("baseline", fold, 0, 70.0)
    odd = write("local_single", 1, 0, 72.0, config={"epochs": 9})
    write("baseline", 1, 0, 70.0, preset="slow")
    assert main(["--results", str(results)]) == 1
    message = capsys.readouterr().err
    assert str(odd.key.path(results)) in message
    assert "config.epochs is 9 instead of 5" in message
    assert str(results / "runs/toy/tiny/baseline") in message
    assert not (results / "toy-tiny").exists()
    assert (results / "toy-slow/table.md").exists()


def test_published_rows_appear_only_beside_records_of_the_same_data(
    write: Callable[..., Record], results: Path
) -> None:
    values = {"accuracy": 66.0, "loss": 0.5, "f1@10": 50.0}
    specs = [Metric("accuracy"), Metric("loss", higher_is_better=False, decimals=3, unit="nats"), Metric("f1@10")]
    fields = {"metrics": values, "metrics_last": values, "validation": values, "metric_specs": specs}
    write("baseline", 1, 0, 66.0, published="action_segmentation.breakfast", **fields)
    text = report(results)
    row = cells(text, TEST, "published: MS-TCN [1]")
    assert row[:3] == ["66.3", "", "52.6"]
    assert "- [1] Source: author, ms-tcn issue 7" in text
    for title in ("Test part, last epoch", "Every cell"):
        assert "published:" not in text.split(f"## {title}")[1].split("## ")[0]


def test_equal_records_give_equal_files(
    write: Callable[..., Record], results: Path, receptive_field: dict[str, Any], search: Cost
) -> None:
    history = [
        {"step": step, "structure": {f"stage.{i}.conv": [2**i + step, 2**i] for i in range(8)}} for step in range(4)
    ]
    for method in ("baseline", "local_single", "local_multi"):
        for fold in (1, 2):
            fields = {"history": history, "structure": history[-1]["structure"], "search": search}
            write(method, fold, 0, 60.0 + fold, receptive_field=receptive_field, **fields)
    build(results)

    def made() -> dict[str, bytes]:
        paths = [path for path in results.rglob("*") if path.is_file() and path.relative_to(results).parts[0] != "work"]
        return {path.relative_to(results).as_posix(): path.read_bytes() for path in paths}

    before = made()
    assert {name for name in before if name.partition("/")[0] != "runs"} == {
        "index.html",
        "latex/toy-tiny.tex",
        "latex/search_cost.tex",
        "latex/paper.tex",
        "search_cost.md",
        "paper/table.md",
        "paper/table.csv",
        *(f"toy-tiny/{name}" for name in ("table.md", "table.csv", "records.jsonl", "scores.svg", "dilations.svg")),
    }
    build(results)
    assert made() == before
    for name in ("scores.svg", "dilations.svg"):
        assert f"({name})" in before["toy-tiny/table.md"].decode()


def test_rows_are_in_the_order_of_the_methods(write: Callable[..., Record], results: Path) -> None:
    for method in reversed(METHODS):
        write(method, 1, 0, 60.0)
    section = report(results).split(f"## {TEST}")[1].split("\n## ")[0]
    rows = [line.split()[1] for line in section.splitlines() if line.startswith("| ")]
    assert rows == ["method", *METHODS]


def test_records_are_kept_as_lines_and_give_the_same_numbers(
    write: Callable[..., Record], results: Path, tmp_path: Path
) -> None:
    for fold in (1, 2):
        write("baseline", fold, 0, 70.0 + fold)
        write("local_single", fold, 0, 71.5 + fold)
    text = report(results)
    copy = tmp_path / "copy"
    (copy / "toy-tiny").mkdir(parents=True)
    (copy / "toy-tiny/records.jsonl").write_bytes((results / "toy-tiny/records.jsonl").read_bytes())
    assert report(copy) == text
    # A cell that is run again replaces its line, and the others stay.
    record.write(write("baseline", 1, 0, 50.0), copy)
    report(copy)
    lines = {one.key: one for one in read_lines(copy / "toy-tiny/records.jsonl").records.values()}
    assert len(lines) == 4
    assert {one.metrics["accuracy"] for one in lines.values() if one.metrics} == {50.0, 72.0, 72.5, 73.5}


def test_a_broken_line_costs_no_record(
    make: Callable[..., Record], write: Callable[..., Record], results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results / "toy-tiny/records.jsonl"
    write_lines(path, [make("baseline", 1, 0, 70.0)])
    broken = path.read_text() + "{\n"
    path.write_text(broken)
    write("local_single", 1, 0, 71.0)
    assert main(["--results", str(results)]) == 1
    assert f"{path}:3" in capsys.readouterr().err
    assert path.read_text() == broken


def test_without_records_nothing_is_claimed(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--results", str(results)]) == 2
    assert f"error: no folder {results}; " in capsys.readouterr().err
    assert not results.exists()
    results.mkdir()
    assert main(["--results", str(results)]) == 0
    assert "no records" in capsys.readouterr().out
    assert not list(results.iterdir())


def test_what_a_task_leaves_out_is_a_dash_with_the_reason(
    write: Callable[..., Record], results: Path, define: Callable[..., None]
) -> None:
    define(leaves_out={"local_multi": "the toy is too small"})
    write("baseline", 1, 0, 70.0)
    write("local_single", 1, 0, 72.0)
    text = report(results)
    assert cells(text, TEST, "local_multi") == ["– [1]", "– [1]", "0 of 1", "–"]
    assert "the toy is too small" in text
    assert "the toy is too small" in (results / "index.html").read_text("utf-8")


def test_presets_of_a_suite_share_a_table_in_the_papers_words(
    write: Callable[..., Record], results: Path, define: Callable[..., None]
) -> None:
    define(suites={"coco": ("plain", "convnext"), "alone": ("plain",)})
    values = {"box_mAP": 49.0, "mask_mAP": 43.25}
    fields = {"metric_specs": [Metric("box_mAP"), Metric("mask_mAP")], "metrics": values, "metrics_last": values}
    for preset, key in (("plain", None), ("convnext", "coco_detection.convnext_t_cascade_mask_3x"), ("other", None)):
        for method in ("baseline", "local_single", "random_single"):
            write(method, 1, 0, 0.0, preset=preset, published=key, validation=values, **fields)
    text = report(results, "toy-coco-suite.md")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["preset", "metric", "NO", "published", "single", "published"]
    assert rows[2:] == [
        ["convnext", "box_mAP (%) ↑", "49.0", "50.3 [1]", "49.0", "50.6 [1]"],
        ["convnext", "mask_mAP (%) ↑", "43.2", "43.6 [1]", "43.2", "44.0 [1]"],
        ["plain", "box_mAP (%) ↑", "49.0", "", "49.0", ""],
        ["plain", "mask_mAP (%) ↑", "43.2", "", "43.2", ""],
    ]
    assert "- [1] Source: mmdetection configs/rfnext/README" in text
    assert not (results / "toy-alone-suite.md").exists()


def test_small_data_have_no_published_column(
    write: Callable[..., Record], results: Path, define: Callable[..., None]
) -> None:
    define(suites={"tiny": ("tiny", "wide")})
    for preset in ("tiny", "wide"):
        for method in ("baseline", "local_single"):
            write(method, 1, 0, 70.0, preset=preset)
    header = next(line for line in report(results, "toy-tiny-suite.md").splitlines() if line.startswith("| preset"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["preset", "metric", "NO", "single"]


def test_the_cost_of_all_searches_is_one_table(write: Callable[..., Record], results: Path, search: Cost) -> None:
    for preset in ("tiny", "slow"):
        write("baseline", 1, 0, 70.0, preset=preset)
        write("local_single", 1, 0, 71.0, preset=preset, search=search)
    text = report(results, "search_cost.md")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "local_" in line]
    assert [row[1:3] for row in rows] == [["slow", "local_single"], ["tiny", "local_single"]]
    # The baseline's training of fold 1 took 2 s.
    assert {tuple(row[4:7]) for row in rows} == {("5", "3.0", "1.50")}


def test_times_of_interrupted_runs_and_of_other_machines_make_no_ratio(
    write: Callable[..., Record], results: Path, search: Cost
) -> None:
    write("baseline", 1, 0, 70.0)
    write("baseline", 2, 0, 70.0, resumed=True)
    write("baseline", 3, 0, 70.0, device={"type": "cpu", "name": "another", "threads": 1})
    write("local_single", 1, 0, 70.0, search=search, resumed=True)
    for fold in (2, 3):
        write("local_single", fold, 0, 70.0, search=search)
    assert cells(report(results), "Cost", "local_single")[2] == "–"


def test_receptive_fields_are_a_table_of_means_over_the_cells(
    write: Callable[..., Record], results: Path, receptive_field: dict[str, Any]
) -> None:
    wide = {**receptive_field["axes"][0], "radius": {"0.5": 8.0, "0.95": 208.0}, "theoretical": [-20.0, 20.0]}
    endless = {**wide, "theoretical": None, "farther_than": 512}
    write("baseline", 1, 0, 70.0, receptive_field=receptive_field)
    write("baseline", 2, 0, 70.0, receptive_field=receptive_field | {"axes": [wide]})
    write("local_single", 1, 0, 70.0, receptive_field=receptive_field | {"axes": [endless]})
    write("local_multi", 1, 0, 70.0)  # its field was not measured
    text = report(results)
    assert cells(text, "Receptive fields", "baseline") == ["4", "106", "18", "2"]
    assert cells(text, "Receptive fields", "local_single") == ["8", "208", "> 512", "1"]
    assert "local_multi" not in text.split("## Receptive fields")[1].split("\n## ")[0]
    assert "2 inputs of the validation part, of 256 frames at most" in text


def test_receptive_fields_of_images_have_an_entry_per_axis(
    write: Callable[..., Record], results: Path, receptive_field: dict[str, Any]
) -> None:
    (rows,) = receptive_field["axes"]
    columns = {**rows, "radius": {"0.5": 2.25, "0.95": 9.0}, "theoretical": None, "farther_than": 512}
    write("baseline", 1, 0, 70.0, receptive_field=receptive_field | {"axes": [rows, columns]})
    assert cells(report(results), "Receptive fields", "baseline") == ["0 × 2.2", "4 × 9", "16 × > 512", "1"]


def test_no_table_of_receptive_fields_without_any(write: Callable[..., Record], results: Path) -> None:
    write("baseline", 1, 0, 70.0)
    assert "Receptive fields" not in report(results)


def test_the_newest_record_of_a_cell_is_read(
    make: Callable[..., Record], write: Callable[..., Record], results: Path
) -> None:
    write_lines(results / "toy-tiny/records.jsonl", [make("baseline", 1, 0, 60.0)])
    write("baseline", 1, 0, 70.0)
    assert cells(report(results), TEST, "baseline")[0] == "70.0"
    (one,) = read_all(results).all
    assert one.metrics is not None
    assert one.metrics["accuracy"] == 70.0


def test_a_failed_run_does_not_replace_a_committed_result(write: Callable[..., Record], results: Path) -> None:
    done = write("baseline", 1, 0, 70.0)
    report(results)
    write("baseline", 1, 0, "unavailable: no folder")
    _, errors = build(results)
    assert len(errors) == 1
    assert "no folder" in errors[0]
    assert read_all(results).by_key[done.key].metrics == done.metrics
    assert "70.0" in (results / "toy-tiny/table.md").read_text()


def test_committed_records_of_an_outdated_protocol_give_way_to_own_ones(
    write: Callable[..., Record], results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for method in ("baseline", "local_single"):
        write(method, 1, 0, 70.0, config={"epochs": 9})
    report(results)
    shutil.rmtree(results / "runs")
    write("baseline", 1, 0, 75.0)
    report(results)
    found = read_all(results).all
    assert [(one.method, one.metrics and one.metrics["accuracy"]) for one in found] == [("baseline", 75.0)]
    assert "epochs" in caplog.text


def test_records_of_other_files_never_share_a_table(
    write: Callable[..., Record], results: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def of(method: str, accuracy: float, data: str) -> None:
        made = write(method, 1, 0, accuracy)
        record.write(made.model_copy(update={"protocol": made.protocol | {"data": data}}), results)

    of("baseline", 70.0, "files aaaa")
    report(results)
    shutil.rmtree(results / "runs")
    before = (results / "toy-tiny/records.jsonl").read_bytes()
    of("local_single", 75.0, "files bbbb")
    _, errors = build(results)
    assert len(errors) == 1
    assert "data is 'files " in errors[0]
    assert (results / "toy-tiny/records.jsonl").read_bytes() == before
    # One of before files counted gives way, as one of any outdated protocol.
    (results / "toy-tiny/records.jsonl").write_text(before.decode().replace("files aaaa", "synthetic toy signals"))
    assert build(results)[1] == []
    assert [one.method for one in read_all(results).all] == ["local_single"]
    assert "data is 'files bbbb' instead of 'synthetic toy signals'" in caplog.text
