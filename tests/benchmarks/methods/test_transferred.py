"""The structure of another network: whose it is, which layer gets which dilation, and where there is none."""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from benchmarks.cell import Cell
from benchmarks.methods.table import METHODS
from benchmarks.methods.transferred import transferred

Make = Callable[..., Cell]


def test_a_layer_gets_what_the_donors_layer_of_its_role_has_found(
    cell: Make, searching: Callable[..., Any], toy: ModuleType
) -> None:
    """The second layer has the role of the donor's first; no layer of the donor has the role of the first one."""

    def roles(model: Any) -> dict[str, str]:
        return {"0": "far", "2": "near"} if model[0].out_channels == 8 else {"0": "near", "2": "else"}

    task = dataclasses.replace(toy.TASK, roles=roles)
    here = cell("transferred_single", task=task)
    found = transferred(searching(here))
    alone = cell("local_single", config=toy.Config(width=9), task=task)
    own = METHODS["local_single"].search.run(searching(alone))  # type: ignore[union-attr]
    assert dict(found.structure) == {"0": (2,), "2": own.structure["0"]}
    assert own.structure["0"] != (4,)
    assert [entry["structure"] for entry in found.history] == [
        {"0": [2], "2": entry["structure"]["0"]} for entry in own.history
    ]
    assert found.cost.epochs == own.cost.epochs == here.config.epochs


def test_networks_without_a_common_role_are_an_error(
    cell: Make, searching: Callable[..., Any], toy: ModuleType
) -> None:
    task = dataclasses.replace(toy.TASK, roles=lambda model: {"0": model[0].out_channels})
    with pytest.raises(ValueError, match="no searched layer of tiny has the role of one of the donor's"):
        transferred(searching(cell("transferred_single", task=task)))


def test_a_network_without_a_donor_is_left_out(toy: ModuleType) -> None:
    method, config = METHODS["transferred_single"], toy.TASK.presets["tiny"]
    assert method.unfit(toy.TASK, config) is None
    for task in (dataclasses.replace(toy.TASK, donor=None), dataclasses.replace(toy.TASK, donor=lambda config: None)):
        assert method.unfit(task, config) == "no other network of the task has layers of the same roles"
        assert METHODS["local_single"].unfit(task, config) is None
