"""Which data a config names, and what is said where it is missing."""

import csv
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.load_forecasting import datasets
from tasks.load_forecasting.config import PRESETS, Config
from tasks.spec import DataError


def write(path: Path, columns: list[str], length: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for step in range(length):
            when = datetime(2016, 7, 1) + timedelta(hours=step)
            writer.writerow([when, *(f"{(step * (k + 1)) % 17}" for k in range(len(columns) - 1))])


def test_the_embedded_set_is_cut_into_five_origins():
    config = PRESETS["small"]
    assert datasets.unavailable(config) is None
    found = datasets.open_fold(config, 1)
    assert found.ends == (7008, 8760, 10512)
    assert found.positions("train").start == 672


def test_ett_is_read_in_its_published_split(tmp_path: Path):
    names = ["date", "HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    write(tmp_path / "ETTh1.csv", names, 14_400)
    config = replace(PRESETS["etth1"], root=tmp_path)
    assert datasets.unavailable(config) is None
    assert datasets.folds(config) == (1,)
    assert datasets.open_fold(config, 1).ends == (8640, 11520, 14400)
    assert datasets.facts(config)["columns"] == ["OT", *names[1:-1]]
    assert datasets.data_label(config).startswith("ETTh1")


@pytest.mark.parametrize("preset", ["etth1", "etth2", "folder"])
def test_what_is_missing_is_said(preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
    reason = datasets.unavailable(PRESETS[preset])
    assert reason is not None
    assert str(tmp_path / preset) in reason


def test_own_data_that_is_too_short_is_refused_before_training(tmp_path: Path):
    write(tmp_path / "series.csv", ["time", "target"], 500)
    reason = datasets.unavailable(Config(dataset="folder", root=tmp_path))
    assert reason is not None
    assert "the training part of fold 1 has 200 steps" in reason


def test_a_covariate_that_never_changes_in_the_training_part_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    write(tmp_path / "series.csv", ["time", "target", "holiday", "heat"], 3000)
    rows = (tmp_path / "series.csv").read_text().splitlines()
    late = [row.rsplit(",", 2)[0] + f",{int(k > 1300)}," + row.rsplit(",", 1)[1] for k, row in enumerate(rows[1:])]
    (tmp_path / "series.csv").write_text("\n".join([rows[0], *late]) + "\n")
    config = Config(dataset="folder", root=tmp_path)
    datasets.open_fold(config, 1)
    assert "do not change in the training part of fold 1 are left out of its forecasts: holiday" in caplog.text
    caplog.clear()
    datasets.open_fold(config, 2)
    assert not caplog.text


def test_a_covariate_that_does_not_exist_is_named(tmp_path: Path):
    write(tmp_path / "series.csv", ["time", "target", "holiday"], 3000)
    with pytest.raises(DataError, match="there is no covariate 'hollyday'"):
        datasets.read(Config(dataset="folder", root=tmp_path, known=("hollyday",)))


@pytest.mark.parametrize("field", [{"target": "Temperature"}, {"known": ("Temperature",)}, {"time": "when"}])
def test_columns_of_embedded_data_are_not_chosen(field: dict[str, Any]):
    reason = datasets.unavailable(replace(PRESETS["small"], **field))
    assert reason is not None
    assert "--time, --target and --known are for a series.csv" in reason


@pytest.mark.parametrize("field", [{"seasons": (48, 2001)}, {"trailing": 2001}])
def test_what_reads_farther_back_than_the_training_part_is_refused(field: dict[str, Any]):
    config = replace(PRESETS["taylor"], burn_in=0, split=(2000, 3000, 4000), **field)
    reason = datasets.unavailable(config)
    assert reason is not None
    assert "the training part of fold 1 has 2000 steps, and --horizon, --seasons and --trailing need" in reason


def own(folder: Path, values: list[float]) -> str | None:
    """What is said of a series of these values."""
    rows = [f"{datetime(2024, 1, 1) + timedelta(hours=step)},{value}" for step, value in enumerate(values)]
    (folder / "series.csv").write_text("\n".join(["time,target", *rows]))
    config = Config(dataset="folder", root=folder, horizon=4, seasons=(24,), burn_in=10)
    return datasets.unavailable(config)


def test_a_target_that_does_not_change_in_a_training_part_is_refused(tmp_path: Path):
    reason = own(tmp_path, [0.1] * 450 + [float(step % 7) for step in range(550)])
    assert reason is not None
    assert reason.startswith(f"{tmp_path}/series.csv: the target is 0.1 in the whole training part of fold 1; ")


def test_a_part_that_persistence_forecasts_exactly_is_refused(tmp_path: Path):
    reason = own(tmp_path, [float(step % 7) for step in range(500)] + [0.1] * 500)
    assert reason is not None
    assert reason.startswith(f"{tmp_path}/series.csv: the test part of fold 2 only repeats older values")


def test_trainings_share_one_copy_of_the_data():
    config = PRESETS["small"]
    assert datasets.open_fold(config, 1) is datasets.open_fold(replace(config, epochs=3, width=5), 1)


def test_changed_data_is_read_anew(tmp_path: Path):
    config = Config(dataset="folder", root=tmp_path, horizon=4, seasons=(24,), burn_in=10)
    write(tmp_path / "series.csv", ["time", "target"], 3000)
    first = datasets.open_fold(config, 1)
    write(tmp_path / "series.csv", ["time", "target"], 4000)
    assert datasets.open_fold(config, 1).ends != first.ends


def test_own_data_has_its_folders_name(tmp_path: Path):
    folder = tmp_path / "mine"
    assert datasets.data_label(Config(dataset="folder", root=folder)) == "own data in mine"
    assert datasets.own(Config(root=folder))
    assert not datasets.own(PRESETS["etth1"])
