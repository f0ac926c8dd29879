"""The suite: cells are planned, kept, run and retried, and no fault of one cell touches another."""

import dataclasses
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import tasks
from benchmarks import suite
from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.planning import plan_text
from benchmarks.planning.estimate import Timed
from benchmarks.records.folder import read_all
from benchmarks.records.record import Record
from benchmarks.running.execute import run_cell
from tests.faults.processes import alive, wait_for

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]

SUITE = ("benchmarks.suite", "--workers", "2")


def records(project: Path) -> list[Record]:
    found = read_all(project / "results")
    assert not found.broken
    return found.all


@pytest.mark.slow
def test_a_suite_runs_what_is_missing_and_keeps_the_rest(call: Call, project: Path, cell: Callable[..., Cell]) -> None:
    line = (*SUITE, "tiny", "--seeds", "0")
    first = call(*line, "--folds", "1")
    assert first.returncode == 0, first.stderr
    standard = {name for name, method in METHODS.items() if method.standard}
    count = len(standard)
    assert f"{count} cells: 0 kept, {count} to run, 0 unavailable; workers: 2; time unknown" in first.stdout
    assert f"[{count}/{count}]" in first.stdout
    assert "\x1b" not in first.stdout  # no terminal, no line that changes
    made = records(project)
    assert {r.method for r in made} == standard
    assert all(r.device["threads"] == 1 for r in made)
    # One local search for all, and the same numbers as in this process.
    assert len(list((project / "results/work/toy/tiny/searches/local").rglob("found.json"))) == 1
    local = [r for r in made if METHODS[r.method].search == METHODS["local_single"].search]
    assert len(local) > 1
    assert len({r.search.seconds for r in local}) == 1
    alone = run_cell(cell("local_single"))
    assert next(r for r in made if r.key == alone.key).metrics == alone.metrics

    listed = call(*line, "--list", "--verbose")
    assert listed.returncode == 0, listed.stderr
    assert "task toy: presets tiny, " in listed.stdout
    assert "method local_single: " in listed.stdout
    assert "done   toy tiny local_single fold 1 seed 0" in listed.stdout
    assert "to run toy tiny local_single fold 2 seed 0" in listed.stdout
    assert records(project) == made

    other = call(
        *line, "--task", "toy", "--name", "short", "--list", "--verbose", "--", "--epochs", "3", "--root", "elsewhere"
    )
    assert "to run toy short local_single fold 1 seed 0" in other.stdout

    rest = call(*line, "--method", "baseline", "local_single")
    assert rest.returncode == 0, rest.stderr
    assert "4 cells: 2 kept, 2 to run, 0 unavailable; workers: 2; about 0:" in rest.stdout
    assert [r for r in records(project) if r.fold == 1] == made
    assert "[2/2]" in rest.stdout
    assert {r.method for r in records(project) if r.fold == 2} == {"baseline", "local_single"}


@pytest.mark.slow
@pytest.mark.fault
def test_a_failing_cell_stops_no_other_and_is_tried_again(call: Call, project: Path) -> None:
    blocked = project / "results/runs/toy/mixed/baseline/fold1-seed3.json"
    blocked.mkdir(parents=True)  # a folder where a record should go
    line = (*SUITE, "mixed", "--seeds", "0", "1", "2", "3", "--method", "baseline")
    done = call(*line)
    assert done.returncode == 1
    assert "[8/8]" in done.stdout
    assert [fault.path for fault in read_all(project / "results").broken] == [blocked]
    blocked.rmdir()
    found = {(r.fold, r.seed): r for r in records(project)}
    assert {found[1, seed].status for seed in range(3)} == {"done"}
    assert "RuntimeError: the toy was told to fail" in (found[2, 0].reason or "")
    assert "its worker process died" in (found[2, 1].reason or "")
    assert "SystemExit: 7" in (found[2, 2].reason or "")
    assert "values that are no numbers (NaN): the training diverged" in (found[2, 3].reason or "")
    assert "toy mixed baseline fold 1 seed 3: failed, no record: " in done.stderr
    assert done.stderr.count("failed: toy") == 5
    assert "Traceback" not in done.stderr
    assert "told to fail" in (found[2, 0].key.work(project / "results") / "log.txt").read_text()

    # The cause is mended: only what failed is run.
    task = project / "tasks/toy/task.py"
    task.write_text(task.read_text().replace("if run.fold == 2 else", "if run.fold == 99 else"))
    mended = call(*line)
    assert mended.returncode == 0, mended.stderr
    assert "8 cells: 3 kept, 5 to run" in mended.stdout
    assert {r.status for r in records(project)} == {"done"}


def test_missing_data_is_said_and_recorded(call: Call, project: Path) -> None:
    (project / "tasks/foreign").mkdir()
    (project / "tasks/foreign/task.py").write_text("import a_package_that_nobody_has\n")
    done = call(*SUITE, "missing", "--seeds", "0", "--method", "baseline")
    assert done.returncode == 3
    assert "unavailable: foreign: cannot be loaded: ModuleNotFoundError" in done.stdout
    assert "unavailable: toy missing: download toy.zip and unpack it" in done.stdout
    assert [r.reason for r in records(project)] == ["unavailable: download toy.zip and unpack it"] * 2
    assert "2 unavailable" in done.stdout


@pytest.mark.usefixtures("only_toy")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    line = ["tiny", "--method", "baseline", "--results", str(tmp_path / "file/below")]
    assert suite.main(line) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"cannot write {tmp_path}" in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_ctrl_c_loses_no_finished_cell_and_leaves_no_process(start: Start, call: Call, project: Path) -> None:
    line = (*SUITE, "slow", "--seeds", "0", "1", "--method", "baseline")
    process = start(*line, start_new_session=True)  # a process group of its own, like a terminal's foreground job
    runs = project / "results/runs"
    wait_for(lambda: list(runs.rglob("*.json")))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; finished cells are kept" in err
    assert "Traceback" not in err
    wait_for(lambda: not alive(process.pid))
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    assert 1 <= len(before) < 4
    assert all(path.suffix == ".json" for path in before)
    done = call(*line)
    assert done.returncode == 0, done.stderr
    assert f"4 cells: {len(before)} kept, {4 - len(before)} to run" in done.stdout
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
@pytest.mark.fault
def test_workers_end_with_a_suite_that_is_killed(start: Start, project: Path) -> None:
    process = start(*SUITE, "slow", "--seeds", "0", "--method", "baseline", start_new_session=True)
    wait_for(lambda: list((project / "results/work").rglob("last.ckpt")))
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not alive(process.pid), 20)


@pytest.mark.slow
def test_two_suites_share_the_work(start: Start, project: Path) -> None:
    line = (*SUITE, "slow", "--seeds", "0", "--method", "baseline", "local_single", "local_multi")
    both = [start(*line), start(*line)]
    outputs = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    made = records(project)
    assert len(made) == 6
    assert {r.status for r in made} == {"done"}
    # Neither searched what the other had searched.
    logs = [log.read_text() for log in (project / "results/work").rglob("log.txt")]
    assert sum(log.count("searching 2 of 3 convs") for log in logs) == 2


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tinny", "unknown preset 'tinny' (did you mean 'tiny'?)"),
        ("tiny --task toi", "unknown task 'toi' (did you mean"),
        ("tiny --method local", "unknown method 'local' (did you mean"),
        ("tiny -- --epochs 3", "fields after -- and --name belong to one task"),
        ("tiny --name mine", "fields after -- and --name belong to one task"),
        ("tiny --task toy -- --epochs 0", "epochs is 0; it must be at least 1"),
        ("tiny --folds 9", "no cell to run; toy has no fold 9; it has 1, 2"),
        ("tiny --seeds 0 -1", "--seeds must be between 0 and 4294967295, got -1"),
        ("tiny --gpus-per-cell 1", "--gpus-per-cell is for clusters; give --ray-address, too"),
    ],
)
def test_wrong_usage_is_one_clear_error(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.usefixtures("only_toy")
def test_a_number_that_cannot_be_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        suite.main(["tiny", "--workers", "0"])
    assert capsys.readouterr().err == "error: workers is 0; it must be at least 1 and at most 1024\n"


@pytest.mark.usefixtures("only_toy")
def test_a_wrong_field_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        suite.main(["tiny", "--task", "toy", "--", "--epoch", "1"])
    assert exit.value.code == 2
    assert "--epoch" in capsys.readouterr().err


@pytest.mark.usefixtures("only_toy")
def test_the_plan_is_listed_without_running(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = ["--results", str(tmp_path)]
    assert suite.main(["both", "--method", "baseline", "--folds", "1", "--list", "--verbose", *results]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line for line in listed if line.startswith("to run")] == [
        "to run toy tiny baseline fold 1 seed 0",
        "to run toy wide baseline fold 1 seed 0",
    ]
    assert any(line.startswith("task toy: presets tiny, wide") and "paper" in line for line in listed)
    assert all(
        any(line.startswith(f"method {name}: {METHODS[name].description}") for line in listed) for name in METHODS
    )
    assert suite.main(["paper", "--method", "baseline", "--list", "--verbose", *results]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert "unavailable: toy missing, toy missing-wide: download toy.zip and unpack it" in listed
    assert "unavailable toy missing-wide baseline fold 2 seed 0" in listed
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.usefixtures("only_toy")
def test_the_compact_plan_is_a_line_per_table(
    tmp_path: Path, toy: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy takes no time: its steps are said to take 2 s, of 5 an epoch, 5 epochs a training."""
    commands = ("mkdir -p data", "wget -c toy.zip")
    task = dataclasses.replace(toy.TASK, download=lambda config: commands)
    monkeypatch.setattr(tasks, "load", lambda name: task)
    monkeypatch.setattr(plan_text, "time_elsewhere", lambda cell: Timed(2.0, 5, 5, 1.0))
    line = ["--method", "baseline", "local_single", "--list", "--results", str(tmp_path), "--workers", "2"]
    assert suite.main(["both", *line]) == 0
    rows = [row.split() for row in capsys.readouterr().out.splitlines()]
    # Two folds: a training each for the baseline, two for the search and what it found, 50 s each.
    assert ["toy", "tiny", "4", "0", "4", "0", "5:00"] in rows
    assert ["toy", "wide", "4", "0", "4", "0", "5:00"] in rows
    assert len([row for row in rows if row[:1] == ["toy"] and len(row) == 7]) == 2
    assert suite.main(["paper", *line]) == 0
    out = capsys.readouterr().out
    assert "8 cells: 0 kept, 0 to run, 8 unavailable; workers: 2\n" in out
    assert "unavailable: toy missing, toy missing-wide: download toy.zip and unpack it; get the data by" in out
    assert [out.count(command) for command in commands] == [1, 1]


@pytest.mark.usefixtures("only_toy")
def test_a_plan_says_which_searches_have_too_short_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The toy has 3 rounds, one an epoch. The baseline searches nothing, the one-shot search has no rounds."""
    monkeypatch.setattr(plan_text, "time_elsewhere", lambda cell: Timed(2.0, 5, 5, 1.0))
    line = ["tiny", "--task", "toy", "--folds", "1", "--list", "--results", str(tmp_path)]
    methods = ["--method", "baseline", "one_shot_single"]
    assert suite.main([*line, *methods, "local_single", "one_shot_to_local_single", "--", "--epochs", "2"]) == 0
    said = "the training has 2 epochs, so 2 of the 3 rounds of its search are run, one every 1"
    assert f"{said}; lower --search.rounds to 2 or raise --epochs (2 cells)\n" in capsys.readouterr().out
    assert suite.main([*line, *methods, "--", "--epochs", "2"]) == 0
    assert suite.main([*line, "--method", "local_single"]) == 0
    assert "rounds of its search" not in capsys.readouterr().out


@pytest.mark.usefixtures("only_toy")
def test_a_suite_whose_data_is_missing_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["paper", "--method", "baseline", "--results", str(tmp_path)]) == 3
    out = capsys.readouterr().out
    assert "unavailable: toy missing, toy missing-wide: download toy.zip and unpack it" in out
    assert {record.reason for record in read_all(tmp_path).all} == {"unavailable: download toy.zip and unpack it"}


@pytest.mark.usefixtures("only_toy")
def test_broken_records_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy-tiny").mkdir()
    (tmp_path / "toy-tiny/records.jsonl").write_text("{")
    assert suite.main(["tiny", "--method", "baseline", "--list", "--results", str(tmp_path)]) == 1
    assert f"error: {tmp_path}/toy-tiny/records.jsonl:1: " in capsys.readouterr().err


@pytest.mark.slow
def test_fresh_does_all_anew_and_a_shared_search_once(call: Call, project: Path) -> None:
    line = (*SUITE, "tiny", "--task", "toy", "--folds", "1", "--method", "local_single", "local_as_searched")

    def done(*options: str) -> tuple[str, int, set[str]]:
        ended = call(*line, *options)
        assert ended.returncode == 0, ended.stderr
        (found,) = (project / "results/work/toy/tiny/searches/local").rglob("found.json")
        assert len({record.search.seconds for record in records(project)}) == 1
        return ended.stdout, found.stat().st_mtime_ns, {str(record.finished) for record in records(project)}

    _, first, times = done()
    said, same, unchanged = done()
    assert "nothing to run" in said
    assert (same, unchanged) == (first, times)
    said, again, changed = done("--fresh")
    assert "2 cells: 0 kept, 2 to run" in said
    assert again > first
    assert not changed & times


@pytest.mark.slow
def test_what_an_interrupted_fresh_suite_has_not_reached_is_run_next(start: Start, call: Call, project: Path) -> None:
    line = (*SUITE, "slow", "--seeds", "0", "1", "--method", "baseline")
    assert call(*line).returncode == 0
    old = {record.key: record.finished for record in records(project)}
    process = start(*line, "--fresh", start_new_session=True)
    wait_for(lambda: any(record.finished != old[record.key] for record in records(project)))
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "without --fresh, the same command goes on from here" in err
    reached = {record.key: record.finished for record in records(project) if record.finished != old[record.key]}
    assert 1 <= len(reached) < 4
    ended = call(*line)
    assert f"4 cells: {len(reached)} kept, {4 - len(reached)} to run" in ended.stdout
    now = {record.key: record.finished for record in records(project)}
    assert not set(now.items()) & set(old.items())
    assert set(reached.items()) <= set(now.items())
    assert "nothing to run" in call(*line).stdout
