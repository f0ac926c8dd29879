"""What networks are compared with besides: forecasts without a network, and another library's network."""

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.records.places import ROOT
from benchmarks.studies import equal_cost_references as references
from benchmarks.studies import measurements
from benchmarks.studies.equal_cost_tables import Measured
from benchmarks.studies.search_at_equal_cost import Name, case_of
from tasks.load_forecasting import baselines


def test_persistence_and_ridge_are_those_of_the_task(capsys: pytest.CaptureFixture[str]) -> None:
    found = references.without_network(case_of(Name("taylor", 3, 1, 0)))
    assert baselines.main(["--preset", "taylor"]) == 0
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in capsys.readouterr().out.splitlines()]
    first = {row[0]: row[4] for row in rows}  # mse of fold 1
    said = {"48 steps before": "value of 48 steps before", "336 steps before": "value of 336 steps before"}
    assert found.keys() == {*said, "ridge"}
    for name, scores in found.items():
        assert f"{scores['mse']:.3f}" == first[said.get(name, "ridge regression on lags")]


class Block(nn.Module):
    """Of the shape of Darts' own."""

    def __init__(self, nr_blocks_below: int, num_layers: int, input_size: int, num_filters: int, **rest: Any) -> None:
        super().__init__()
        first, last = nr_blocks_below == 0, nr_blocks_below == num_layers - 1
        self.conv = nn.Conv1d(input_size if first else num_filters, 1 if last else num_filters, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def test_its_blocks_stand_between_our_normalisation_and_units(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("darts.models.forecasting.tcn_model")
    module._ResidualBlock = Block  # type: ignore[attr-defined]
    for name in ("darts", "darts.models", "darts.models.forecasting"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    case = references.PeerCase(case_of(Name("taylor", 3, 1, 0)).config, 1, 0)
    network = case.network()
    assert [type(block) for block in network.blocks] == [Block] * 3
    x = torch.tensor([[[1.0, 3.0, 5.0, 7.0]]], dtype=torch.float64)
    network.calibrate(x[0])
    expected = x.float().sub(4.0).div(5**0.5)
    for block in network.blocks:
        expected = block(expected)
    torch.testing.assert_close(network(x), expected.double() * 5**0.5 + 4.0)


def test_without_darts_one_line_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "darts", None)
    with pytest.raises(measurements.MeasurementError, match="pip install darts, or leave out elecdemand"):
        references.with_darts(case_of(Name("elecdemand", 3, 1, 0)), "darts")


def test_a_network_that_diverges_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = types.ModuleType("darts.models.forecasting.tcn_model")
    module._ResidualBlock = Block  # type: ignore[attr-defined]
    for name in ("darts", "darts.models", "darts.models.forecasting"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    case = case_of(Name("elecdemand", 3, 1, 0))
    case = dataclasses.replace(case, config=dataclasses.replace(case.config, lr=1e9, epochs=2, steps=3))
    with pytest.raises(measurements.MeasurementError, match="darts on fold 1, seed 0: the training diverged before"):
        references.measure({("elecdemand", 1, 0): case}, tmp_path)


def test_the_layers_are_as_many_as_darts_says() -> None:
    # Its `_TCNModule` with input_chunk_length = 672, kernel_size = 3, dilation_base = 2 has 8.
    assert references.layers_of_darts(672) == 8
    assert references.layers_of_darts(13) == 2  # 1 + 4 * (1 + 2) steps


def line(method: str, fold: int, mse: float, data: str = "elecdemand", **changed: Any) -> dict[str, Any]:
    of = {"mae": 1.0, "skill": 1.0, "multiply_adds": None, "darts": None, "commit": None}
    return {"data": data, "fold": fold, "seed": 0, "method": method, "mse": mse, **of, **changed}


def test_the_table_has_the_best_persistence_and_paired_changes() -> None:
    lines = [line("48 steps before", fold, 3.0) for fold in (1, 2, 3)]
    lines += [line("336 steps before", fold, 2.0 + fold / 10) for fold in (1, 2, 3)]
    lines += [line("ridge", fold, 1.5) for fold in (1, 2, 3)]
    lines += [line("darts", fold, 2.0 * fold, multiply_adds=3328) for fold in (1, 2, 3)]
    study = [
        {"data": "elecdemand", "layers": 3, "fold": fold, "seed": 0, "methods": {"hand": {"mse": 1.0 * fold}}}
        for fold in (1, 2, 3)
    ]
    text = "\n".join(references.table(lines, {"elecdemand": Measured(study)}))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith("|")]
    of = {row[0]: row[1:] for row in rows}
    # Student's t(2) = 4.30, times 0.1 and 1 over the root of 3.
    assert of["elecdemand"] == ["2.200 ± 0.248 (336 steps before)", "1.500 ± 0.000", "2.000 ± 2.484", "–", "–"]
    assert of["darts"] == ["3,328", "4.000 ± 4.968", "+100.0 ± 0.0", "–", "–", "3"]
    assert references.table([], {}) == []


def test_what_is_known_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = {("taylor", fold, seed): case_of(Name("taylor", 3, fold, seed)) for fold in (1, 2) for seed in (0, 1)}
    references.measure(case, tmp_path)
    lines = references.read(tmp_path)
    assert [(one["fold"], one["seed"]) for one in lines] == [(1, 0)] * 3 + [(2, 0)] * 3
    monkeypatch.setattr(references, "without_network", None)
    references.measure(case, tmp_path)
    assert references.read(tmp_path) == lines
    measurements.write(tmp_path / references.FOLDER, [lines[0] | {"mse": -1.0}])
    with pytest.raises(measurements.MeasurementError, match="mse"):
        references.read(tmp_path)


def test_what_is_committed_has_every_series_and_fold() -> None:
    lines = references.read(ROOT / "results/search_at_equal_cost")
    ridge = {(one["data"], one["fold"]) for one in lines if one["method"] == "ridge"}
    assert len(ridge) == 12 * 5
    assert sum(one["method"] == "darts" for one in lines) == 15
