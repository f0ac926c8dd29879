"""One cell from the command line: what is said, and with which exit status."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import tasks
from benchmarks import suite
from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.records.record import Key, read
from benchmarks.run import main, parse
from benchmarks.running.execute import run_cell

Start = Callable[..., subprocess.Popen[str]]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.usefixtures("only_toy")
def test_a_command_line_becomes_a_cell(toy: ModuleType, tmp_path: Path) -> None:
    line = "toy local_multi --preset wide --fold 2 --seed 4 --epochs 2 --search.spread 0.25 --device cpu"
    here, options = parse([*line.split(), "--name", "short", "--fresh", "--results", str(tmp_path)])
    assert here.key == Key("toy", "short", "local_multi", 2, 4)
    assert (here.config.epochs, here.config.search.spread, here.config.width) == (2, 0.25, 9)
    assert (here.results, here.device, here.resume, here.base) == (tmp_path, "cpu", False, "wide")
    assert here.threads == options.threads == 1
    plain, _ = parse(["toy", "baseline"])
    assert plain.config == toy.TASK.presets["tiny"]
    assert plain.key.fold == 1
    assert parse(["toy", "baseline", "--folds", "2", "1"])[0].fold == 2


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("toi baseline", "unknown task 'toi' (did you mean 'toy'?)"),
        ("toy local_singel", "unknown method 'local_singel' (did you mean 'local_single'?)"),
        ("toy baseline --preset tinny", "unknown preset 'tinny' (did you mean 'tiny'?)"),
        ("toy baseline --preset=tinny", "unknown preset 'tinny' (did you mean 'tiny'?)"),
        ("toy baseline --fold 9", "has no fold 9; its folds: 1, 2"),
        ("toy baseline --seed -1", "--seed must be between 0 and 4294967295, got -1"),
        ("toy baseline --seed 4294967296", "--seed must be between 0 and 4294967295, got 4294967296"),
        ("toy baseline --threads 0", "threads is 0; it must be at least 1 and at most 1024"),
        ("toy --fold 1", "give a METHOD after the task: baseline, "),
        ("--fold 1", "give a TASK (toy) and a METHOD (baseline, "),
        ("", "give a TASK (toy"),
        ("toy baseline --epochs 0", "epochs is 0; it must be at least 1"),
        ("toy baseline --device cuda:99", "--device: device 'cuda:99' is not here; give one of auto, cpu"),
        ("toy baseline --name Up", "--name 'Up' becomes the name of folders"),
        ("toy baseline --epochs 3 --name wide", "--name wide is a preset of toy"),
        ("toy genetic_single --trial-workers 0", "trial_workers is 0; it must be at least 1"),
        ("toy baseline --trial-workers 2", "--trial-workers and --ray-address are for tuned_single, "),
        ("toy genetic_single --gpus-per-trial 1", "--gpus-per-trial is for clusters; give --ray-address, too"),
        ("toy genetic_single --ray-address nonsense", "'nonsense' is no cluster address: local, auto, HOST:PORT"),
        ("--from nowhere.json", "nowhere.json: no such record"),
    ],
)
def test_wrong_usage_is_one_clear_error(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.usefixtures("only_toy")
def test_a_method_that_the_task_leaves_out_is_refused(
    toy: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picky = dataclasses.replace(toy.TASK, leaves_out={"local_multi": "it is a toy"})
    monkeypatch.setattr(tasks, "load", lambda name: picky)
    assert main(["toy", "local_multi"]) == 2
    assert capsys.readouterr().err == "error: local_multi is not for toy: it is a toy\n"


def test_a_method_that_a_preset_is_unfit_for_is_refused_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["action_segmentation", "transferred_single", "--preset", "small"]) == 2
    said = "error: transferred_single is not for action_segmentation with preset small: no other network"
    assert capsys.readouterr().err.startswith(said)


def test_without_the_environment_one_line_says_how_to_get_it() -> None:
    # Without site, Python finds no installed package.
    command = [sys.executable, "-S", "-m", "benchmarks.run", "--help"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert all(name in line.partition(" not installed for")[0] for name in ("torch", "tyro", "scipy", "filelock"))
    assert "bash setup.sh" in line


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("option", ["--epoch 3", "--epochs three", "--logger paper"])
def test_wrong_options_exit_with_2(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["toy", "baseline", *option.split()])
    assert exit.value.code == 2
    assert option.split()[0] in capsys.readouterr().err


@pytest.mark.usefixtures("only_toy")
def test_help_teaches_every_field(toy: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("toy baseline --preset wide --help", "toy --help"):
        with pytest.raises(SystemExit) as exit:
            main(line.split())
        assert exit.value.code == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for field in dataclasses.fields(toy.Config):
            if field.name != "search":
                assert f"--{field.name.replace('_', '-')}" in text
        for part in ("--search.spread", "--search.bounds.max", "--fold", "--seed", "--fresh", "--name", *METHODS):
            assert part in text
    with pytest.raises(SystemExit) as exit:
        main(["--help"])
    assert exit.value.code == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*METHODS, *tasks.names()))


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("method", METHODS)
def test_a_relative_results_folder_serves_every_method(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    status = main(["toy", method, "--epochs", "2", "--name", "short", "--results", "out"])
    # Four groups do not divide the toy's two channels.
    assert status == (1 if method == "kernel_enlargement" else 0), capsys.readouterr().err
    assert read(tmp_path / f"out/runs/toy/short/{method}/fold1-seed0.json").base == "tiny"


@pytest.mark.parametrize("name", tasks.names())
def test_no_field_of_a_config_is_also_an_option_of_the_runner(name: str, tmp_path: Path) -> None:
    here, _ = parse([name, "baseline", "--results", str(tmp_path)])
    assert here.task.name == name


@pytest.mark.usefixtures("only_toy")
def test_fresh_searches_again(tmp_path: Path) -> None:
    """A stored search is taken over, by a second run as by another method, until all is asked for anew."""

    def searched(*options: str) -> dict[str, int]:
        assert main(["toy", "one_shot_to_local_single", "--results", str(tmp_path), *options]) == 0
        return {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("found.json")}

    first = searched()
    assert len(first) == 2
    assert searched() == first
    again = searched("--fresh")
    assert again.keys() == first.keys()
    assert all(again[path] > first[path] for path in first)


def test_the_command_line_runs_a_task_that_was_dropped_in(call: Call, project: Path) -> None:
    done = call("benchmarks.run", "toy", "local_single", "--epochs", "3", "--seed", "7", "--name", "short")
    assert done.returncode == 0, done.stderr
    assert "toy short local_single fold 1 seed 7: accuracy " in done.stdout
    path = project / "results/runs/toy/short/local_single/fold1-seed7.json"
    assert str(path) in done.stdout
    made = read(path)
    assert (made.base, made.overrides) == ("tiny", {"epochs": 3})
    assert made.command == (
        "python -m benchmarks.run toy local_single --preset tiny --fold 1 --seed 7 --epochs 3 --name short"
    )
    assert made.device["threads"] == 1


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("begin", [main, suite.main], ids=["run", "suite"])
def test_both_commands_begin_by_sweeping_up(begin: Callable[[list[str]], int], tmp_path: Path) -> None:
    """Also where the data is missing."""
    left = tmp_path / "runs/toy/.record.json.abcd_123.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    os.utime(left, (0, 0))
    line = ["toy", "baseline", "--preset", "missing"] if begin is main else ["missing", "--method", "baseline"]
    assert begin([*line, "--results", str(tmp_path)]) == 3
    assert not left.exists()


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize(("preset", "status"), [("raise", 1), ("missing", 3), ("tiny", 0)])
def test_the_exit_status_tells_failure_from_missing_data(
    preset: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["toy", "baseline", "--preset", preset, "--fold", "2", "--results", str(tmp_path)]
    assert main(line) == status
    error = capsys.readouterr().err
    assert error == "" if status == 0 else error.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ([], "The same command goes on from the last finished epoch."),
        (["--fresh"], "Without --fresh, the same command goes on from the last finished epoch."),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    only_toy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], advice: str
) -> None:
    line = ["toy", "baseline", "--preset", "interrupt", "--fold", "2", "--device", "cpu", "--results", str(tmp_path)]
    assert main([*line, *options]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"interrupted; nothing was recorded. {advice}"
    assert main(line) == 0


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_half_written_and_the_same_command_goes_on(
    start: Start, call: Call, project: Path, cell: Callable[..., Cell]
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
    resumed = call(*line)
    assert resumed.returncode == 0, resumed.stderr
    (path,) = (project / "results/runs").rglob("*.json")
    made = read(path)
    assert made.resumed
    assert made.metrics == run_cell(cell()).metrics
