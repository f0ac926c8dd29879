"""Figures: what is drawn is what the search and the fields hold."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import rfnext
from rfnext import plots
from rfnext.receptive_field import effective_receptive_field
from rfnext.structure import searched_convs

pytest.importorskip("matplotlib")


def test_a_search_draws_its_dilations_by_round(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv1d(1, 2, 3, padding=8, dilation=8), nn.ReLU(), nn.Conv1d(2, 1, 3, padding=1))
    search = rfnext.LocalSearch(model, rfnext.LocalConfig(interval=1, rounds=2))
    found = {"0": [8], "2": [1]}
    for _ in range(2):
        for conv in searched_convs(model).values():
            with torch.no_grad():
                conv.branch_weight.copy_(torch.tensor([0.01, 0.05]))
        search.after_step()
        for name, dilations in found.items():
            dilations.append(search.structure()[name][0])
    figure = search.plot()
    (axes,) = figure.axes
    assert {line.get_label(): list(line.get_ydata()) for line in axes.lines} == found
    assert found["0"][1] != 8
    figure.savefig(tmp_path / "dilations.svg")
    assert (tmp_path / "dilations.svg").stat().st_size > 1000


def test_the_axis_is_chosen() -> None:
    structures = [rfnext.Structure({"a": (1, 4)}), rfnext.Structure({"a": (2, 8)})]
    for axis, expected in ((0, [1, 2]), (1, [4, 8]), (-1, [4, 8])):
        (line,) = plots.trajectories(structures, axis).axes[0].lines
        assert list(line.get_ydata()) == expected


def test_fields_are_drawn_as_they_are() -> None:
    net = nn.Conv1d(1, 1, 3, padding=4, dilation=4)
    field = effective_receptive_field(net, torch.randn(1, 1, 32))
    (line,) = plots.receptive_fields({"one": field}).axes[0].lines
    assert list(line.get_ydata()) == field.tolist()
    assert sorted(field.nonzero().flatten().tolist()) == [12, 16, 20]
    images = {"left": torch.eye(4), "right": torch.ones(2, 3)}
    figure = plots.receptive_fields(images)
    assert [axes.get_title() for axes in figure.axes] == ["left", "right"]
    assert [axes.images[0].get_array().tolist() for axes in figure.axes] == [f.tolist() for f in images.values()]


def test_bad_input_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for fields in ({}, {"a": torch.zeros(2), "b": torch.zeros(2, 2)}, {"a": torch.zeros(1, 1, 1)}):
        with pytest.raises(ValueError, match="fields must all have one axis or all have two"):
            plots.receptive_fields(fields)
    with pytest.raises(ValueError, match="no structure to draw"):
        plots.trajectories([])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plots.trajectories([rfnext.Structure({"a": (1,)})])
