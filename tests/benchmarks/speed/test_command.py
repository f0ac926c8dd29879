"""The command that times the operator: it times what it is asked for and writes three files."""

import csv
from pathlib import Path

import pytest

from benchmarks.speed.command import main
from benchmarks.speed.layers import LAYERS, of_layer, spaced
from benchmarks.speed.timing import PLAIN


@pytest.mark.parametrize(
    ("centre", "branches", "dilations"), [(16, 3, [8, 16, 24]), (16, 5, [8, 12, 16, 20, 24]), (1, 3, [1, 2, 3])]
)
def test_dilations_around_a_centre_are_distinct(centre: int, branches: int, dilations: list[int]) -> None:
    assert spaced(centre, branches) == dilations


def test_layers_are_timed_beside_the_plain_conv(tmp_path: Path) -> None:
    name = "HRNet-W18 branch 4"
    assert main(["--only", name, "--seconds", "0.001", "--results", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert {row["branches"] for row in rows} == {"2", "3"}
    plain = [row for row in rows if row["way"] == PLAIN]
    assert [float(row["ratio"]) for row in plain] == [1, 1]
    assert all(int(row["rounds"]) >= 5 and int(row["peak_bytes"]) > 0 for row in rows)
    assert {row["auto_chose"] for row in rows} - {""}
    assert name in (tmp_path / "table.md").read_text("utf-8")
    assert name in (tmp_path / "speed.svg").read_text("utf-8")


def test_a_name_that_no_row_has_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "no such layer", "--results", str(tmp_path)]) == 2
    assert "HiFi-GAN" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_dense_kernel_far_too_large_is_not_timed() -> None:
    (layer,) = [one for one in LAYERS if one.name == "MS-TCN" and one.dilation == 16 and one.size == (500,)]
    ways = of_layer(layer, 3)
    assert {PLAIN, "branches", "taps", "auto"} <= set(ways)
