"""RFConv2d and Global2Local's operator, rebuilt here from their description: opened with equal outputs, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import rfnext
from rfnext.structure import searched_convs


class RFConv2d(nn.Conv2d):
    """sum_i |a_i| / sum |a| conv(x, W, d_i), padded by d_i (k - 1) // 2; with one branch the plain conv."""

    def __init__(self, *arguments: Any, rates: list[tuple[int, int]], **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        rows = torch.ones(3, 2, dtype=torch.int32)
        rows[: len(rates)] = torch.tensor(rates)
        self.sample_weights = nn.Parameter(torch.rand(3) - 0.3)
        self.register_buffer("rates", rows)
        self.register_buffer("num_rates", torch.tensor([len(rates)], dtype=torch.int32))
        self.register_buffer("counter", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("current_search_step", torch.ones(1, dtype=torch.int32))
        if len(rates) == 1:
            self.dilation = rates[0]
            self.padding = tuple(d * (k - 1) // 2 for d, k in zip(rates[0], self.kernel_size, strict=True))

    def probability(self) -> Tensor:
        weights = self.sample_weights[: int(self.num_rates)].abs()
        return weights / weights.sum()

    def forward(self, x: Tensor) -> Tensor:
        if int(self.num_rates) == 1:
            return super().forward(x)
        branches = self.rates[: int(self.num_rates)].tolist()
        paddings = [[d * (k - 1) // 2 for d, k in zip(row, self.kernel_size, strict=True)] for row in branches]
        return sum(
            p * F.conv2d(x, self.weight, self.bias, self.stride, padding, branch, self.groups)
            for p, branch, padding in zip(self.probability(), branches, paddings, strict=True)
        )

    @torch.no_grad()
    def merge(self) -> None:
        """rfmerge: the widest branch's kernel, with the taps of every branch at their places, times its probability."""
        branches = self.rates[: int(self.num_rates)].tolist()
        spans = [max(row[axis] for row in branches) * (k - 1) + 1 for axis, k in enumerate(self.kernel_size)]
        merged = self.weight.new_zeros(*self.weight.shape[:2], *spans)
        for p, (dy, dx) in zip(self.probability(), branches, strict=True):
            for y in range(self.kernel_size[0]):
                for x in range(self.kernel_size[1]):
                    row = spans[0] // 2 + (y - self.kernel_size[0] // 2) * dy
                    column = spans[1] // 2 + (x - self.kernel_size[1] // 2) * dx
                    merged[:, :, row, column] += p * self.weight[:, :, y, x]
        self.weight = nn.Parameter(merged)
        self.kernel_size = tuple(spans)
        self.padding = tuple(span // 2 for span in spans)
        self.rates.fill_(1)
        self.num_rates.fill_(1)


def plain(**_: Any) -> nn.Module:
    """The network as designed."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4),
        nn.Conv2d(8, 8, 7, padding=3, groups=8),
        nn.GroupNorm(2, 8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, stride=2, bias=False),
        nn.Conv2d(8, 4, (1, 5), padding=(0, 2)),
    ).double()


def published() -> nn.Sequential:
    torch.manual_seed(5)
    model = plain()
    assert isinstance(model, nn.Sequential)
    model[1] = RFConv2d(8, 8, 7, padding=3, groups=8, rates=[(1, 1), (2, 2), (3, 4)]).double()
    model[3] = RFConv2d(8, 8, 3, padding=1, stride=2, bias=False, rates=[(3, 2)]).double()
    model[4] = RFConv2d(8, 4, (1, 5), padding=(0, 2), rates=[(1, 1), (1, 3)]).double()
    return model


def step(model: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("merged", [False, True])
def test_rfconv_opens_with_its_branches_and_merged(merged: bool, tmp_path: Path) -> None:
    theirs, ours = published(), plain()
    if merged:
        for part in (theirs[1], theirs[3], theirs[4]):
            if int(part.num_rates) > 1:
                part.merge()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "model.pth")
    rfnext.open_published(ours, tmp_path / "model.pth")
    assert set(searched_convs(ours)) == (set() if merged else {"1", "4"})
    x = torch.randn(2, 3, 44, 48, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-12)
    step(theirs, x)
    step(ours, x)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("1.rates"), "layer '1' lacks its dilations"),
        (lambda state: state["1.num_rates"].fill_(4), "layer '1' has 4 branches"),
        (lambda state: state["1.rates"].fill_(0), "layer '1' has 3 branches of dilations"),
        (lambda state: state.update({"9.sample_weights": torch.ones(3)}), "layer '9' is an RFConv2d in it"),
        (lambda state: state.pop("0.weight"), "'0.weight' is in the model and not in the file"),
    ],
)
def test_a_broken_rfconv_is_an_error(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    state = published().state_dict()
    change(state)
    torch.save(state, tmp_path / "model.pth")
    model = plain()
    with pytest.raises(ValueError, match=f"model.pth: {message}"):
        rfnext.open_published(model, tmp_path / "model.pth")
    assert not searched_convs(model)


def test_rfconv_takes_no_structure_file(tmp_path: Path) -> None:
    torch.save(published().state_dict(), tmp_path / "model.pth")
    rfnext.Structure.read(plain()).save(tmp_path / "structure.json")
    with pytest.raises(ValueError, match="leave the structure file .*structure.json out"):
        rfnext.open_published(plain(), tmp_path / "model.pth", tmp_path / "structure.json")


class LocalOperator(nn.Module):
    """Global2Local's: relu(conv(x, W, d_i)) of every branch, times its probability, summed."""

    def __init__(self, conv: nn.Conv1d, dilations: list[int]) -> None:
        super().__init__()
        self.op_layer, self.dilations = conv, dilations
        self.weights = nn.Parameter(torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights[: len(self.dilations)].abs()
        conv = self.op_layer
        return sum(
            p * F.conv1d(x, conv.weight, conv.bias, padding=d, dilation=d).relu()
            for p, d in zip(weights / weights.sum(), self.dilations, strict=True)
        )


class Temporal(nn.Module):
    """Dilated layers as in MS-TCN: a ReLU follows each conv."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.out = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.out(x)


def local_search(folder: Path, dilations: list[int], operators: bool) -> tuple[nn.Module, Path, Path]:
    """A network of Global2Local, its checkpoint and structure file; at a spread of 0.1, up to 4 there is one branch."""
    torch.manual_seed(6)
    model = Temporal().double()
    for i, d in enumerate(dilations):
        if operators:
            branches = sorted({round(0.9 * d), d, round(1.1 * d)})
            model.layers[i] = LocalOperator(nn.Conv1d(4, 4, 3).double(), branches)
        else:
            model.layers[i] = nn.Conv1d(4, 4, 3, padding=d, dilation=d).double()
    torch.save({f"module.{key}": tensor for key, tensor in model.state_dict().items()}, folder / "epoch.model")
    entries = {f"module.layers.{i}": d for i, d in enumerate(dilations)}
    search = {"step": 3, "S": 3, "exp_rate": 0.1, "mmin": 1, "mmax": 2048, "normlize": "absavg", "finetune": False}
    (folder / "step3.json").write_text(json.dumps({"search": search, "model": entries}))
    return model, folder / "epoch.model", folder / "step3.json"


@pytest.mark.parametrize(("dilations", "operators"), [([3, 1, 4], True), ([3, 20, 9], False)])
def test_global2local_opens_where_every_conv_has_one_branch(
    dilations: list[int], operators: bool, tmp_path: Path
) -> None:
    theirs, checkpoint, structure = local_search(tmp_path, dilations, operators)
    ours = Temporal().double()
    rfnext.open_published(ours, checkpoint, structure)
    assert not searched_convs(ours)
    assert [layer.dilation for layer in ours.layers] == [(d,) for d in dilations]
    x = torch.randn(2, 4, 60, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-12)


def test_branches_of_global2local_are_refused_with_the_reason(tmp_path: Path) -> None:
    _, checkpoint, structure = local_search(tmp_path, [3, 20, 9], operators=True)
    with pytest.raises(ValueError, match=r"epoch.model: layer 'layers.1' has 3 branches .* ReLU before .*no equal"):
        rfnext.open_published(Temporal().double(), checkpoint, structure)
