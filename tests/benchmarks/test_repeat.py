"""A record's cell run again from the record alone: equal, different, elsewhere, or one clear error."""

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks
from benchmarks.cell import Cell
from benchmarks.methods.table import GENETIC, METHODS
from benchmarks.records.lines import write_lines
from benchmarks.records.record import Record, read, write
from benchmarks.repeat import compare
from benchmarks.run import main
from benchmarks.running.execute import run_cell

Call = Callable[..., subprocess.CompletedProcess[str]]
Make = Callable[..., Cell]


@pytest.mark.slow
def test_a_record_runs_again_from_itself(call: Call, project: Path) -> None:
    line = ("toy", "random_single", "--epochs", "3", "--seed", "7", "--search.bounds.max", "None", "--root", "there")
    done = call("benchmarks.run", *line)
    assert done.returncode == 0, done.stderr
    (path,) = (project / "results/runs").rglob("*.json")
    before = path.read_bytes()
    shutil.rmtree(project / "results/work")
    again = call("benchmarks.run", "--from", str(path), "--root", "elsewhere")
    assert again.returncode == 0, again.stderr
    assert "equal: " in again.stdout
    assert path.read_bytes() == before
    assert not (project / "results/work").exists()


@pytest.fixture
def made(cell: Make, only_toy: None) -> Record:
    return run_cell(cell("local_single", fold=2, seed=3))


@pytest.fixture
def path(made: Record, results: Path) -> Path:
    return made.key.path(results)


def changed(path: Path, **fields: Any) -> Path:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))
    return path


def test_a_whole_record_and_a_line_of_many_run_again(
    made: Record, path: Path, cell: Make, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--from", str(path)]) == 0
    assert main([f"--from={path}", "--device", "cpu"]) == 0
    lines = tmp_path / "toy-tiny" / "records.jsonl"
    others = [run_cell(cell(method, fold=fold, seed=3)) for method, fold in (("local_single", 1), ("baseline", 2))]
    write_lines(lines, [made, *others])
    assert main(["--from", str(lines), "--method", "local_single", "--fold", "2", "--seed", "3"]) == 0
    assert main(["--from", str(lines), "--method", "baseline", "--results", str(tmp_path / "kept")]) == 0
    assert capsys.readouterr().out.count("equal: ") == 4
    assert read(others[1].key.path(tmp_path / "kept")).metrics == others[1].metrics
    assert main(["--from", str(lines), "--method", "local_single"]) == 2
    error = capsys.readouterr().err
    assert "2 of its cells are meant; give --method (baseline, local_single), --fold and --seed" in error
    assert main(["--from", str(lines), "--fold", "7"]) == 2
    assert "0 of its cells" in capsys.readouterr().err


@pytest.mark.usefixtures("only_toy")
def test_a_config_with_a_name_of_its_own_runs_again(
    cell: Make, toy: Any, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = cell(config=toy.Config(epochs=2, lr_drop_epoch=1, folds=(2, 1), bias=False), preset="mine", base="tiny")
    run_cell(here)
    assert main(["--from", str(here.key.path(results))]) == 0
    assert capsys.readouterr().out.startswith("toy mine baseline fold 1 seed 0: accuracy")


def test_another_result_is_an_error_and_another_machine_says_so(
    made: Record, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert made.metrics is not None
    changed(path, metrics=made.metrics | {"accuracy": made.metrics["accuracy"] + 1})
    assert main(["--from", str(path)]) == 1
    assert f"metrics accuracy: {made.metrics['accuracy'] + 1!r} in the record" in capsys.readouterr().out
    changed(path, device=made.device | {"name": "another"})
    assert main(["--from", str(path)]) == 4
    out = capsys.readouterr().out
    assert "not the same machine or version: name: another in the record" in out
    # Equal digits are equal wherever they were made.
    changed(path, metrics=made.metrics)
    assert main(["--from", str(path)]) == 0


def test_a_record_of_a_gpu_asks_for_one(
    made: Record, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    changed(path, device=made.device | {"type": "cuda", "name": "a GPU"})
    assert main(["--from", str(path)]) == 2
    assert "was made on a GPU, there is no GPU here; --device cpu runs it" in capsys.readouterr().err
    assert main(["--from", str(path), "--device", "cpu"]) == 0


def test_help_of_a_record_shows_its_config(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["--from", str(path), "--help"])
    assert exit.value.code == 0
    assert "--from" in capsys.readouterr().out
    with pytest.raises(SystemExit) as exit:
        main(["--from", str(path), "--epoch", "3"])
    assert exit.value.code == 2


def test_what_differs_is_said_by_its_name(made: Record) -> None:
    old = made.model_copy(
        update={
            "device": made.device | {"name": "another"},
            "versions": made.versions | {"torch": "1.0"},
            "metrics": {name: value + 1 for name, value in (made.metrics or {}).items()},
            "structure": made.structure and made.structure | {"0": [99]},
        }
    )
    results, places = compare(old, made)
    assert [line.split(":")[0] for line in results] == ["metrics accuracy", "metrics loss", "structure 0"]
    assert [line.split(":")[0] for line in places] == ["name", "torch"]
    assert compare(made, made) == ([], [])
    # Records from before a package was listed say nothing about it.
    some = made.model_copy(update={"versions": {"python": made.versions["python"]}})
    assert compare(some, made) == ([], [])


def test_a_cell_that_fails_now_says_why(
    path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fit(*arguments: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(tasks, "load", lambda name: dataclasses.replace(toy.TASK, fit=fit))
    assert main(["--from", str(path)]) == 1
    assert "error: RuntimeError: no memory" in capsys.readouterr().err
    monkeypatch.setattr(tasks, "load", lambda name: dataclasses.replace(toy.TASK, unavailable=lambda config: "get it"))
    assert main(["--from", str(path)]) == 3


def test_a_record_that_cannot_run_again_is_one_clear_error(
    made: Record, path: Path, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = made.protocol["config"]

    def protocol(**fields: Any) -> dict[str, Any]:
        return {"protocol": made.protocol | fields}

    for given, options, message in (
        (protocol(version=0), (), "version is 1 instead of 0"),
        (protocol(config=config | {"speed": 1}), (), "config.speed"),
        (protocol(config=config | {"epochs": "2"}), (), "config.epochs"),
        (protocol(config=config | {"epochs": 0}), (), "epochs is 0; it must be at least 1"),
        (protocol(config=None), (), "config"),
        (protocol(), ("--epochs", "3"), "config.epochs is 3 instead of 5"),
        (protocol(), ("--results", str(results)), "would replace the record itself"),
        (protocol() | {"schema_version": 1}, (), "not a record of schema 2 (found 1)"),
        ({"schema_version": 2, "status": "failed", "reason": "killed"}, (), "has nothing to compare with (killed)"),
    ):
        assert main(["--from", str(changed(path, **given)), *options]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    for place in ("nowhere.json", "nowhere.jsonl"):
        assert main(["--from", str(results / place)]) == 2
        assert "no such record" in capsys.readouterr().err
    (results / "records.jsonl").write_text("{")
    assert main(["--from", str(results / "records.jsonl")]) == 2
    assert "records.jsonl:1: " in capsys.readouterr().err


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize(("field", "name"), [("task", "toi"), ("method", "genetik_single")])
def test_a_record_of_something_unknown_is_one_clear_error(
    made: Record, results: Path, field: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = made.protocol | {"task": name} if field == "task" else made.protocol
    path = write(made.model_copy(update={field: name, "protocol": protocol}), results)
    assert main(["--from", str(path)]) == 2
    assert f"unknown {field} '{name}'" in capsys.readouterr().err


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("method", [name for name in METHODS if GENETIC not in METHODS[name].searches])
def test_every_methods_record_runs_again(cell: Make, results: Path, method: str) -> None:
    here = cell(method)
    made = run_cell(here)
    if method == "kernel_enlargement":
        pytest.skip("its four groups do not divide the toy's two channels")
    assert made.status == "done", made.reason
    assert main(["--from", str(here.key.path(results))]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", tasks.names())
def test_every_tasks_record_runs_again_from_itself(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tasks.load(name)
    config = dataclasses.replace(task.presets["tiny"], epochs=1)
    if missing := task.unavailable(config):
        pytest.skip(missing)
    method = METHODS["local_single" if "local_single" not in task.leaves_out else "baseline"]
    here = Cell(task, "short", config, method, task.folds(config)[0], 0, tmp_path, "tiny", device="cpu")
    made = run_cell(here)
    assert made.status == "done", made.reason
    assert main(["--from", str(here.key.path(tmp_path)), "--device", "cpu"]) == 0, capsys.readouterr().out


@pytest.mark.usefixtures("only_toy")
def test_a_record_of_own_data_runs_again_on_that_data_alone(
    own: Make, toy: Any, mine: list[Path], results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    here = own(mine[0])
    made = run_cell(here)
    path = here.key.path(results)
    assert main(["--from", str(path), "--root", str(mine[0].rename(mine[0].with_name("moved")))]) == 0
    assert main(["--from", str(path), "--root", str(mine[1])]) == 2
    error = capsys.readouterr().err
    assert "data is 'files " in error
    assert "give the folder of the record's data by --root PATH" in error
    assert len(error.splitlines()) == 1
    # One of before files counted is known by the name of its data.
    changed(path, protocol=made.protocol | {"data": made.data})
    assert main(["--from", str(path), "--root", str(mine[1])]) == 0
    assert main(["--from", str(path), "--root", str(mine[0].with_name("moved"))]) == 2
    assert "data is 'own moved' instead of 'own mine'" in capsys.readouterr().err
    changed(path, protocol=made.protocol)
    gone = dataclasses.replace(toy.TASK, unavailable=lambda config: "no folder; get it")
    monkeypatch.setattr(tasks, "load", lambda name: gone)
    assert main(["--from", str(path), "--root", str(mine[0])]) == 3
    assert "no folder; get it" in capsys.readouterr().err
