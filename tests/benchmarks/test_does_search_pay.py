"""The study of all methods: which records are its rows."""

import pytest

from benchmarks.groups import Group, group
from benchmarks.methods import METHODS
from benchmarks.record import ROOT, read_all
from benchmarks.studies.does_search_pay import rows, table


def test_rows_are_of_one_kind_of_data_and_in_the_order_of_the_methods() -> None:
    groups = group(*read_all(ROOT / "results"))
    shown = rows(groups, seglearn=False)
    assert {one.preset.split("+")[0] for one, _ in shown.values()} == {"compact"}
    assert not any("seglearn" in one.preset for one, _ in shown.values())
    ours = [name for name in shown if "(" not in name]
    assert ours == [name for name in METHODS if name in ours]
    assert [name for name in shown if "(" in name] == ["local_single (paper)", "local_single (spread 0.5)"]
    assert "epochs=" not in "".join(one.preset for one, _ in shown.values())


def test_two_kinds_of_own_data_in_one_folder_are_no_study() -> None:
    groups: list[Group] = group(*read_all(ROOT / "results"))
    (one,) = {id(g): g for g, _ in rows(groups, seglearn=False).values() if "search." not in g.preset}.values()
    with pytest.raises(ValueError, match="both have baseline; keep one of them"):
        rows([*groups, one], seglearn=False)


def test_without_records_there_is_no_table() -> None:
    assert table([], seglearn=False) is None
