"""Which networks count as diverged; `test_contract` tests that every task says so by its metrics."""

import torch
from torch import nn

from tasks.diverged import diverged


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
