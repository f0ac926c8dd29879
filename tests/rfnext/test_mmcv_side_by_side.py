"""Rule "paper" against the peer that is published as a package: mmcv's Conv2dRFSearchOp and RFSearchHook.

Both search the same network from the same weights on the same batches, through whole trajectories. Branch weights get
a learning rate of their own, so that within a few steps dilations really move; each test checks that they do.
"""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rfnext
from rfnext.structure import searched_convs

rfsearch = pytest.importorskip("mmcv.cnn.rfsearch", reason="mmcv-lite, the peer, is not installed")

STEPS, INTERVAL = 21, 2


class Network(nn.Module):
    """Every kind of 2-d conv that mmcv's operator knows; `stem` is left out of the search."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, (3, 5), padding=(4, 8), dilation=4))
        self.layer10 = nn.ModuleDict(
            {
                "even": nn.Conv2d(8, 8, (2, 3), padding=(0, 4), dilation=(1, 4)),
                "strided": nn.Conv2d(8, 8, 3, stride=2, padding=1),
                "groups": nn.Conv2d(8, 8, 3, padding=7, dilation=7, groups=2),
            }
        )
        self.depthwise = nn.Conv2d(8, 8, 5, padding=12, dilation=6, groups=8, bias=False)
        self.line = nn.Conv2d(8, 8, (1, 3), padding=(0, 5), dilation=(1, 5))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(self.stem(x).relu()).relu()
        for conv in self.layer10.values():
            x = conv(x).relu()
        return self.head(self.line(self.depthwise(x)))


SEARCHED = ["layer1.0", "layer1.1", "layer10.even", "layer10.strided", "layer10.groups", "depthwise", "line"]


def where(name: str, conv: rfnext.Conv) -> bool:
    return name != "stem"


def peer_config(branches: int, spread: float, largest: int) -> dict[str, Any]:
    return {
        "search": {
            "step": 0,
            "max_step": STEPS - 2,  # exclusive: it ends before the training does
            "search_interval": INTERVAL,
            "exp_rate": spread,
            "init_alphas": 0.01,
            "mmin": 1,
            "mmax": largest,
            "num_branches": branches,
            "skip_layer": ["stem"],
        }
    }


def batches() -> Iterator[tuple[Tensor, Tensor]]:
    """Images, and their halved and shifted copies as the target, so that dilations can be learnt."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        x = torch.randn(2, 2, 17, 18, generator=generator, dtype=torch.float64)
        yield x, x.roll((5, -3), (2, 3))[..., :16:2, ::2]


def optimizer_of(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    weights = [p for name, p in model.named_parameters() if "branch_weight" in name]
    others = [p for name, p in model.named_parameters() if "branch_weight" not in name]
    if kind == "sgd":
        groups = [{"params": others, "lr": 0.05}, {"params": weights, "lr": 0.2}]
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.Adam([{"params": others, "lr": 1e-2}, {"params": weights, "lr": 1e-2}])


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("branches", "spread", "largest", "moving"),
    [(2, 0.5, 24, 5), (3, 0.5, 9, 5), (2, 0.3, 6, 3), (3, 0.1, 24, 1)],  # the last is stuck below 5 (defect 10)
)
def test_whole_trajectories_are_equal(
    kind: str, branches: int, spread: float, largest: int, moving: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    ours = Network().double()
    theirs = copy.deepcopy(ours)

    config = peer_config(branches, spread, largest)
    hook = rfsearch.RFSearchHook("search", config, by_epoch=False, verbose=False)
    hook.init_model(theirs)
    theirs.double()
    operators = {name: m for name, m in theirs.named_modules() if isinstance(m, rfsearch.Conv2dRFSearchOp)}
    assert list(operators) == SEARCHED
    for operator in operators.values():
        nn.init.constant_(operator.branch_weights, 0.01)  # once more, in float64

    search = rfnext.LocalSearch(
        ours,
        rfnext.LocalConfig(
            interval=INTERVAL,
            rounds=(config["search"]["max_step"] - 1) // INTERVAL,
            spread=spread,
            branches=branches,
            bounds=rfnext.Bounds(1, largest),
            rule="paper",
        ),
        where=where,
    )
    convs = searched_convs(ours)
    assert list(convs) == SEARCHED
    optimizers = [optimizer_of(model, kind) for model in (ours, theirs)]

    def check_branches() -> None:
        for name, operator in operators.items():
            # The peer drops duplicates before it fixes the axes that are not searched, and may keep some (defect 11).
            assert list(convs[name].dilations) == list(dict.fromkeys(operator.dilation_rates)), name
            assert tuple(convs[name].dilation) == tuple(operator.op_layer.dilation), name

    check_branches()
    structures = {search.structure()}
    for step, (x, target) in enumerate(batches(), start=1):
        outputs = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            outputs.append(model(x))
            (outputs[-1] - target).square().mean().backward()
        torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-12)
        gradients = {name: p.grad for name, p in theirs.named_parameters()}
        for name, parameter in ours.named_parameters():
            peer_name = name.replace("branch_weight", "branch_weights")
            if peer_name not in gradients:  # it keeps the conv in `op_layer`
                peer_name = ".op_layer.".join(name.rsplit(".", 1))
            gradient = gradients[peer_name]
            if gradient is None:  # a branch that has collapsed (defect 16)
                assert "branch_weight" in name
                gradient = torch.zeros_like(parameter)
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-12)
        for optimizer in optimizers:
            optimizer.step()
        hook.step(theirs, str(tmp_path))
        ran = search.after_step()
        check_branches()
        file = tmp_path / f"local_search_config_step{step}.json"
        assert ran == file.exists()
        if ran:
            assert rfnext.Structure.load(file) == search.structure()
            structures.add(search.structure())
    assert search.round == 9
    assert len(structures) >= 3
    assert sum(any(s[name] != search.initial[name] for s in structures) for name in SEARCHED) >= moving


def test_a_structure_file_of_ours_is_one_that_the_peer_can_train(tmp_path: Path) -> None:
    """fixed_single_branch and fixed_multi_branch against `Structure.apply` and `keep_branches`."""
    structure = rfnext.Structure({name: (1, 5) if name == "layer10.even" else (3, 5) for name in SEARCHED})
    entries = {f"module.{name}": list(dilation) for name, dilation in structure.items()}
    path = tmp_path / "structure.json"
    path.write_text(json.dumps(peer_config(3, 0.5, 24) | {"structure": entries}))
    loaded = rfnext.Structure.load(path)
    assert loaded == structure

    def single(model: nn.Module) -> None:
        loaded.apply(model, where=where)

    def multi(model: nn.Module) -> None:
        config = rfnext.LocalConfig(branches=3, spread=0.5, bounds=rfnext.Bounds(1, 24), rule="paper")
        rfnext.keep_branches(model, loaded, config)

    modes: dict[str, Callable[[nn.Module], None]] = {"fixed_single_branch": single, "fixed_multi_branch": multi}
    x, _ = next(batches())
    outputs = []
    for mode, change in modes.items():
        torch.manual_seed(0)
        ours = Network().double()
        theirs = copy.deepcopy(ours)
        hook = rfsearch.RFSearchHook(mode, peer_config(3, 0.5, 24), str(path), verbose=False)
        hook.init_model(theirs)
        change(ours)
        outputs.append(ours(x))
        torch.testing.assert_close(outputs[-1], theirs.double()(x), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(*outputs)
