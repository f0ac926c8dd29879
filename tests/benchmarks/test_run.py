"""One cell from the command line: what is recorded, what is said, and with which exit status."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import tasks
from benchmarks import pool, record
from benchmarks.methods import METHODS
from benchmarks.record import Busy, claim
from benchmarks.run import (
    UNAVAILABLE,
    Assignment,
    compare_again,
    log_path,
    main,
    make_record,
    parse,
    portable,
    preset_name,
    receive,
    run_cell,
    work,
)
from benchmarks.training import Job

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]


def test_a_cell_becomes_a_record(job: Callable[..., Job]) -> None:
    here = job("local_single")
    made = run_cell(here)
    assert made.status == "done"
    assert record.read(here.cell.path(here.results)) == made
    assert made.protocol == here.protocol()
    assert made.data == "synthetic toy signals"
    assert made.structure is not None
    assert set(made.structure) == {"0", "2"}
    assert made.search.epochs == made.training.epochs == here.config.epochs
    assert made.started <= made.finished
    (picture,) = made.pictures
    assert picture == "figures/toy/tiny/local_single/accuracy.svg"
    assert f"{made.metrics['accuracy']:.1f}" in (here.results / picture).read_text()  # type: ignore[index]


def test_pictures_are_made_for_the_first_cell_only(job: Callable[..., Job], toy: ModuleType) -> None:
    assert run_cell(job(fold=2)).pictures == []
    assert run_cell(job(seed=1)).pictures == []


def test_a_cell_that_cannot_be_illustrated_is_still_done(
    job: Callable[..., Job], toy: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    def no_space(*arguments: object) -> list[Path]:
        raise OSError("no space left")

    made = run_cell(job(task=dataclasses.replace(toy.TASK, illustrate=no_space)))
    assert made.status == "done"
    assert made.pictures == []
    assert "no pictures" in caplog.text


def test_a_done_cell_is_kept_unless_asked_for(job: Callable[..., Job], toy: ModuleType) -> None:
    first = run_cell(job(command="first"))
    assert run_cell(job(command="second"), rerun=False).command == "first"
    assert run_cell(job(command="third", config=toy.Config(epochs=6)), rerun=False).command == "third"
    assert run_cell(job(), rerun=False).metrics == first.metrics
    assert run_cell(job(command="fifth")).command == "fifth"


@pytest.mark.parametrize(
    ("preset", "reason"),
    [
        ("raise", "RuntimeError: the toy was told to fail"),
        ("nan", "metrics of toy nan baseline fold 2 seed 0 is not finite: loss"),
        ("missing", f"{UNAVAILABLE}download toy.zip and unpack it"),
    ],
)
def test_a_failed_cell_says_why(
    job: Callable[..., Job], preset: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    here = job(preset=preset, fold=2)
    made = run_cell(here)
    assert made.status == "failed"
    assert reason in (made.reason or "")
    assert made.metrics is None
    assert record.read(here.cell.path(here.results)) == made
    assert "NaN" not in here.cell.path(here.results).read_text()


def test_an_interrupted_cell_leaves_no_record(job: Callable[..., Job]) -> None:
    here = job(preset="interrupt", fold=2)
    with pytest.raises(KeyboardInterrupt):
        run_cell(here)
    assert not here.cell.path(here.results).exists()
    made = run_cell(dataclasses.replace(here, resume=True))
    assert made.status == "done"
    assert made.resumed


def test_a_cell_that_runs_elsewhere_is_not_run_twice(job: Callable[..., Job]) -> None:
    here = job()
    run_cell(here)
    (lock,) = (here.results / "work" / "locks").iterdir()
    with claim(lock, wait=False), pytest.raises(Busy):
        run_cell(here, wait=False)


def test_the_preset_is_named_after_what_was_overridden(toy: ModuleType) -> None:
    task, config = toy.TASK, toy.Config()
    assert preset_name(task, "tiny", config) == "tiny"
    assert preset_name(task, "tiny", dataclasses.replace(config, root=Path("elsewhere"))) == "tiny"
    search = dataclasses.replace(config.search, spread=0.25)
    changed = dataclasses.replace(config, epochs=3, search=search)
    assert preset_name(task, "tiny", changed) == "tiny+epochs=3+search.spread=0.25"
    assert preset_name(task, "tiny", dataclasses.replace(config, fault="a/../b c")) == "tiny+fault=a_.._b_c"
    long, longer = (preset_name(task, "tiny", dataclasses.replace(config, fault="x" * n)) for n in (200, 201))
    assert len(long) == len(longer) == 100
    assert long != longer


def test_texts_do_not_carry_this_machines_folders() -> None:
    assert portable(f"{record.ROOT}/tasks and {Path.home()}/data") == "./tasks and ~/data"


def test_the_recorded_command_runs_the_same_cell_again(tmp_path: Path) -> None:
    given = "--preset small --fold 2 --seed 3 --model ms_tcn_pp --lr-drop-epoch None --folds 1 2 --search.bounds.max 9"
    first, _ = parse([TASK, "local_multi", *given.split(), "--root", str(tmp_path)])
    assert first.command.endswith(" --root ROOT")
    assert str(tmp_path) not in first.command
    again, _ = parse(shlex.split(first.command)[3:])
    assert again.cell == first.cell
    assert again.command == first.command
    assert dataclasses.replace(again.config, root=tmp_path) == first.config


TASK = "action_segmentation"


def test_a_command_line_becomes_a_job(tmp_path: Path) -> None:
    line = f"{TASK} local_multi --preset tiny --fold 3 --seed 4 --epochs 2 --search.spread 0.25 --device cpu"
    here, options = parse([*line.split(), "--resume", "--results", str(tmp_path)])
    assert here.cell == record.Cell(TASK, "tiny+epochs=2+search.spread=0.25", "local_multi", 3, 4)
    assert (here.config.epochs, here.config.search.spread) == (2, 0.25)
    assert (here.results, here.device, here.resume) == (tmp_path, "cpu", True)
    assert options.threads == 1
    plain, _ = parse([TASK, "baseline"])
    assert plain.config == tasks.load(TASK).presets["tiny"]
    assert plain.cell.fold == plain.config.folds[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "action_segmentatoin baseline",
            "unknown task 'action_segmentatoin' (did you mean 'action_segmentation'?)",
        ),
        (f"{TASK} local_singel", "unknown method 'local_singel' (did you mean 'local_single'?)"),
        (f"{TASK} baseline --preset tinny", "unknown preset 'tinny' (did you mean 'tiny'?)"),
        (f"{TASK} baseline --preset=tinny", "unknown preset 'tinny' (did you mean 'tiny'?)"),
        (f"{TASK} baseline --fold 9", "has no fold 9; its folds: 1, 2, 3, 4, 5"),
        (f"{TASK} baseline --seed -1", "--seed must be between 0 and 4294967295, got -1"),
        (f"{TASK} baseline --seed 4294967296", "--seed must be between 0 and 4294967295, got 4294967296"),
        (f"{TASK} baseline --threads 0", "--threads must be at least 1, got 0"),
        (f"{TASK} --fold 1", "give a METHOD after the task: baseline, "),
        ("--fold 1", "give a TASK (action_segmentation"),
        ("", "give a TASK (action_segmentation"),
        (f"{TASK} baseline --epochs 0", "epochs is 0; it must be at least 1"),
        (f"{TASK} global_ --trial-workers 0", "--trial-workers must be at least 1 or auto, got 0"),
        (
            f"{TASK} baseline --trial-workers 2",
            "baseline trains nothing side by side; --trial-workers and --ray-address",
        ),
        (f"{TASK} global_ --gpus-per-trial 1", "--gpus-per-trial is for clusters; give --ray-address, too"),
        (f"{TASK} global_ --ray-address nonsense", "'nonsense' is no cluster address: local, auto, HOST:PORT"),
    ],
)
def test_wrong_usage_is_one_clear_error(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_without_the_environment_one_line_says_how_to_get_it() -> None:
    # Without site, Python finds no installed package.
    command = [sys.executable, "-S", "-m", "benchmarks.run", "--help"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "torch, tyro, scipy not installed for" in line
    assert "bash setup.sh" in line


@pytest.mark.parametrize("option", ["--epoch 3", "--epochs three", "--model ms_tcm"])
def test_wrong_options_exit_with_2(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main([TASK, "baseline", *option.split()])
    assert exit.value.code == 2
    assert option.split()[0] in capsys.readouterr().err


def test_help_teaches_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    for line in (f"{TASK} baseline --preset small --help", f"{TASK} --help"):
        with pytest.raises(SystemExit) as exit:
            main(line.split())
        assert exit.value.code == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for field in dataclasses.fields(tasks.load(TASK).presets["small"]):
            if field.name != "search":
                assert f"--{field.name.replace('_', '-')} " in text
        for part in ("--search.spread", "--search.bounds.max", "--fold", "--seed", "--resume", *METHODS):
            assert part in text
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*METHODS, *tasks.names()))


def test_the_command_line_runs_a_task_that_was_dropped_in(call: Call, project: Path) -> None:
    done = call("benchmarks.run", "toy", "local_single", "--epochs", "3", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert "toy tiny+epochs=3 local_single fold 1 seed 7: accuracy " in done.stdout
    path = project / "results/runs/toy/tiny+epochs=3/local_single/fold1-seed7.json"
    assert str(path) in done.stdout
    made = record.read(path)
    assert made.command == ("python -m benchmarks.run toy local_single --preset tiny --fold 1 --seed 7 --epochs 3")
    assert made.device["threads"] == 1
    tables = call("benchmarks.tables")
    assert tables.returncode == 0, tables.stderr
    assert "accuracy" in (project / "results/tables/toy-tiny+epochs=3.md").read_text()


def test_a_record_runs_again_from_itself(call: Call, project: Path) -> None:
    line = ("toy", "random_search", "--epochs", "3", "--seed", "7", "--search.bounds.max", "None", "--root", "there")
    done = call("benchmarks.run", *line)
    assert done.returncode == 0, done.stderr
    (path,) = (project / "results/runs").rglob("*.json")
    before = path.read_bytes()
    shutil.rmtree(project / "results/work")
    again = call("benchmarks.run", "--from", str(path), "--root", "elsewhere")
    assert again.returncode == 0, again.stderr
    assert "equal: all metrics and the structure are those of the record" in again.stdout
    assert path.read_bytes() == before
    assert not (project / "results/work").exists()

    changed = json.loads(before)
    changed["metrics"]["accuracy"] += 1
    path.write_text(json.dumps(changed))
    different = call("benchmarks.run", "--from", str(path), "--results", str(project / "again"))
    assert different.returncode == 1, different.stderr
    assert f"metrics accuracy: {changed['metrics']['accuracy']!r} in the record" in different.stdout
    assert record.read(project / "again" / path.relative_to(project / "results")).status == "done"


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.names())
def test_every_tasks_record_runs_again_from_itself(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tasks.load(name)
    config = dataclasses.replace(task.presets["tiny"], epochs=1)
    if missing := task.unavailable(config):
        pytest.skip(missing)
    method = "local_single" if "local_single" not in task.leaves_out else "baseline"
    cell = record.Cell(name, "tiny+epochs=1", method, task.folds(config)[0], 0)
    made = run_cell(Job(cell, task, config, tmp_path, settings=METHODS[method].settings, device="cpu"))
    assert made.status == "done", made.reason
    assert main(["--from", str(cell.path(tmp_path)), "--device", "cpu"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", tasks.names())
def test_no_field_of_a_config_is_also_an_option_of_the_runner(name: str, tmp_path: Path) -> None:
    job, _ = parse([name, "baseline", "--results", str(tmp_path)])
    assert job.task.name == name


def changed(path: Path, **fields: object) -> Path:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))
    return path


def test_a_record_that_cannot_run_again_is_one_clear_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tasks.load(TASK)
    cell = record.Cell(TASK, "tiny", "baseline", 1, 0)
    here = Job(cell, task, task.presets["tiny"], tmp_path, settings={}, device="cpu")
    values = {metric.name: 1.0 for metric in task.metrics}
    made = make_record(here, "now", metrics=values, metrics_last=values, validation=values)
    path = record.write(made, tmp_path)
    config = made.protocol["config"]
    for given, options, message in (
        ({"protocol": made.protocol | {"version": 0}}, (), f"version is {task.version} instead of 0"),
        ({"protocol": made.protocol | {"config": config | {"speed": 1}}}, (), "config has no field speed here"),
        ({"protocol": made.protocol | {"config": config | {"epochs": "2"}}}, (), "config.epochs is '2'"),
        ({"protocol": made.protocol | {"config": config | {"epochs": 0}}}, (), "epochs is 0; it must be at least 1"),
        ({"protocol": made.protocol}, ("--epochs", "3"), "config.epochs is 3 instead of 32"),
        ({"protocol": made.protocol}, ("--results", str(tmp_path)), "would replace the record itself"),
        ({"status": "failed", "reason": "killed"}, (), "has nothing to compare with (killed)"),
    ):
        assert main(["--from", str(changed(path, **given)), *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert main(["--from", str(tmp_path / "nowhere.json")]) == 2
    assert "no such record" in capsys.readouterr().err


def test_another_machine_or_version_is_said(job: Callable[..., Job]) -> None:
    new = run_cell(job())
    old = dataclasses.replace(
        new,
        device=new.device | {"name": "another"},
        versions=new.versions | {"torch": "1.0"},
        metrics={name: value + 1 for name, value in (new.metrics or {}).items()},
    )
    results, places = compare_again(old, new)
    assert [line.split(":")[0] for line in results] == ["metrics accuracy", "metrics loss"]
    assert [line.split(":")[0] for line in places] == ["name", "torch"]
    assert compare_again(new, new) == ([], [])
    # Records from before a package was listed say nothing about it.
    assert compare_again(dataclasses.replace(new, versions={"python": new.versions["python"]}), new) == ([], [])


@pytest.mark.parametrize("method", ["baseline", "one_shot"])  # the latter also names a search
def test_a_worker_without_the_drivers_folder_hands_its_files_over(
    method: str, job: Callable[..., Job], toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    monkeypatch.setattr(tasks, "load", lambda name: toy.TASK)
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)  # pytest's own descriptors
    (tmp_path / "node").mkdir()
    here = job(method)
    own = work(Assignment(here.cell, here.config, here.results, pool.mark(here.results)))
    assert own.files is None
    assert log_path(here.cell, here.results).exists()
    assert record.read(here.cell.path(here.results)) == own.record

    driver = tmp_path / "driver"
    there = work(Assignment(here.cell, here.config, driver, pool.mark(driver) + "another machine's"))
    assert not here.cell.path(driver).exists()
    assert receive(there, driver) == record.read(here.cell.path(driver))
    (picture,) = there.record.pictures
    assert (driver / picture).read_bytes() == (here.results / picture).read_bytes()
    assert there.record.metrics == own.record.metrics
    assert log_path(here.cell, driver).exists()


@pytest.mark.parametrize(("preset", "status"), [("raise", 1), ("missing", 3)])
def test_the_exit_status_tells_failure_from_missing_data(call: Call, preset: str, status: int) -> None:
    failed = call("benchmarks.run", "toy", "baseline", "--preset", preset, "--fold", "2")
    assert failed.returncode == status
    assert failed.stderr.splitlines()[-1].startswith("error: ")


def test_ctrl_c_leaves_nothing_half_written_and_resume_goes_on(
    start: Start, call: Call, project: Path, job: Callable[..., Job]
) -> None:
    line = ("benchmarks.run", "toy", "baseline", "--preset", "slow")
    process = start(*line)
    checkpoint = project / "results/work/toy/slow/baseline/fold1-seed0/train/last.ckpt"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("interrupted")
    assert not (project / "results/runs").exists()
    resumed = call(*line, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    (path,) = (project / "results/runs").rglob("*.json")
    made = record.read(path)
    assert made.resumed
    assert made.metrics == run_cell(job()).metrics
