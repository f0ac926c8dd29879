"""What is written for the published tools, opened by mmcv's own hook: equal outputs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rfnext
from rfnext import Bounds, LocalConfig, LocalSearch
from tests.rfnext.published.peer import Network, images, rfsearch, train

CONFIG = LocalConfig(branches=3, rule="paper", rounds=3)


def where(name: str, conv: rfnext.Conv) -> bool:
    return name not in ("neck.0", "patches", "column")  # which mmcv pads otherwise, or gives equal branches


def searched() -> nn.Module:
    model = Network().double()
    search = LocalSearch(model, CONFIG, where)
    train(model, 3, search.after_step)
    train(model, 1)
    assert search.structure() != search.initial
    return model


def retrained() -> nn.Module:
    found = rfnext.Structure.read(searched(), where)
    model = Network().double()
    found.apply(model)
    train(model, 1)
    return model


def kept() -> nn.Module:
    model = Network().double()
    rfnext.keep_branches(model, rfnext.Structure.read(searched(), where), CONFIG)
    train(model, 1)
    return model


@pytest.mark.parametrize(
    ("make", "mode"),
    [(searched, "search"), (retrained, "fixed_single_branch"), (kept, "fixed_multi_branch")],
)
def test_the_published_tools_read_it(make: Callable[[], nn.Module], mode: str, tmp_path: Path) -> None:
    ours = make()
    checkpoint, structure = tmp_path / "model.pth", tmp_path / "local_search_config_step0.json"
    rfnext.save_published(ours, checkpoint, structure, CONFIG)

    theirs = Network()
    config = json.loads(structure.read_text())
    hook = rfsearch.RFSearchHook(mode, config, str(structure), verbose=False)
    hook.init_model(theirs)
    theirs.double().load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    wrapped = [m for m in theirs.modules() if isinstance(m, rfsearch.Conv2dRFSearchOp)]
    assert bool(wrapped) == (mode != "fixed_single_branch")
    again = Network().double()
    rfnext.open_published(again, checkpoint, structure)
    for training in (False, True):
        x = next(images())
        expected = theirs.train(training)(x)
        torch.testing.assert_close(ours.train(training)(x), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(again.train(training)(x), expected, rtol=1e-9, atol=1e-12)


def branched(model: nn.Module, config: LocalConfig) -> nn.Module:
    LocalSearch(model, config)
    return model


def causal() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    LocalSearch(model, LocalConfig(rule="paper"), anchor="last")
    return model


@pytest.mark.parametrize(
    ("make", "config", "message"),
    [
        (causal, LocalConfig(rule="paper"), "'0' is anchored at its last tap"),
        (searched, None, "give the LocalConfig"),
        (searched, LocalConfig(branches=2, rule="paper"), "layer 'layer1' has the branches"),
        (searched, LocalConfig(branches=3, bounds=Bounds(1)), "need a largest dilation"),
        (searched, LocalConfig(branches=4, rule="paper"), "2 or 3 branches, not 4"),
        (
            lambda: branched(nn.Sequential(nn.Conv2d(1, 1, 3, padding=1)), LocalConfig()),
            LocalConfig(),
            "'0'.*rule 'def",
        ),
        (
            lambda: branched(nn.Sequential(nn.Conv2d(1, 1, 3, padding=0)), LocalConfig(rule="paper")),
            LocalConfig(rule="paper"),
            r"'0' has padding \(0, 0\), and mmcv's operator would pad by \(1, 1\)",
        ),
        (
            lambda: branched(nn.Sequential(nn.Conv1d(1, 1, 3, padding=1)), LocalConfig(rule="paper")),
            LocalConfig(rule="paper"),
            "'0' is no Conv2d",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2)),
            None,
            r"'0' has dilation \(2, 2\) and padding \(0, 0\)",
        ),
        (
            lambda: nn.ModuleDict({"a1": nn.Conv2d(1, 1, 3), "a10": nn.Conv2d(1, 1, 3, padding=1)}),
            None,
            "'a10' is to have an entry and 'a1' is not",
        ),
    ],
)
def test_what_the_published_tools_would_read_as_another_function_is_refused(
    make: Callable[[], nn.Module], config: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        rfnext.save_published(make(), tmp_path / "model.pth", tmp_path / "structure.json", config)
    assert not list(tmp_path.iterdir())
