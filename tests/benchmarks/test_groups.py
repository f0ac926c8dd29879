"""Statistics and their limits: what an interval is over, which records may meet, what is concluded from them."""

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tasks
from benchmarks import groups, record
from benchmarks.record import Cell, Record, RecordError
from benchmarks.run import make_record, preset_name
from benchmarks.training import Job
from tasks.spec import Task


def test_the_interval_is_over_folds_after_averaging_their_seeds() -> None:
    values = {(1, 0): 69.0, (1, 1): 71.0, (2, 0): 72.0, (2, 1): 72.0, (3, 0): 70.0, (3, 1): 78.0}
    found = groups.estimate(values)
    assert found is not None
    assert found.mean == pytest.approx(72.0)
    # Fold means 70, 72, 74: standard deviation 2; t(0.975, 2 degrees of freedom) = 4.3027 in any t table.
    assert found.half_width == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)
    assert (found.units, found.cells) == (3, 6)


def test_with_one_fold_the_interval_is_over_seeds() -> None:
    found = groups.estimate({(1, 0): 60.0, (1, 1): 64.0})
    assert found is not None
    # t(0.975, 1) = 12.7062; standard deviation of 60 and 64 is 2.8284.
    assert found.half_width == pytest.approx(12.7062 * 2.8284 / 2**0.5, rel=1e-4)
    assert found.units == 2


def test_one_number_has_no_interval_and_none_has_no_mean() -> None:
    assert groups.estimate({(1, 0): 60.0}) == groups.Estimate(60.0, None, 1, 1)
    assert groups.estimate({}) is None


def test_a_title_has_the_values_that_a_name_of_files_cannot_hold() -> None:
    task = tasks.load("action_segmentation")
    preset = task.presets["compact"]
    config = dataclasses.replace(preset, group=r"rgb-\d+", search=dataclasses.replace(preset.search, rule="paper"))
    name = preset_name(task, "compact", config)
    assert name == "compact+group=rgb-_d_+search.rule=paper"
    found = groups.Group("action_segmentation", name, [planned(task, name, config)])
    assert found.title == r"compact, group=rgb-\d+, search.rule=paper"
    # Of a long one the end is cut off: what is left of it stays as it is.
    config = dataclasses.replace(config, group=r"(?P<who>\w+)|" * 9)
    name = preset_name(task, "compact", config)
    found = groups.Group("action_segmentation", name, [planned(task, name, config)])
    assert found.title == f"compact, group={config.group}, s, {name[-10:]}"


def planned(task: Task[Any], preset: str, config: Any) -> Record:
    here = Job(Cell(task.name, preset, "baseline", 1, 0), task, config, Path("results"), settings={})
    return make_record(here, "now", reason="only planned")


def test_settings_may_differ_between_methods_but_not_within_one(
    write: Callable[..., Record], results: Path, job: Callable[..., Job]
) -> None:
    write("baseline", 1, 0, 70.0)
    path = write("random_search", 1, 0, 70.0).cell.path(results)
    write("random_search", 2, 0, 70.0)
    path.write_text(path.read_text().replace('"candidates": 5', '"candidates": 7'))
    (found,) = groups.group(*record.read_all(results))
    with pytest.raises(RecordError, match=r"settings\.candidates is"):
        groups.check_protocols(found, results)


def test_every_published_row_names_data_result_and_source() -> None:
    content = tomllib.loads(groups.PUBLISHED.read_text("utf-8"))
    rows = content["row"]
    assert len({(row["key"], row["name"]) for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"key", "name", "source", "values"}
        assert row["source"].strip()
        assert all(0 < value < 100 for value in row["values"].values())


def test_published_numbers_are_those_of_the_checked_list(shared: Path) -> None:
    checked = tomllib.loads((shared / "published.toml").read_text("utf-8"))
    ours = {(row["key"], row["name"]): row for row in tomllib.loads(groups.PUBLISHED.read_text("utf-8"))["row"]}
    expected = []
    for section in ("coco", "coco_panoptic", "semantic_segmentation", "imagenet_s"):
        for rows in checked[section].values():
            if isinstance(rows, dict):
                expected += [tuple(values) for values in rows.values()]
    for dataset in ("50salads", "gtea", "breakfast"):
        expected += [tuple(entry["row"]) for entry in checked["action_segmentation"][dataset].values()]
    # One more than the list's tables: the accuracy of RF-Next on Breakfast, which the list has in a note.
    found = sorted(tuple(row["values"].values()) for row in ours.values())
    assert found == sorted([*expected, (70.8,)])
    assert "70.8" in checked["action_segmentation"]["note"]


def only(results: Path) -> groups.Group:
    (found,) = groups.group(*record.read_all(results))
    return found


def test_a_conclusion_counts_the_differences_whose_interval_excludes_zero(
    write: Callable[..., Record], results: Path
) -> None:
    # The loss is 1 - accuracy / 100, so that it is better where it is lower.
    for fold, baseline, better, unclear in ((1, 70.0, 72.0, 75.0), (2, 72.0, 75.0, 70.0), (3, 74.0, 78.0, 74.5)):
        write("baseline", fold, 0, baseline)
        write("local_single", fold, 0, better)
        write("local_multi", fold, 0, unclear)
    found = only(results)
    verdicts = {(one.method, one.metric.name): one.verdict for one in groups.comparisons(found)}
    assert verdicts == {
        ("local_single", "accuracy"): "better",
        ("local_single", "loss"): "better",
        ("local_multi", "accuracy"): None,
        ("local_multi", "loss"): None,
    }
    text = groups.conclusion(found)
    assert text.startswith("2 of 4 differences to the baseline (2 methods, 2 metrics) have a 95 % interval without 0")
    assert "local_single accuracy +3.0 ± 2.5 (better); local_single loss -0.030 ± 0.025 (better)" in text


def test_a_worse_method_is_called_worse(write: Callable[..., Record], results: Path) -> None:
    for fold in (1, 2, 3):
        write("baseline", fold, 0, 70.0)
        write("local_single", fold, 0, 65.0 + fold / 10)
    assert {one.verdict for one in groups.comparisons(only(results))} == {"worse"}


def test_nothing_is_concluded_from_what_has_no_interval(write: Callable[..., Record], results: Path) -> None:
    write("local_single", 1, 0, 72.0)
    assert "no finished baseline" in groups.conclusion(only(results))
    write("baseline", 1, 0, 70.0)
    assert "nothing can be concluded" in groups.conclusion(only(results))
    write("baseline", 2, 0, 72.0)
    write("local_single", 2, 0, 71.0)
    assert groups.conclusion(only(results)).startswith(
        "None of the 2 differences to the baseline (1 method, 2 metrics)"
    )


def test_rounding_does_not_hide_on_which_side_of_zero_an_interval_ends() -> None:
    assert groups.number(groups.Estimate(-1.61, 1.60, 5, 10), 1, signed=True) == "-1.61 ± 1.60"
    assert groups.number(groups.Estimate(-1.61, 1.40, 5, 10), 1, signed=True) == "-1.6 ± 1.4"
    assert groups.number(groups.Estimate(61.6, 1.6, 5, 10), 1) == "61.6 ± 1.6"
    assert groups.number(groups.Estimate(61.6, None, 1, 1), 1) == "61.6"
