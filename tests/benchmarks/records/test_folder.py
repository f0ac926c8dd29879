"""A results folder: what was run in it comes before what came with the repository."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.records.folder import read_all
from benchmarks.records.lines import write_lines
from benchmarks.records.record import Record, without_history, write


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
