"""The table of docs/networks.md is that of the tasks' networks."""

import pytest

from tests.tasks.searched_table import HEADING, PAGE, presets, row


def test_every_network_has_its_row_and_no_other_is_there() -> None:
    rows = PAGE.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n\n")[0].splitlines()[1:]
    assert [tuple(cell.strip(" `") for cell in line.split("|")[1:3]) for line in rows] == presets()


# Detectors take seconds each to build; their rows are made by the same function.
@pytest.mark.parametrize(("name", "preset"), [pair for pair in presets() if pair[0] != "coco_detection"])
def test_a_row_is_what_a_search_would_take_now(name: str, preset: str) -> None:
    assert row(name, preset) in PAGE.read_text(encoding="utf-8")
