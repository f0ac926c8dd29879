"""Tables: the numbers are right, and what is missing, broken or mixed is said instead of shown."""

import csv
import dataclasses
import io
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.methods import METHODS
from benchmarks.record import Cost, Record
from benchmarks.sheets import Notes, Sheet


def report(results: Path, name: str = "toy-tiny") -> str:
    _, errors = tables.make(results)
    assert errors == []
    return (results / "tables" / f"{name}.md").read_text("utf-8")


def cells(text: str, title: str, row: str) -> list[str]:
    """The cells of one row of one section."""
    section = text.split(f"## {title}")[1].split("\n## ")[0]
    (line,) = [line for line in section.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in line.strip("| ").split(" | ")][1:]


def test_a_report_shows_means_differences_last_epochs_and_costs(write: Callable[..., Record], results: Path) -> None:
    for fold, ours, theirs in ((1, 72.0, 70.0), (2, 75.0, 72.0), (3, 78.0, 74.0)):
        write("baseline", fold, 0, theirs)
        write("local_single", fold, 0, ours, search=Cost(5, 3.0, 700.0, "resident"))
    text = report(results)
    test = "Test part, epoch chosen on the validation part"
    assert cells(text, test, "baseline") == ["72.0 ± 5.0", "0.280 ± 0.050", "3", "0"]
    assert cells(text, test, "local_single")[2:] == ["3", "5"]
    assert cells(text, "Cost", "baseline") == ["0", "0.0", "–", "–", "4.0", "500"]
    # Trainings of 2, 4 and 6 s: the mean of 3/2, 3/4 and 3/6 is 0.917.
    assert cells(text, "Cost", "local_single") == ["5", "3.0", "0.92", "700", "4.0", "500"]
    # Differences 2, 3, 4: mean 3, half width 4.3027 / sqrt(3); far narrower than the rows' own intervals.
    assert cells(text, "Difference to baseline", "local_single") == ["+3.0 ± 2.5", "-0.030 ± 0.025", "3"]
    assert cells(text, "Test part, last epoch", "baseline")[0] == "71.0 ± 5.0"
    assert cells(text, "Every cell", "fold 2, seed 0") == ["72.0", "75.0"]
    for part in (
        "Data: synthetic toy signals.",
        "Folds 1, 2, 3; seeds 0.",
        "Student's t over folds",
        "Protocol ",
        "numbers do not compare to any",
    ):
        assert part in text
    assert "## Notes" not in text
    assert "| published" not in text


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
    assert [path.name for path in paths] == ["toy-tiny.md", "index.html"]
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
        assert "| published" not in text.split(f"## {title}")[1].split("## ")[0]


def test_equal_records_give_equal_files(write: Callable[..., Record], results: Path) -> None:
    history = [
        {"step": step, "structure": {f"stage.{i}.conv": [2**i + step, 2**i] for i in range(8)}} for step in range(4)
    ]
    for method in METHODS:
        for fold in (1, 2):
            write(method, fold, 0, 60.0 + fold, history=history)
    tables.make(results)
    made = [*(results / "tables").iterdir(), *(results / "figures").iterdir(), results / "index.html"]
    before = {path: path.read_bytes() for path in made}
    names = {path.name for path in made}
    assert names == {
        "README.md",
        "index.html",
        *(f"toy-tiny{end}" for end in (".md", ".csv", ".tex")),
        *(f"toy-tiny-{kind}.svg" for kind in ("scores", "differences", "dilations")),
    }
    tables.make(results)
    assert {path: path.read_bytes() for path in made} == before
    for path in made:
        assert path.stat().st_size < 100_000
    assert b"stage.7.conv" in before[results / "figures/toy-tiny-dilations.svg"]
    text = before[results / "tables/toy-tiny.md"].decode()
    for name in ("toy-tiny-scores.svg", "toy-tiny-dilations.svg"):
        assert f"](../figures/{name})" in text
    rows = text.split("## Test part, epoch")[1].split("\n## ")[0].splitlines()[4:]
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
    assert [latex.count(rf"\begin{{tabular}}{{l{'r' * count}}}") for count in (4, 3, 6)] == [1, 1, 1]
    assert "method & accuracy & loss & n & search epochs" in latex
    assert r"(\%) $\uparrow$ & (nats) $\downarrow$" in latex


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


def test_what_a_task_leaves_out_is_a_dash_with_the_reason(
    write: Callable[..., Record], results: Path, project: Path, call: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    with (project / "tasks/toy/task.py").open("a") as file:
        file.write("\nfrom dataclasses import replace\n")
        file.write('TASK = replace(TASK, leaves_out={"local_multi": "the toy has no room"})\n')
    write("baseline", 1, 0, 70.0)
    write("local_single", 1, 0, 72.0)
    done = call("benchmarks.tables", "--results", str(results))
    assert done.returncode == 0, done.stderr
    text = (results / "tables/toy-tiny.md").read_text()
    assert cells(text, "Test part, epoch chosen", "local_multi") == ["– [1]", "– [1]", "0 of 1", "–"]
    assert "- [1] left out: the toy has no room" in text
    assert "2 of 2 cells" in (results / "tables/README.md").read_text()
    assert "left out: the toy has no room" in (results / "index.html").read_text()


def test_presets_of_a_family_share_a_table_in_the_papers_words(
    write: Callable[..., Record], results: Path, toy: ModuleType
) -> None:
    metrics = tuple(dataclasses.replace(toy.TASK.metrics[0], name=name) for name in ("box_mAP", "mask_mAP"))
    values = {"box_mAP": 49.0, "mask_mAP": 43.25}
    found = {"metrics": values, "metrics_last": values, "validation": values}
    for preset, key in (("coco", None), ("coco-convnext", "coco_detection.convnext_t_cascade_mask_3x")):
        task = dataclasses.replace(toy.TASK, metrics=metrics, published=lambda config, key=key: key)
        for method in ("baseline", "local_single", "random_search"):
            write(method, 1, 0, 0.0, preset=preset, config=toy.Config(), task=task, **found)
    write("baseline", 1, 0, 0.0, preset="coco+epochs=9", config=toy.Config(epochs=9), task=task, **found)
    text = report(results, "toy-coco-family")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| coco")]
    header = next(line for line in text.splitlines() if line.startswith("| preset"))
    assert header == "| preset | metric | NO | published | single | published |"
    assert rows == [
        ["coco", "box_mAP (%) ↑", "49.0", "", "49.0"],
        ["coco", "mask_mAP (%) ↑", "43.2", "", "43.2"],
        ["coco-convnext", "box_mAP (%) ↑", "49.0", "50.3 [1]", "49.0", "50.6 [1]"],
        ["coco-convnext", "mask_mAP (%) ↑", "43.2", "43.6 [1]", "43.2", "44.0 [1]"],
    ]
    assert "- [1] Source: mmdetection configs/rfnext/README" in text


def test_small_data_have_no_published_column(write: Callable[..., Record], results: Path, toy: ModuleType) -> None:
    for preset in ("tiny", "tiny-wide"):
        for method in ("baseline", "local_single"):
            write(method, 1, 0, 70.0, preset=preset, config=toy.Config())
    text = report(results, "toy-tiny-family")
    assert "| preset | metric | NO | single |" in text
    assert "numbers do not compare to any" in text


def test_the_cost_of_all_searches_is_one_table(write: Callable[..., Record], results: Path) -> None:
    for preset in ("tiny", "slow"):
        write("baseline", 1, 0, 70.0, preset=preset)
        write("local_single", 1, 0, 71.0, preset=preset, search=Cost(5, 3.0, 700.0, "resident"))
    tables.make(results)
    rows = list(csv.DictReader(io.StringIO((results / "tables/search_cost.csv").read_text())))
    assert [(row["preset"], row["method"]) for row in rows] == [("slow", "local_single"), ("tiny", "local_single")]
    # The baseline's training of fold 1 took 2 s.
    assert {(row["search epochs"], row["search (s)"], row["search / one training"]) for row in rows} == {
        ("5", "3.0", "1.50")
    }


def test_times_of_interrupted_runs_and_of_other_machines_make_no_ratio(
    write: Callable[..., Record], results: Path
) -> None:
    search = Cost(5, 3.0, 700.0, "resident")
    write("baseline", 1, 0, 70.0)
    write("baseline", 2, 0, 70.0, resumed=True)
    write("local_single", 1, 0, 70.0, search=search, resumed=True)
    write("local_single", 2, 0, 70.0, search=search)
    assert cells(report(results), "Cost", "local_single")[2] == "–"


def test_latex_is_balanced_and_escaped_whatever_the_records_say(
    write: Callable[..., Record], results: Path, toy: ModuleType
) -> None:
    task = dataclasses.replace(toy.TASK, data_label=lambda config: r"50% of {x}_$y$ & \z #1 ~^ <a> | b")
    write("baseline", 1, 0, 70.0, task=task)
    write("local_single", 1, 0, "Error: a_b\n\n100 % {of \\memory", task=task)
    tables.make(results)
    for path in (results / "tables").glob("*.tex"):
        lines = path.read_text().replace(tables.FIT, "{{").splitlines()
        text = "\n".join(re.sub(r"(?<!\\)%.*", "", line) for line in lines)
        bare = re.sub(r"\\[\\&%$#_{}]", "", text)  # without escaped characters
        depth = 0
        for character in bare:
            depth += (character == "{") - (character == "}")
            assert depth >= 0
        assert depth == 0
        assert bare.count("$") % 2 == 0
        assert not set(bare) & set("#_^~<>|")
        begun, ended = re.findall(r"\\begin{(\w+)}", bare), re.findall(r"\\end{(\w+)}", bare)
        assert sorted(begun) == sorted(ended)
        for columns, body in re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", text, re.DOTALL):
            rows = [line for line in body.splitlines() if line.endswith(r"\\")]
            assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
        assert "\n\n" not in text  # a blank line inside of a caption is an error


def test_receptive_fields_are_a_table_of_means_over_the_cells(
    write: Callable[..., Record], results: Path, receptive_field: dict[str, Any]
) -> None:
    wide = {**receptive_field["axes"][0], "radius": {"0.5": 8.0, "0.95": 208.0}, "theoretical": [-20.0, 20.0]}
    write("baseline", 1, 0, 70.0, receptive_field=receptive_field)
    write("baseline", 2, 0, 70.0, receptive_field=receptive_field | {"axes": [wide]})
    write(
        "local_single",
        1,
        0,
        70.0,
        receptive_field=receptive_field | {"axes": [{**wide, "theoretical": None, "farther_than": 512}]},
    )
    write("local_multi", 1, 0, 70.0)  # a record from before they were measured
    tables.make(results)
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
    tables.make(results)
    assert cells(report(results), "Receptive fields", "baseline") == ["0 × 2.2", "4 × 9", "16 × > 512", "1"]


def test_no_table_of_receptive_fields_without_any(write: Callable[..., Record], results: Path) -> None:
    write("baseline", 1, 0, 70.0)
    tables.make(results)
    assert "Receptive fields" not in report(results)


def test_latex_compiles_without_a_complaint(
    write: Callable[..., Record],
    results: Path,
    toy: ModuleType,
    tmp_path: Path,
    receptive_field: dict[str, Any],
) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex and booktabs; on Debian: apt-get install texlive-latex-recommended")
    task = dataclasses.replace(toy.TASK, data_label=lambda config: r"50% of {x}_$y$ & \z #1 ~^ <a> | b… ≥ 1 × 2 – é")
    for preset in ("tiny", "tiny-wide"):
        for fold, seed in ((1, 0), (2, 0)):
            for method in ("baseline", "local_single"):
                cost = Cost(5, 3.0, 700.0, "resident")
                values = {"config": toy.TASK.presets["tiny"], "search": cost, "receptive_field": receptive_field}
                write(method, fold, seed, 70.0 + fold, task=task, preset=preset, **values)
        config = toy.TASK.presets["tiny"]
        write("local_multi", 1, 0, "Error: a_b\n\n100 % {of \\memory", task=task, preset=preset, config=config)
    tables.make(results)
    kinds = {path.stem: path.read_text() for path in (results / "tables").glob("*.tex")}
    assert set(kinds) == {"toy-tiny", "toy-tiny-wide", "toy-tiny-family", "search_cost"}
    assert kinds["toy-tiny"].count(r"\begin{table}") == 4
    many = Sheet("Large", "Much.", ["a", *(f"b_{i} (%)" for i in range(13))], [["[1]", *["-1.5"] * 13]] * 70)
    kinds["large"] = tables.latex("Large", [many], Notes())
    assert (kinds["large"].count(r"\begin{table}"), kinds["large"].count(r"\begin{tabular}")) == (5, 10)
    source = [r"\documentclass{article}", r"\usepackage{booktabs,graphicx}", r"\begin{document}"]
    for name, text in kinds.items():
        (tmp_path / f"{name}.tex").write_text(text)
        source += [rf"\input{{{name}}}", r"\clearpage"]
    (tmp_path / "all.tex").write_text("\n".join([*source, r"\end{document}"]))
    for _ in range(2):  # the second run knows the labels
        done = subprocess.run(
            ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    log = (tmp_path / "all.log").read_text(errors="replace")
    complaints = [line for line in log.splitlines() if re.search(r"Warning|Overfull|Missing character", line)]
    assert complaints == []
