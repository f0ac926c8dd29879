"""The suite: cells are planned, kept, run and retried, and no fault of one cell touches another."""

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import record, suite, tables
from benchmarks.methods import METHODS, Job
from benchmarks.record import Cost
from benchmarks.run import make_record, run_cell

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]

SUITE = ("benchmarks.suite", "--workers", "2")


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def records(project: Path) -> list[record.Record]:
    found, broken = record.read_all(project / "results")
    assert not broken
    return found


def test_a_suite_runs_what_is_missing_and_keeps_the_rest(call: Call, project: Path, job: Callable[..., Job]) -> None:
    line = (*SUITE, "tiny", "--seeds", "0")
    first = call(*line, "--folds", "1")
    assert first.returncode == 0, first.stderr
    assert "5 cells: 0 kept, 5 to run, 0 unavailable; workers: 2; time unknown" in first.stdout
    assert "[5/5]" in first.stdout
    made = records(project)
    assert {r.method for r in made} == set(METHODS)
    assert all(r.device["threads"] == 1 for r in made)
    # One search for all, and the same numbers as in this process.
    assert len(list((project / "results/work").rglob("found.json"))) == 1
    assert len({r.search.seconds for r in made if METHODS[r.method].shares_search}) == 1
    alone = run_cell(job("local_single"))
    assert next(r for r in made if r.cell == alone.cell).metrics == alone.metrics

    listed = call(*line, "--list")
    assert listed.returncode == 0, listed.stderr
    assert "task toy: presets tiny, " in listed.stdout
    assert "method local_single: " in listed.stdout
    assert "done    toy tiny local_single fold 1 seed 0" in listed.stdout
    assert "missing toy tiny local_single fold 2 seed 0" in listed.stdout
    assert records(project) == made

    other = call(*line, "--task", "toy", "--list", "--", "--epochs", "3", "--root", "elsewhere")
    assert "missing toy tiny+epochs=3 local_single fold 1 seed 0" in other.stdout

    rest = call(*line, "--method", "baseline", "local_single")
    assert rest.returncode == 0, rest.stderr
    assert "4 cells: 2 kept, 2 to run, 0 unavailable; workers: 2; about 0:0" in rest.stdout
    assert [r for r in records(project) if r.fold == 1] == made
    assert "[2/2]" in rest.stdout
    assert {r.method for r in records(project) if r.fold == 2} == {"baseline", "local_single"}


def test_a_failing_cell_stops_no_other_and_is_tried_again(call: Call, project: Path) -> None:
    blocked = project / "results/runs/toy/mixed/baseline/fold1-seed3.json"
    blocked.mkdir(parents=True)  # a folder where a record should go
    line = (*SUITE, "mixed", "--seeds", "0", "1", "2", "3", "--method", "baseline")
    done = call(*line)
    assert done.returncode == 1
    assert "[8/8]" in done.stdout
    assert list(record.read_all(project / "results")[1]) == [blocked]
    blocked.rmdir()
    found = {(r.fold, r.seed): r for r in records(project)}
    assert {found[1, seed].status for seed in range(3)} == {"done"}
    assert "RuntimeError: the toy was told to fail" in (found[2, 0].reason or "")
    assert "its worker process died" in (found[2, 1].reason or "")
    assert "SystemExit: 7" in (found[2, 2].reason or "")
    assert "not finite: loss" in (found[2, 3].reason or "")
    assert "toy mixed baseline fold 1 seed 3: failed, no record: " in done.stderr
    assert done.stderr.count("failed: toy") == 5
    assert "Traceback" not in done.stderr
    assert "told to fail" in suite.log_path(found[2, 0].cell, project / "results").read_text()

    paths, errors = tables.make(project / "results")
    assert not errors
    assert "its worker process died" in paths[0].read_text()

    # The cause is mended: only what failed is run.
    task = project / "tasks/toy/task.py"
    task.write_text(task.read_text().replace("if run.fold == 2 else", "if run.fold == 99 else"))
    mended = call(*line)
    assert mended.returncode == 0, mended.stderr
    assert "8 cells: 3 kept, 5 to run" in mended.stdout
    assert {r.status for r in records(project)} == {"done"}


def test_missing_data_is_said_and_becomes_dashes(call: Call, project: Path) -> None:
    (project / "tasks/foreign").mkdir()
    (project / "tasks/foreign/task.py").write_text("import a_package_that_nobody_has\n")
    done = call(*SUITE, "missing", "--seeds", "0", "--method", "baseline")
    assert done.returncode == 3
    assert "unavailable: foreign: cannot be loaded: ModuleNotFoundError" in done.stdout
    assert "unavailable: toy missing: download toy.zip and unpack it" in done.stdout
    assert [r.reason for r in records(project)] == ["unavailable: download toy.zip and unpack it"] * 2
    (path,), _ = tables.make(project / "results")
    assert "download toy.zip" in path.read_text()


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
def test_workers_end_with_a_suite_that_is_killed(start: Start, project: Path) -> None:
    process = start(*SUITE, "slow", "--seeds", "0", "--method", "baseline", start_new_session=True)
    wait_for(lambda: list((project / "results/work").rglob("last.ckpt")))
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not alive(process.pid), 20)


def alive(group: int) -> bool:
    """Whether a process group still has a process that is not a zombie."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state != "Z":
            return True
    return False


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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("tinny", "unknown preset 'tinny' (did you mean 'tiny'?)"),
        ("tiny --task action_segmentatio", "unknown task 'action_segmentatio' (did you mean"),
        ("tiny --method local", "unknown method 'local' (did you mean"),
        ("tiny -- --epochs 3", "fields after -- belong to one task"),
        ("tiny --folds 9", "no cell to run; action_segmentation has no fold 9; it has 1, 2, 3, 4, 5"),
        ("tiny --workers 0", "--workers must be at least 1 or auto, got 0"),
    ],
)
def test_wrong_usage_is_one_clear_error(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_a_wrong_field_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        suite.main(["tiny", "--task", "action_segmentation", "--", "--epochs", "0"])
    assert exit.value.code == 2
    assert "epochs is 0; it must be at least 1" in capsys.readouterr().err


def test_time_is_estimated_from_this_machines_records(job: Callable[..., Job]) -> None:
    missing = [job(method, fold=fold) for method in METHODS for fold in (1, 2)]
    results = missing[0].results
    assert suite.estimate_seconds(missing, results, 2) is None
    values = {"accuracy": 1.0, "loss": 1.0}
    for method, search, training in (
        ("baseline", 0, 10),
        ("random_search", 12, 10),
        ("local_single", 20, 10),
    ):
        made = make_record(
            job(method, fold=3),
            "now",
            metrics=values,
            metrics_last=values,
            validation=values,
            search=Cost(5, search),
            training=Cost(5, training),
            evaluation_seconds=1.0,
        )
        record.write(made, results)
        record.write(
            dataclasses.replace(made, seed=9, device=made.device | {"name": "another machine"}, training=Cost(5, 1e6)),
            results,
        )
    # Per fold: baseline 11, random_search 23, the search once 20, local_single 11, and 11 each for the two
    # methods without a record, as the mean of the others.
    assert suite.estimate_seconds(missing, results, 2) == pytest.approx(11 + 23 + 20 + 3 * 11)
