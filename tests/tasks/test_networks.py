"""The tasks' own networks keep every promise of docs/networks.md, as those of other libraries do.

Not here: detectors, which are mmdet's and compute boxes; causal networks, whose convs are anchored when they are built
(`test_streaming.py`, `load_forecasting/test_models.py`); and the source-filter network, whose exported graph differs by
2e-8 in float64 without a search, too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
from torch import Tensor, nn

import tasks
from tests.rfnext.foreign_course import run
from tests.rfnext.foreign_networks import Foreign
from tests.tasks.searched_table import presets

ELSEWHERE = {("tts_vocoder", "tiny-causal"), ("tts_vocoder", "tiny")}
NOT_EXPORTED = ("tiny-c2f-tcn",)
"""Its batch norms take frames out of a mask, and how many these are depends on the data."""

FRAMES, PIXELS, MEL = (1, 6, 64), (2, 3, 64, 64), (1, 80, 8)


class Own(NamedTuple):
    """How the networks of a task are made and what they take. facts: None if they need none."""

    size: tuple[int, ...]
    facts: dict[str, Any] | None = None


OWN = {
    "action_segmentation": Own(FRAMES, {"features": 6, "classes": list("abcd")}),
    "semantic_segmentation": Own(PIXELS, {"classes": list("abcd")}),
    "tts_vocoder": Own(MEL),
}


class Both(nn.Module):
    """ASRF with the output of its other branch, which its forward() leaves out."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.both(x)


def make(name: str, preset: str) -> nn.Module:
    """The network of a preset, without data."""
    task, facts = tasks.load(name), OWN[name].facts
    config = task.presets[preset]
    if facts is None:
        return task.build(config)
    assert task.rebuild is not None
    network = task.rebuild(config, facts)
    return Both(network) if preset == "tiny-asrf" else network


TRIED = [pair for pair in presets() if pair[0] in OWN and pair not in ELSEWHERE]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "preset"), TRIED)
def test_a_network_comes_through_the_search_and_all_that_follows(name: str, preset: str) -> None:
    maker: Callable[[], nn.Module] = partial(make, name, preset)
    measured = run(Foreign(maker, (OWN[name].size,)))
    assert measured.searched > 0
    assert measured.searched + len(measured.passed_over) == measured.convs
    left_out = ["torch.export does not take the plain network either"] if preset in NOT_EXPORTED else []
    assert measured.notes == left_out
