"""Modules that hold convs and pad them by their dilations, which a search changes."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rfnext import Bounds, LocalConfig, LocalSearch, Structure

CONFIG = LocalConfig(branches=3, bounds=Bounds(1, 64))


class PaddedInAList(nn.Module):
    """As WaveNets and TCNs are written: a list of convs, each padded by its own dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Sequential(nn.Conv1d(3, 3, 3, dilation=d), nn.Tanh()) for d in (1, 2)])
        self.last = nn.ModuleDict({"conv": nn.Conv1d(3, 3, 3, padding=1)})

    def forward(self, x: Tensor) -> Tensor:
        for part in self.convs:
            conv = cast(Any, part)[0]
            x = part(F.pad(x, (2 * conv.dilation[0], 0)))
        return self.last["conv"](x)


def test_a_parent_that_follows_the_dilations_of_convs_in_a_list_is_found(caplog: pytest.LogCaptureFixture) -> None:
    model = PaddedInAList()
    search = LocalSearch(model, CONFIG, anchor="last")
    assert list(search.convs) == ["last.conv"]
    said = "convs.0.0, convs.1.0: not searched, the module around it"
    assert any(record.getMessage().startswith(said) for record in caplog.records)
    with pytest.raises(ValueError, match="layer 'convs.1.0': the module around it pads or crops by its dilation"):
        Structure({"convs.1.0": 3}, "last").apply(PaddedInAList())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_scripted_modules_are_left_alone() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Conv1d(3, 3, 3, padding=1)))
    model = nn.Sequential(scripted, nn.Conv1d(3, 3, 3, padding=1))
    assert list(LocalSearch(model, CONFIG).convs) == ["1"]
