"""Cells: one carrier that travels to workers, names its files, and whose command makes it again."""

import dataclasses
import hashlib
import pickle
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.arguments import UsageError
from benchmarks.cell import Cell, derived_name, is_name
from benchmarks.methods.table import METHODS
from benchmarks.run import parse

Make = Callable[..., Cell]

NAME = re.compile("[a-z0-9_.-]+")


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("method", METHODS)
def test_a_cell_travels_to_another_process(cell: Make, toy: ModuleType, method: str) -> None:
    here = cell(method, fold=2, seed=3, config=toy.Config(epochs=7), preset="mine", resume=False, logger="csv")
    sent = pickle.loads(pickle.dumps(here))  # noqa: S301 (made right here)
    assert sent == here
    assert sent.protocol() == here.protocol()
    assert sent.command == here.command


def test_a_task_travels_by_its_name(cell: Make, toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str) -> Any:
        asked.append(name)
        return toy.TASK

    monkeypatch.setattr("tasks.load", load)
    # Its functions cannot be pickled, and need not be.
    here = cell(task=dataclasses.replace(toy.TASK, fit=lambda *_: None))
    assert pickle.loads(pickle.dumps(here)).task is toy.TASK  # noqa: S301 (made right here)
    assert asked == ["toy"]


def test_a_cells_files_lie_where_its_name_says(cell: Make, results: Path) -> None:
    here = cell("local_single", fold=2, seed=3)
    assert here.key.path(results) == results / "runs/toy/tiny/local_single/fold2-seed3.json"
    assert here.work == results / "work/toy/tiny/local_single/fold2-seed3"
    assert here.log.parent == here.work
    assert str(here) == "toy tiny local_single fold 2 seed 3"
    # What cells share lies in no cell's folder.
    shared = here.search_folder("local")
    assert shared == cell("local_multi", fold=2, seed=3).search_folder("local")
    assert shared != cell("local_multi", fold=2).search_folder("local")
    assert not any(shared.is_relative_to(cell(name, fold=2, seed=3).work) for name in METHODS)
    assert not results.joinpath("runs").exists()


def test_a_results_folder_is_absolute(cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = cell(results=Path("out"))
    monkeypatch.chdir("/")
    assert here.results == tmp_path / "out"


def test_a_resuming_cell_is_the_same_cell(cell: Make) -> None:
    here = cell()
    assert here.resuming().resume
    assert here.resuming().key == here.key
    assert here.resuming().protocol() == here.protocol()


LINES = [
    "--preset tiny",
    "--preset wide --fold 2 --seed 4294967295",
    "--epochs 3 --search.spread 0.25 --search.bounds.max None",
    "--no-bias --lr-drop-epoch 2 --folds 1 2 3 --fold 3",
    "--preset wide --bias --folds 2 --search.rule paper --search.interval 2",
    "--folds",
    "--epochs 3 --name mine",
    "--preset raise --name mine.too-9",
    "--fault 'two words; $HOME'",
]


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("line", LINES)
def test_the_command_makes_the_same_cell_again(line: str, tmp_path: Path) -> None:
    first, _ = parse(["toy", "local_multi", *shlex.split(line), "--results", str(tmp_path)])
    words = shlex.split(first.command)
    assert words[:4] == ["python", "-m", "benchmarks.run", "toy"]
    again, _ = parse([*words[3:], "--results", str(tmp_path)])
    assert again == first
    assert again.command == first.command


@pytest.mark.usefixtures("only_toy")
def test_the_command_leaves_paths_to_the_user(tmp_path: Path) -> None:
    first, _ = parse(["toy", "baseline", "--root", str(tmp_path), "--epochs", "3"])
    assert str(tmp_path) not in first.command
    assert first.command.endswith(" --root ROOT")
    again, _ = parse(shlex.split(first.command)[3:])
    assert again.key == first.key
    assert dataclasses.replace(again.config, root=tmp_path) == first.config


@pytest.mark.usefixtures("only_toy")
def test_a_preset_with_other_fields_gets_a_name_of_its_own(tmp_path: Path) -> None:
    def preset(line: str) -> str:
        return parse(["toy", "baseline", *line.split()])[0].preset

    assert preset("") == preset("--epochs 5") == preset("--root elsewhere") == preset("--fresh") == "tiny"
    names = [preset(line) for line in ("--epochs 3", "--epochs 4", "--search.spread 0.25", "--preset wide --epochs 3")]
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) for name in names)
    assert [name.rpartition("-")[0] for name in names] == ["tiny", "tiny", "tiny", "wide"]
    # Whatever the order, and in whatever process.
    assert preset("--epochs 3 --width 4") == preset("--width 4 --epochs 3")
    digest = hashlib.sha256(b'{"epochs":3}').hexdigest()
    assert preset("--epochs 3") == derived_name("tiny", {"epochs": 3}) == f"tiny-{digest[:6]}"
    for odd in ("a/../b c", "x" * 300, "Ä"):
        name = parse(["toy", "baseline", "--fault", odd])[0].preset
        assert NAME.fullmatch(name)
        assert len(name) < 20


@pytest.mark.usefixtures("only_toy")
def test_a_name_is_given_on_the_command_line() -> None:
    named, _ = parse(["toy", "baseline", "--epochs", "3", "--name", "short"])
    assert (named.preset, named.base, named.overrides) == ("short", "tiny", {"epochs": 3})
    assert parse(["toy", "baseline", "--name", "tiny"])[0].preset == "tiny"
    assert parse(["toy", "baseline", "--name", "short"])[0].preset == "short"


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("name", ["", "Big", "a b", "../up", ".hidden", "a/b", "a+b=c", "é", "-x", "a\n", "x" * 200])
def test_a_name_that_cannot_be_a_folders_is_refused(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(UsageError, match="--name"):
        parse(["toy", "baseline", f"--name={name}"])


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("line", ["--epochs 3 --name tiny", "--name wide", "--preset wide --name tiny"])
def test_the_name_of_a_preset_is_refused_for_other_fields(line: str) -> None:
    with pytest.raises(UsageError, match="is a preset of toy"):
        parse(["toy", "baseline", *line.split()])


@pytest.mark.usefixtures("only_toy")
def test_own_data_has_a_name_of_its_own(mine: list[Path]) -> None:
    def line(words: str, root: Path) -> Cell:
        return parse(["toy", "baseline", *words.split(), "--root", str(root)])[0]

    here, there = (line("", root) for root in mine)
    for one in (here, there):
        assert one.identity is not None
        assert one.preset == f"tiny-mine-{one.identity.fingerprint[:6]}"
        assert line("--name ours", one.config.root).preset == "ours"
        assert line("--name tiny", one.config.root).preset == "tiny"
        changed = line("--epochs 3", one.config.root).preset
        assert changed == f"{derived_name('tiny', {'epochs': 3})}-mine-{one.identity.fingerprint[:6]}"
    assert here.preset != there.preset
    assert line("", mine[0].rename(mine[0].with_name("yours"))).preset == here.preset.replace("mine", "yours")
    assert line("", mine[0].with_name("missing")).preset == "tiny"


@pytest.mark.usefixtures("only_toy")
@pytest.mark.parametrize("words", ["", "--epochs 3", "--name ours", "--name tiny", "--epochs 3 --name ours"])
def test_the_command_makes_the_same_cell_of_own_data_again(mine: list[Path], words: str) -> None:
    first, _ = parse(["toy", "baseline", *words.split(), "--root", str(mine[0])])
    assert first.command.endswith(" --root ROOT" + (f" --name {first.preset}" if "--name" in words else ""))
    again, _ = parse(shlex.split(first.command.replace("ROOT", str(mine[0])))[3:])
    assert again == first
