"""A results folder: what was run in it comes before what came with the repository; older names are understood."""

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.records.folder import read_all
from benchmarks.records.lines import read_lines, write_lines
from benchmarks.records.record import Record, read, without_history, write


def test_what_was_run_here_comes_before_what_is_committed(several: list[Record], results: Path) -> None:
    write_lines(results / "toy-tiny/records.jsonl", several)
    committed = read_all(results)
    assert len(committed.all) == len(several)
    assert committed.own == frozenset()
    new = several[2].model_copy(update={"evaluation_seconds": 9.0})
    write(new, results)
    both = read_all(results)
    assert both.own == {new.key}
    assert both.by_key[new.key] == new
    assert both.by_key[several[0].key] == without_history(several[0])
    assert [record.key for record in both.all] == sorted(record.key for record in several)
    # A broken run does not hide the committed one.
    new.key.path(results).write_text("{")
    assert read_all(results).by_key[new.key] == without_history(several[2])


def test_a_failed_run_does_not_hide_a_committed_result(
    several: list[Record], make: Callable[..., Record], results: Path
) -> None:
    write_lines(results / "toy-tiny/records.jsonl", several)
    done = next(one for one in several if one.status == "done")
    failed = make(method=done.method, fold=done.fold, seed=done.seed, reason="no data")
    assert failed.key == done.key
    write(failed, results)
    both = read_all(results)
    assert both.by_key[done.key] == without_history(done)
    assert both.failed == {done.key: "no data"}
    assert done.key not in both.own


def test_records_of_methods_that_were_renamed_are_read_under_the_new_name(
    make: Callable[..., Record], results: Path
) -> None:
    new = make("genetic_single")
    older = json.dumps(
        json.loads(write(new, results).read_text()) | {"method": "global_single", "evaluation_seconds": 7}
    )
    new.key.path(results).unlink()
    place = results / f"runs/toy/{new.preset}/global_single/fold1-seed0.json"
    place.parent.mkdir(parents=True)
    place.write_text(older)
    found = read_all(results)
    assert (found.broken, found.own) == ([], {new.key})
    assert found.by_key[new.key].evaluation_seconds == 7
    write(new, results)  # run again since
    assert read_all(results).by_key == {new.key: new}
    write_lines(results / "toy-tiny/records.jsonl", [new])
    lines = results / "toy-tiny/records.jsonl"
    lines.write_text(lines.read_text().replace("genetic_single", "global_single"))
    assert list(read_lines(lines).records.values()) == [without_history(new)]


def test_a_unit_of_1_of_older_records_is_none(done: Record, results: Path) -> None:
    path = write(done, results)
    path.write_text(path.read_text().replace('"unit": "%"', '"unit": "1"'))
    spec = read(path).metric_specs[0]
    assert spec.said(61.62) == "accuracy 61.6"
    assert done.metric_specs[0].said(61.62) == "accuracy 61.6 %"
