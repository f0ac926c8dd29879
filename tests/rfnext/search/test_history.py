"""The history of a search in its state: short, and the same rounds when it is read."""

import json
from typing import Any

import pytest
import torch
from torch import nn

import rfnext
from rfnext import Round
from rfnext.search.history import pack, unpack

INITIAL = {"b": (1, 1), "a": (4,)}
HISTORY = [
    Round(2, {"b": [(1, 1), (2, 2)], "a": [(2,), (4,), (6,)]}, {"b": [0.25, 0.75], "a": [0.5, 0.3, 0.2]}, INITIAL),
    Round(
        4,
        {"b": [(1, 1), (2, 2)], "a": [(2,), (4,), (6,)]},
        {"b": [0.25, 0.75], "a": [0.1, 0.3, 0.6]},
        {"b": (1, 1), "a": (5,)},
    ),
    Round(6, {"b": [(2, 2)], "a": [(3,), (5,)]}, {"b": [1.0], "a": [0.1, 0.9]}, {"b": (2, 3), "a": (6,)}),
]


def test_rounds_are_flat_lists_in_the_order_of_names_and_only_what_changed() -> None:
    assert pack(HISTORY, INITIAL) == [
        {"step": 2, "branches": [3, 2], "dilations": [2, 4, 6, 1, 1, 2, 2], "probability": [0.5, 0.3, 0.2, 0.25, 0.75],
         "structure": [4, 1, 1]},
        {"step": 4, "probability": [0.1, 0.3, 0.6, 0.25, 0.75], "structure": [5, 1, 1]},
        {"step": 6, "branches": [2, 1], "dilations": [3, 5, 2, 2], "probability": [0.1, 0.9, 1.0],
         "structure": [6, 2, 3]},
    ]  # fmt: skip


def test_what_was_packed_is_read_again_in_any_order_of_keys() -> None:
    assert unpack(pack(HISTORY, INITIAL), INITIAL) == HISTORY
    through_json = json.loads(json.dumps([pack(HISTORY, INITIAL), INITIAL], sort_keys=True))
    assert unpack(*through_json) == HISTORY
    assert unpack([], INITIAL) == []


def test_rounds_of_earlier_states_are_read() -> None:
    assert unpack([seen.state_dict() for seen in HISTORY], INITIAL) == HISTORY


def searched() -> Any:
    model = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(3)))
    return rfnext.LocalSearch(model, rfnext.LocalConfig(branches=3))


def learn(search: Any, rounds: int) -> Any:
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        with torch.no_grad():
            for weight in search.branch_weights():
                weight.add_(torch.rand(3, generator=generator) / 100)
        assert search.after_step()
    return search


def test_a_search_of_before_continues() -> None:
    search = learn(searched(), 2)
    old = {**search.state_dict(), "version": 1, "history": [seen.state_dict() for seen in search.history]}
    resumed = searched()
    resumed.load_state_dict(old)
    assert (resumed.history, resumed.state_dict()) == (search.history, search.state_dict())


@pytest.mark.parametrize("broken", [{"probability": [0.5]}, {"branches": [1]}, {"structure": []}])
def test_a_broken_history_changes_nothing(broken: dict[str, Any]) -> None:
    state = learn(searched(), 2).state_dict()
    state["history"][0] |= broken
    search = searched()
    before = search.state_dict()
    with pytest.raises(ValueError, match="round 1 of the history is not one of 3 layers"):
        search.load_state_dict(state)
    assert search.state_dict() == before
