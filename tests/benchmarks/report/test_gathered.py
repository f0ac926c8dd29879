"""Cells of one (task, preset): which records may share a table, and what is concluded from them."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.records.folder import read_all
from benchmarks.records.record import Record, RecordError
from benchmarks.report import gathered
from benchmarks.report.gathered import Gathered


def only(results: Path) -> Gathered:
    (found,) = gathered.gather(read_all(results))
    return found


def test_settings_may_differ_between_methods_but_not_within_one(write: Callable[..., Record], results: Path) -> None:
    write("baseline", 1, 0, 70.0)
    write("random_single", 1, 0, 70.0, settings={"candidates": 5})
    gathered.check_protocols(only(results), results)
    odd = write("random_single", 2, 0, 70.0, settings={"candidates": 7})
    write("random_single", 3, 0, 70.0, settings={"candidates": 5})
    with pytest.raises(RecordError, match=r"settings\.candidates is 7 instead of 5") as error:
        gathered.check_protocols(only(results), results)
    assert str(odd.key.path(results)) in str(error.value)


def test_every_published_row_names_data_result_and_source() -> None:
    rows = tomllib.loads(gathered.PUBLISHED.read_text("utf-8"))["row"]
    assert len({(row["key"], row["name"]) for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"key", "name", "source", "values"}
        assert row["source"].strip()
        assert all(0 < value < 100 for value in row["values"].values())


def test_published_numbers_are_those_of_the_checked_list(shared: Path) -> None:
    checked = tomllib.loads((shared / "published.toml").read_text("utf-8"))
    rows = tomllib.loads(gathered.PUBLISHED.read_text("utf-8"))["row"]
    expected = []
    for section in ("coco", "coco_panoptic", "semantic_segmentation", "imagenet_s"):
        for listed in checked[section].values():
            if isinstance(listed, dict):
                expected += [tuple(values) for values in listed.values()]
    for dataset in ("50salads", "gtea", "breakfast"):
        expected += [tuple(entry["row"]) for entry in checked["action_segmentation"][dataset].values()]
    # One more than the list's tables: the accuracy of RF-Next on Breakfast, which the list has in a note.
    assert sorted(tuple(row["values"].values()) for row in rows) == sorted([*expected, (70.8,)])
    assert "70.8" in checked["action_segmentation"]["note"]


def test_a_conclusion_counts_the_differences_whose_interval_excludes_zero(
    write: Callable[..., Record], results: Path
) -> None:
    # The loss is 1 - accuracy / 100, so that it is better where it is lower.
    for fold, baseline, better, unclear in ((1, 70.0, 72.0, 75.0), (2, 72.0, 75.0, 70.0), (3, 74.0, 78.0, 74.5)):
        write("baseline", fold, 0, baseline)
        write("local_single", fold, 0, better)
        write("local_multi", fold, 0, unclear)
    found = only(results)
    assert {(one.method, one.metric.name): one.verdict for one in gathered.comparisons(found)} == {
        ("local_single", "accuracy"): "better",
        ("local_single", "loss"): "better",
        ("local_multi", "accuracy"): None,
        ("local_multi", "loss"): None,
    }
    text = gathered.conclusion(found)
    assert text.startswith("2 of 4 differences")
    for part in ("local_single accuracy +3.0 ± 2.5 (better)", "local_single loss -0.030 ± 0.025 (better)"):
        assert part in text
    assert "local_multi" not in text


def test_a_worse_method_is_called_worse(write: Callable[..., Record], results: Path) -> None:
    for fold in (1, 2, 3):
        write("baseline", fold, 0, 70.0)
        write("local_single", fold, 0, 65.0 + fold / 10)
    assert {one.verdict for one in gathered.comparisons(only(results))} == {"worse"}


def test_nothing_is_concluded_from_what_has_no_interval(write: Callable[..., Record], results: Path) -> None:
    write("local_single", 1, 0, 72.0)
    assert "no finished baseline" in gathered.conclusion(only(results))
    write("baseline", 1, 0, 70.0)
    assert "nothing can be concluded" in gathered.conclusion(only(results))
    write("baseline", 2, 0, 72.0)
    write("local_single", 2, 0, 71.0)
    assert gathered.conclusion(only(results)).startswith("2 folds per method: too few")
    write("baseline", 3, 0, 72.0)
    write("local_single", 3, 0, 73.0)
    assert gathered.conclusion(only(results)).startswith("None of the 2 differences")


def test_what_was_changed_in_a_preset_is_in_its_title(write: Callable[..., Record], results: Path) -> None:
    changed = {"epochs": 9, "search.spread": 0.1}
    write("baseline", 1, 0, 70.0, preset="tiny-0a1b2c", base="tiny", overrides=changed)
    assert only(results).title == "tiny, epochs=9, search.spread=0.1"
