"""The command that times a step by branches, frames, layers and threads."""

import csv
from pathlib import Path

import pytest
import torch

from benchmarks.speed import growth
from rfnext import reproducible


def test_a_step_is_timed_at_every_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "AXES", {"branches": (2,), "frames": (30,), "layers": (1, 2)})
    monkeypatch.setattr(growth.Point.__new__, "__defaults__", (3, 50, 1, 1))
    before = torch.get_num_threads()
    with reproducible(torch.device("cpu")):  # nothing is measured to choose an implementation
        assert growth.main(["--seconds", "0.001", "--results", str(tmp_path)]) == 0
    assert torch.get_num_threads() == before
    rows = list(csv.DictReader((tmp_path / "growth.csv").read_text().splitlines()))
    points = {(row["changes"], row[row["changes"]], row["threads"]) for row in rows}
    assert points == {
        (axis, str(value), str(threads))
        for axis, values in growth.AXES.items()
        for value in values
        for threads in (1, 2)
    }
    assert all(int(row["rounds"]) >= 5 and float(row["ratio"]) > 0 for row in rows)
    assert (tmp_path / "growth.md").read_text("utf-8").count("\n| ") == 1 + len(rows)
    assert "2 threads" in (tmp_path / "growth.svg").read_text("utf-8")
    whole = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with reproducible(torch.device("cpu")):
        assert growth.main(["--quick", "--seconds", "0.001", "--results", str(tmp_path)]) == 0
    assert {path: path.read_bytes() for path in whole} == whole, "the whole measurement stays"
    assert len(list(tmp_path.iterdir())) == 2 * len(whole)


def test_a_searched_step_has_the_branches_of_its_point() -> None:
    for branches in growth.AXES["branches"]:
        assert len(set(growth.spaced(growth.DILATION, branches))) == branches
