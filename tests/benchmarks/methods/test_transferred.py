"""The structure of another network: whose it is, which layer gets which dilation, and where there is none."""

import dataclasses
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from benchmarks.cell import Cell
from benchmarks.methods.stored import find
from benchmarks.methods.table import METHODS
from benchmarks.methods.transferred import transferred
from benchmarks.running.execute import run_cell
from benchmarks.running.pool import in_process

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


def test_a_record_says_what_the_donor_was(cell: Make, toy: ModuleType) -> None:
    """And no network of the donor is kept as if it were the cell's."""
    here = cell("transferred_single")
    made = run_cell(here)
    assert made.protocol["settings"] == {"donor": {"width": here.config.width + 1}}
    assert made.protocol["config"]["width"] == here.config.width
    folder = here.search_folder("transferred")
    assert (folder / "found.json").exists()
    assert not list(folder.glob("*.pt"))
    assert "donor" not in cell("local_single").protocol()["settings"]


def test_a_search_on_another_donor_is_not_taken_over(cell: Make, toy: ModuleType) -> None:
    """The donor is the task's choice: the config alone does not tell."""
    stage = METHODS["transferred_single"].search
    assert stage is not None
    first = find(cell("transferred_single"), stage, in_process())
    wider = dataclasses.replace(toy.TASK, donor=lambda config: dataclasses.replace(config, width=config.width + 4))
    again = find(cell("transferred_single", task=wider), stage, in_process())
    assert again.cost.seconds != first.cost.seconds
    assert find(cell("transferred_single", task=wider), stage, in_process()) == again
