"""The suite: cells are planned, kept, run and retried, and no fault of one cell touches another."""

import dataclasses
import io
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import record, suite, tables
from benchmarks.methods import METHODS
from benchmarks.record import Cost
from benchmarks.run import Assignment, Delivery, make_record, run_cell
from benchmarks.training import Job

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
    standard = {name for name, method in METHODS.items() if method.standard}
    count = len(standard)
    assert f"{count} cells: 0 kept, {count} to run, 0 unavailable; workers: 2; time unknown" in first.stdout
    assert f"[{count}/{count}]" in first.stdout
    assert "\x1b" not in first.stdout  # no terminal, no line that changes
    made = records(project)
    assert {r.method for r in made} == standard
    assert all(r.device["threads"] == 1 for r in made)
    # One local search for all, and the same numbers as in this process.
    assert len(list((project / "results/work/toy/tiny/searches/local_search").rglob("found.json"))) == 1
    assert len({r.search.seconds for r in made if r.method.startswith("local_")}) == 1
    alone = run_cell(job("local_single"))
    assert next(r for r in made if r.cell == alone.cell).metrics == alone.metrics

    listed = call(*line, "--list")
    assert listed.returncode == 0, listed.stderr
    assert "task toy: presets tiny, " in listed.stdout
    assert "method local_single: " in listed.stdout
    assert "done   toy tiny local_single fold 1 seed 0" in listed.stdout
    assert "to run toy tiny local_single fold 2 seed 0" in listed.stdout
    assert records(project) == made

    other = call(*line, "--task", "toy", "--list", "--", "--epochs", "3", "--root", "elsewhere")
    assert "to run toy tiny+epochs=3 local_single fold 1 seed 0" in other.stdout

    rest = call(*line, "--method", "baseline", "local_single")
    assert rest.returncode == 0, rest.stderr
    assert "4 cells: 2 kept, 2 to run, 0 unavailable; workers: 2; about 0:" in rest.stdout
    assert [r for r in records(project) if r.fold == 1] == made
    assert "[2/2]" in rest.stdout
    assert {r.method for r in records(project) if r.fold == 2} == {"baseline", "local_single"}


def test_a_preset_stands_for_its_variants_and_a_task_leaves_methods_out(call: Call, project: Path) -> None:
    task = project / "tasks/toy/task.py"
    text = task.read_text()
    text = text.replace('"tiny": Config(),', '"tiny": Config(), "tiny-wide": Config(width=9), "tinytoo": Config(), ')
    text = text.replace('"missing")', '"missing", "coco-missing")').replace(
        '== "missing"', 'in ("missing", "coco-missing")'
    )
    text = text.replace("illustrate=illustrate,", 'illustrate=illustrate, leaves_out={"local_multi": "it is a toy"},')
    task.write_text(text)
    line = ("benchmarks.suite", "--seeds", "0", "--folds", "1", "--list")
    listed = call(*line, "tiny", "--method", "baseline", "local_multi").stdout
    assert [row for row in listed.splitlines() if row.startswith("to run")] == [
        "to run toy tiny baseline fold 1 seed 0",
        "to run toy tiny-wide baseline fold 1 seed 0",
    ]
    assert "left out: toy tiny-wide local_multi: it is a toy" in listed

    every = call(*line, "tiny", "--method", "all").stdout.splitlines()
    methods = {row.split()[4] for row in every if row.startswith("to run")}
    assert methods == METHODS.keys() - {"local_multi"}

    done = call("benchmarks.suite", "--seeds", "0", "--folds", "1", "--method", "baseline", "--workers", "1", "tiny")
    assert done.returncode == 0, done.stderr
    assert {r.preset for r in records(project)} == {"tiny", "tiny-wide"}
    tables.make(project / "results")
    assert (project / "results/tables/toy-tiny-wide.md").exists()

    paper = call("benchmarks.suite", "paper", "--method", "baseline")
    assert paper.returncode == 3
    assert "unavailable: toy coco-missing: download toy.zip and unpack it" in paper.stdout
    assert "plan: toy coco-missing: 2 cells, 0 kept, 2 unavailable" in paper.stdout
    listed = call(*line, "paper", "--method", "baseline").stdout
    assert "unavailable toy coco-missing baseline fold 1 seed 0" in listed
    assert "to run" not in listed


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_line_that_changes(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = Terminal()
    progress = suite.Progress(2, expected=80.0, out=out)
    cells = [job(fold=fold).cell for fold in (1, 2)]
    progress.show(cells)
    assert out.getvalue() == "\r\x1b[2K[0/2] elapsed 0:00, left 1:20; running: toy tiny baseline f"
    progress.add(suite.Result(cells[0], None, "a full disk"))
    *_, line, end = out.getvalue().split("\n")
    assert line.endswith(
        "\r\x1b[2K[1/2] toy tiny baseline fold 1 seed 0: failed, no record: a full disk (elapsed 0:00, left 0:00)"
    )
    assert end == ""

    plain = io.StringIO()
    suite.Progress(2, None, plain).show(cells)
    assert plain.getvalue() == ""
    assert suite.Progress(2, None, plain).times == "elapsed 0:00, left unknown"


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
    (path, *_), _ = tables.make(project / "results")
    assert "download toy.zip" in path.read_text()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    line = ["tiny", "--task", "action_segmentation", "--method", "baseline", "--results", str(tmp_path / "file/below")]
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
        ("tiny --seeds 0 -1", "--seeds must be between 0 and 4294967295, got -1"),
        ("tiny --workers 0", "--workers must be at least 1 or auto, got 0"),
        ("tiny --gpus-per-cell 1", "--gpus-per-cell is for clusters; give --ray-address, too"),
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


def test_time_is_estimated_from_records(job: Callable[..., Job]) -> None:
    methods = ("baseline", "random_search", "local_search_run", "local_single", "local_multi")
    missing = [job(method, fold=fold) for method in methods for fold in (1, 2)]
    made_here: list[record.Record] = []
    assert suite.estimate_seconds(missing, []) is None
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
        made_here.append(made)
        made_here.append(dataclasses.replace(made, seed=9, resumed=True, training=Cost(5, 1e6)))
    # Per fold: baseline 11, random_search 23, the search once 20, local_single 11, and 11 each for the two
    # methods without a record, as the mean of the others.
    assert suite.estimate_seconds(missing, made_here) == pytest.approx(2 * (11 + 23 + 20 + 3 * 11))


def test_a_search_is_counted_once_and_what_goes_on_from_it_only_for_the_rest(job: Callable[..., Job]) -> None:
    values = {"accuracy": 1.0, "loss": 1.0}

    def timed(method: str, search: float) -> record.Record:
        found = {"metrics": values, "metrics_last": values, "validation": values}
        costs = {"search": Cost(5, search), "training": Cost(5, 10.0), "evaluation_seconds": 0.0}
        return make_record(job(method, fold=3), "now", **found, **costs)

    known = [timed("one_shot", 20), timed("one_shot_to_local_single", 50)]
    names = ["one_shot", "one_shot_to_local_single", "one_shot_to_local_multi"]
    assert suite.estimate_seconds([job(name) for name in names], known) == pytest.approx(20 + 30 + 3 * 10)
    assert suite.estimate_seconds([job(name) for name in names[1:]], known) == pytest.approx(50 + 2 * 10)
    # What is trained for a ranking afterwards is no part of the search that others share.
    known.append(timed("one_shot_ranked", 31))
    names = ["one_shot", "one_shot_ranked"]
    assert suite.estimate_seconds([job(name) for name in names], known) == pytest.approx(20 + 10 + 2 * 10)
    # No genetic search yet: its budget is 6 trainings, and the local search after it is one more.
    names = ["global_", "global_to_local_single", "global_pareto"]
    assert suite.estimate_seconds([job(name) for name in names], known) == pytest.approx(70 + 60 + 3 * 10)


class Slots:
    """A pool whose cells end when it is asked, the oldest first; those that another process has are `busy` at first.

    No two cells may do a search at a time, be it here or in the other process.
    """

    def __init__(self, size: int, jobs: list[Job], busy: set[str]) -> None:
        self.size, self.jobs, self.busy = size, {job.cell: job for job in jobs}, busy
        self.running: list[tuple[Future[Delivery], Assignment]] = []
        self.elsewhere: set[str] = set()
        self.done: set[str] = set()
        self.seen: list[list[str]] = []

    @property
    def room(self) -> int:
        return self.size - len(self.running)

    def submit(self, function: object, assignment: Assignment) -> Future[Delivery]:
        self.running.append((Future(), assignment))
        if assignment.patient:
            self.elsewhere.difference_update(METHODS[assignment.cell.method].searches)
        methods = [METHODS[assignment.cell.method] for _, assignment in self.running]
        doing = [name for method in methods for name in method.searches if name not in self.done]
        assert len(set(doing)) == len(doing)
        assert not self.elsewhere.intersection(doing)
        return self.running[-1][0]

    def wait(self, timeout: float) -> list[Future[Delivery]]:
        self.seen.append([assignment.cell.method for _, assignment in self.running])
        future, assignment = self.running.pop(0)
        searches = METHODS[assignment.cell.method].searches
        if assignment.cell.method in self.busy and not assignment.patient:
            self.elsewhere.update(searches)
            future.set_exception(record.Busy("another process has it"))
        else:
            self.done.update(searches)
            future.set_result(Delivery(make_record(self.jobs[assignment.cell], "now", reason="a test")))
        return [future]


@pytest.mark.parametrize("busy", [set(), {"local_single"}, {"baseline", "one_shot", "local_single"}])
def test_cells_wait_for_their_own_search_and_for_no_other(job: Callable[..., Job], busy: set[str]) -> None:
    names = ["baseline", "local_single", "local_multi", "one_shot", "one_shot_to_local_single"]
    jobs = [job(name) for name in [*names, "global_", "global_to_local_single"]]
    slots = Slots(3, jobs, busy)
    found = [result.cell.method for result in suite.run_all(jobs, slots)]  # type: ignore[arg-type]
    assert sorted(found) == sorted(one.cell.method for one in jobs)
    assert slots.seen[0] == ["local_single", "one_shot", "global_"]  # three searches at once


def test_a_method_that_a_task_cannot_train_is_left_out_with_the_reason(toy: ModuleType) -> None:
    assert suite.left_out(toy.TASK, "one_shot_held_out") is None
    unable = dataclasses.replace(toy.TASK, probability_batches=("train",))
    assert suite.left_out(unable, "one_shot") is None
    reason = suite.left_out(unable, "one_shot_held_out")
    assert reason == "the task's training has no held-out batches for probabilities"
