"""Weights & Biases without an account: a cell is run, killed and resumed, and what was written is read back."""

import contextlib
import dataclasses
import json
import shlex
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tasks
from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.records.record import Key, read
from benchmarks.run import main
from benchmarks.running.execute import run_cell
from benchmarks.wandb_results import offline_folders
from rfnext.integrations.wandb import RUN_FILE, init_arguments, log_structure

wandb = pytest.importorskip("wandb")
LINE = (
    "action_segmentation local_single --epochs 2 --search.interval 1 --search.rounds 2 --layers 2 --stages 2 --maps 8 "
    "--name short"
)
KEY = Key("action_segmentation", "short", "local_single", 1, 0)


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")


def entries(path: Path) -> Iterator[Any]:
    """The entries of a .wandb file: 7 bytes of header, then blocks of 32 KiB as in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, entry = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        entry += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record()
            message.ParseFromString(entry)
            entry = b""
            yield message


def finished(path: Path) -> list[Any]:
    """The entries of a run that has ended. W&B's service, a process of its own, may still be writing the last ones."""
    from google.protobuf.message import DecodeError

    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(DecodeError, struct.error):
            found = list(entries(path))
            if any(entry.WhichOneof("record_type") == "exit" for entry in found) or time.monotonic() > deadline:
                return found
        assert time.monotonic() < deadline, f"{path} cannot be read"
        time.sleep(0.2)


class Seen:
    """What one offline run has logged: id, name, group, config, summary, history and artifacts."""

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []
        self.artifacts: dict[str, list[str]] = {}
        for entry in finished(path):
            match entry.WhichOneof("record_type"):
                case "run":
                    self.id, self.name, self.group = entry.run.run_id, entry.run.display_name, entry.run.run_group
                    self.project = entry.run.project
                case "config":
                    self.config |= self._values(entry.config.update)
                case "summary":
                    self.summary |= self._values(entry.summary.update)
                case "history":
                    self.history.append(self._values(entry.history.item))
                case "artifact":
                    files = [file.path for file in entry.artifact.manifest.contents]
                    self.artifacts[f"{entry.artifact.type}: {entry.artifact.name}"] = files

    @staticmethod
    def _values(items: Any) -> dict[str, Any]:
        return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}

    def series(self, name: str) -> list[float]:
        return [step[name] for step in self.history if name in step]


def runs(folder: Path) -> list[Seen]:
    """The runs below a folder, oldest first. W&B's own process writes them, on a busy machine some time after."""
    deadline = time.monotonic() + 30
    while True:
        found = [Seen(path) for path in sorted(folder.rglob("*.wandb"), key=lambda path: path.parent.name)]
        if all(hasattr(seen, "id") for seen in found) or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def test_a_cell_is_logged_with_curves_structure_tables_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where loggers write if they are not told otherwise
    assert main([*LINE.split(), "--logger", "wandb", "--results", str(tmp_path / "results")]) == 0
    # The search's, the training's and the result's folder of runs are named in one command.
    folders = {path.parent for path in (tmp_path / "results/work").rglob("*.wandb")}
    (command,) = [line for line in capfd.readouterr().out.splitlines() if "upload with: wandb sync " in line]
    assert {Path(word) for word in shlex.split(command.partition("wandb sync ")[2])} == folders
    assert len(folders) == 3
    made = read(KEY.path(tmp_path / "results"))
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    group = f"{KEY.task} {KEY.preset}"

    (search,) = runs(tmp_path / "results/work" / KEY.task / KEY.preset / "searches/local")
    assert (search.project, search.group) == ("rfnext", group)
    assert search.name == f"{group} searches local fold1-seed0"
    assert (search.config["epochs"], search.config["seed"], search.config["fold"]) == (2, 0, 1)
    assert search.config["search"]["spread"] == made.protocol["config"]["search"]["spread"]
    assert "root" not in search.config  # a path of this machine
    assert len(search.series("loss")) == 2
    assert len(search.series("validation/accuracy")) == 1
    # Each round's branches as the record has them, and where their centres moved.
    first, *rounds, _ = made.history
    assert len(rounds) == 2
    for layer in first["structure"]:
        for branch in range(3):  # at a centre of 1 there are only two
            logged = search.series(f"probability/{layer}/{branch}")
            shares = [seen["branches"][layer][branch][1] for seen in rounds if branch < len(seen["branches"][layer])]
            assert logged == pytest.approx(shares, abs=1e-4)
        assert search.series(f"dilation/{layer}") == [seen["structure"][layer][0] for seen in rounds]
    assert f"structure: structure-{search.id}" in search.artifacts

    training, result = runs(KEY.work(tmp_path / "results"))
    assert training.id == result.id != search.id
    assert training.name == result.name == f"{group} local_single fold1-seed0 train"
    assert training.group == result.group == group
    assert len(training.series("loss")) == 2
    assert (result.config["method"], result.config["preset"]) == ("local_single", "short")
    assert made.metrics is not None
    assert {name: result.summary[f"test/{name}"] for name in made.metrics} == made.metrics
    assert result.summary["cost/search_epochs"] == 2
    assert result.artifacts[f"structure: structure-{result.id}"] == ["structure.json"]
    (picture,) = made.pictures
    files = {path.name for path in KEY.work(tmp_path / "results").rglob("files/media/*/*")}
    for prefix in (Path(picture).stem, "metrics", "structure"):
        assert any(name.startswith(prefix) for name in files), prefix
    (table,) = KEY.work(tmp_path / "results").rglob("files/media/table/structure*")
    content = json.loads(table.read_text())
    assert content["columns"] == ["layer", "designed", "dilation"]
    assert made.structure is not None
    assert {row[0]: row[2] for row in content["data"]} == {name: str(d[0]) for name, d in made.structure.items()}


def short(tmp_path: Path, preset: str, **other: Any) -> Cell:
    task = tasks.load("action_segmentation")
    config = dataclasses.replace(task.presets["tiny"], stages=1, layers=2, maps=8, **other.pop("fields", {}))
    return Cell(task, preset, config, METHODS["baseline"], 1, 0, tmp_path, "tiny", device="cpu", **other)


def test_a_resumed_training_continues_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lightning.pytorch

    here = short(tmp_path, "short", logger="wandb", fields={"epochs": 3, "validate_every": 1})

    def die(module: Any) -> None:
        if module.current_epoch == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lightning.pytorch.LightningModule, "on_train_batch_end", lambda module, *_: die(module))
        with pytest.raises(KeyboardInterrupt):
            run_cell(here)
    made = run_cell(here.resuming())
    assert made.status == "done", made.reason
    assert made.resumed
    before, after, result = runs(here.work / "train")
    assert before.id == after.id == result.id
    assert before.name == after.name == "action_segmentation short baseline fold1-seed0 train"
    assert before.series("epoch") == [0]
    assert sorted(set(after.series("epoch"))) == [1, 2]
    again = run_cell(here)  # anew, not resumed: another run
    assert again.metrics == made.metrics
    assert {seen.id for seen in runs(here.work / "train")}.isdisjoint({before.id})


def test_nothing_is_logged_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for logger, file in (("none", None), ("csv", "csv/metrics.csv"), ("tensorboard", "tensorboard/events*")):
        here = short(tmp_path / "results", logger, logger=logger, fields={"epochs": 1})
        assert run_cell(here).status == "done"
        folder = here.work / "train"
        if file is None:
            assert {path.name for path in folder.rglob("*") if path.is_file()} == {"last.ckpt", "selected.pt"}
        else:
            assert list(folder.glob(file))
    assert {path.name for path in tmp_path.iterdir()} == {"results"}


def test_a_task_without_a_logger_of_its_own_gets_a_run_for_its_result(cell: Callable[..., Cell]) -> None:
    here = cell(logger="wandb")
    made = run_cell(here)
    (seen,) = runs(here.results)
    assert seen.name == "toy tiny baseline fold1-seed0"
    assert made.metrics is not None
    assert seen.summary["test/accuracy"] == made.metrics["accuracy"]
    assert offline_folders(here) == sorted({path.parent for path in here.results.rglob("*.wandb")})
    failed = cell(preset="raise", fold=2, logger="wandb")
    run_cell(failed)
    (seen,) = runs(failed.work)
    assert seen.summary["status"] == "failed"
    assert "told to fail" in seen.summary["reason"]


def test_a_result_that_cannot_be_logged_is_still_recorded(
    cell: Callable[..., Cell], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init(**arguments: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(wandb, "init", init)
    here = cell(logger="wandb")
    assert run_cell(here).status == "done"
    assert read(here.key.path(here.results)).status == "done"
    assert "no space left" in caplog.text


def test_the_run_of_a_folder_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = init_arguments(tmp_path, name="a", group="b")
    assert first | {"id": "?"} == {
        "project": "rfnext",
        "dir": str(tmp_path),
        "resume": "allow",
        "mode": "offline",
        "id": "?",
        "name": "a",
        "group": "b",
    }
    assert init_arguments(tmp_path) == first
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert init_arguments(tmp_path) == first | {"mode": "disabled"}
    (tmp_path / RUN_FILE).write_text("{")
    with pytest.raises(ValueError, match=f"{RUN_FILE} holds no run of Weights & Biases .*delete it to start a new one"):
        init_arguments(tmp_path)


def test_a_structure_with_two_axes_is_readable(tmp_path: Path) -> None:
    from rfnext import Structure

    with wandb.init(**init_arguments(tmp_path, name="two axes")) as run:
        log_structure(run, Structure({"conv": (2, 3)}))
    (table,) = tmp_path.rglob("files/media/table/structure*")
    assert json.loads(table.read_text())["data"] == [["conv", "2 x 3"]]
    (saved,) = tmp_path.rglob("files/structure.json")
    assert Structure.load(saved) == Structure({"conv": (2, 3)})
