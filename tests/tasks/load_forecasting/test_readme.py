"""The README's way with a series of one's own: its commands are typed, at the smallest sizes."""

import importlib
import json
import re
import shlex
from datetime import datetime, timedelta
from pathlib import Path

import pytest

README = Path(__file__).parents[3] / "tasks" / "load_forecasting" / "README.md"
SIZES = shlex.split("--epochs 2 --steps 2 --width 4 --results results")


def commands() -> list[list[str]]:
    """The commands of the section: module and arguments of each."""
    section = README.read_text("utf-8").partition("## Your own series")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    assert all(line[:2] == ["python", "-m"] for line in lines)
    return [line[2:] for line in lines]


def write_series(path: Path) -> None:
    """Half hours of thirteen weeks, with holidays and a temperature, as in the README's example."""
    rows = ["time,target,holiday,temperature"]
    for step in range(13 * 336):
        when = datetime(2024, 1, 1) + timedelta(minutes=30 * step)
        weekend = when.weekday() >= 5
        load = 40 + 5 * (8 <= when.hour < 18) - 3 * weekend + step * 7919 % 13 / 10
        rows.append(f"{when:%Y-%m-%d %H:%M},{load},{int(weekend)},{step % 31}")
    path.parent.mkdir()
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_from_a_file_to_a_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    write_series(tmp_path / "mine" / "series.csv")
    monkeypatch.chdir(tmp_path)
    check, run, baselines = commands()
    assert not importlib.import_module(check[0]).main(check[1:])
    assert capsys.readouterr().out.startswith("fine: 4368 steps of 1800 s ")
    assert not importlib.import_module(run[0]).main([*run[1:], *SIZES])
    record = json.loads(
        (tmp_path / "results/runs/load_forecasting/mine/one_shot_single/fold1-seed0.json").read_text("utf-8")
    )
    assert record["metrics"].keys() == {"mse", "mae", "skill"}
    assert record["data"].startswith("own data in mine")
    capsys.readouterr()
    assert not importlib.import_module(baselines[0]).main(baselines[1:])
    assert "ridge regression on lags" in capsys.readouterr().out
