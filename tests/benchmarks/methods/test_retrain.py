"""Finishes: what is trained from a structure, and what is scored."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from benchmarks.cell import Cell
from benchmarks.methods.method import Outcome
from rfnext import LocalSearch, SearchConv, Structure
from tasks.spec import Run, Split

Make = Callable[..., Cell]
Runs = Callable[..., Outcome]


def lists(structure: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    return {name: list(dilation) for name, dilation in structure.items()}


def convs(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Conv1d) and module.kernel_size == (3,)]


def test_single_is_plain_and_multi_keeps_branches(cell: Make, run: Runs) -> None:
    single, multi = run(cell("local_single")).model, run(cell("local_multi")).model
    assert not any(isinstance(conv, SearchConv) for conv in single.modules())
    for conv in convs(multi):
        assert isinstance(conv, SearchConv)
        assert len(conv.dilations) == 3
        assert conv.dilations[1] == conv.dilation
        # The probabilities are trained along.
        assert conv.probability.detach().std() > 1e-3


def test_branches_are_kept_around_the_hand_design_without_a_search(cell: Make, run: Runs) -> None:
    outcome = run(cell("baseline_multi"))
    assert outcome.structure == Structure({"0": (2,), "2": (4,)})
    assert [len(conv.dilations) for conv in convs(outcome.model) if isinstance(conv, SearchConv)] == [3, 3]


def test_merge_leaves_one_plain_kernel_per_conv(cell: Make, run: Runs) -> None:
    searched, merged = run(cell("local_as_searched")).model, run(cell("local_merge")).model
    assert not any(isinstance(conv, SearchConv) for conv in merged.modules())
    sizes = [conv.kernel_size[0] for conv in merged.modules() if isinstance(conv, nn.Conv1d)]
    assert max(sizes) > 3
    x = torch.randn(1, 1, 64)
    assert merged(x).shape == searched(x).shape


def test_the_search_run_is_scored_as_it_ended(cell: Make, run: Runs, toy: ModuleType, tmp_path: Path) -> None:
    here = cell("local_as_searched")
    torch.manual_seed(0)
    model = toy.build(here.config)
    search = LocalSearch(model, here.config.search)
    toy.fit(model, here.config, Run(seed=0, fold=1, folder=tmp_path, search=search))
    outcome = run(here)
    assert outcome.metrics_last == toy.evaluate(model, here.config, Split("test", 1))
    for ours, theirs in zip(convs(outcome.model), convs(model), strict=True):
        assert isinstance(ours, SearchConv)
        assert isinstance(theirs, SearchConv)
        assert ours.dilations == theirs.dilations
    rounds = [entry for entry in outcome.history if "branches" in entry]
    assert [entry["step"] for entry in rounds] == [1, 2, 3]
    assert [entry["structure"] for entry in rounds] == [lists(r.structure) for r in search.history]
    for entry, seen in zip(rounds, search.history, strict=True):
        for name, branches in entry["branches"].items():
            assert [tuple(dilation) for dilation, _ in branches] == seen.dilations[name]
            assert [share for _, share in branches] == pytest.approx(seen.probability[name], abs=1e-4)
    assert outcome.history[0] == {"step": 0, "structure": {"0": [2], "2": [4]}}
