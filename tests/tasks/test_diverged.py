"""Which networks diverged and which overflow; `test_contract` tests that every task says so by its metrics."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tasks.diverged import NotFinite, diverged, finite, on_file
from tasks.spec import DataError


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


class Attention(nn.Module):
    """Two outputs, and a mask of infinities on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(4, 1, bias=False))
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed, _ = self.mix(x, x, x, attn_mask=self.mask)
        return self.last(mixed).relu().sigmoid()


def test_a_layer_that_overflows_is_named() -> None:
    model, x = Attention(), torch.randn(1, 3, 4)
    with finite(model):
        model(x)
    with torch.no_grad():
        model.last.parametrizations.weight.original0.fill_(1e38)
        model.last.parametrizations.weight.original1.copy_(torch.tensor([[1.0, 0, 0, 0]]))
    assert model(100 * x).isfinite().all()  # the sigmoid hides it
    with pytest.raises(NotFinite, match="layer 'last' gives values that are not finite"), finite(model):
        model(100 * x)
    model(100 * x)  # nothing is left in the layers
    with torch.no_grad():
        model.mix.in_proj_weight.fill_(3e38)
    with pytest.raises(NotFinite, match="layer 'mix' gives"), finite(model):
        model(100 * x)


@pytest.mark.parametrize(
    ("combine", "what"),
    [
        (lambda x, y: x + y, "a sum"),
        (lambda x, y: x - (-y), "a difference"),
        (lambda x, y: 0.0 + x.clone().add_(y), "a sum"),
        (lambda x, y: -x * y, "a product"),
        (lambda x, y: -3e38 - y * -1, "a difference"),
    ],
)
def test_a_sum_that_overflows_before_a_relu_is_seen(combine: Callable[..., torch.Tensor], what: str) -> None:
    """No layer gives an infinity, and the ReLU makes zeros of negative ones."""
    layer, x = nn.Linear(1, 1, bias=False), torch.tensor([[-3e38]])

    def residual(weight: float) -> torch.Tensor:
        nn.init.constant_(layer.weight, weight)
        return combine(x, layer(x)).relu()

    with finite(layer):
        residual(0.0)
    assert residual(1.0).isfinite().all()
    with pytest.raises(NotFinite, match=f"^{what} of finite values gives values that are not"), finite(layer):
        residual(1.0)


def test_masks_of_infinities_are_no_overflow() -> None:
    layer = nn.Linear(2, 2)
    with finite(layer):
        scores = layer(torch.ones(1, 2))
        (scores + torch.tensor([0.0, -torch.inf])).softmax(1)
        (scores * -torch.inf).relu()
        torch.tensor([[1.0, -torch.inf]]).add_(scores).softmax(1)
        scores / 0
        (torch.ones(2, dtype=torch.int64) + 1).log()


def test_the_error_of_a_block_is_not_hidden() -> None:
    model = nn.Linear(1, 1)
    with pytest.raises(KeyError), finite(model):
        model(torch.tensor([torch.inf]))
        raise KeyError


def test_the_file_is_named() -> None:
    model = nn.Linear(1, 1)
    said = "^v.npy: the network has no answer to it: layer '' gives .*; give values"
    with pytest.raises(DataError, match=said), on_file(Path("v.npy")), finite(model):
        model(torch.tensor([torch.inf]))
