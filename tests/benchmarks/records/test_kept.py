"""Which records are kept, so that their cells are not run again."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from benchmarks.cell import Cell
from benchmarks.records.folder import read_all
from benchmarks.records.kept import is_current, kept
from benchmarks.records.lines import write_lines
from benchmarks.records.record import Record, ask_anew, is_asked_anew, without_history, write

Make = Callable[..., Record]


def test_a_cell_is_kept_only_if_it_is_done_by_the_planned_protocol(
    make: Make, cell: Callable[..., Cell], toy: ModuleType, results: Path
) -> None:
    done, here, longer = make(), cell(), cell(config=toy.Config(epochs=6))

    def found(one: Cell) -> Record | None:
        return kept(one.key, one.protocol(), read_all(results))

    assert found(here) is None
    path = write(done, results)
    assert found(here) == done
    assert is_current(done, here.protocol())
    assert found(longer) is None
    path.write_text("{")
    assert found(here) is None
    write(make(reason="killed"), results)
    assert found(here) is None


def test_a_committed_record_is_kept_only_on_request(
    make: Make, cell: Callable[..., Cell], toy: ModuleType, results: Path
) -> None:
    done, here, longer = make(), cell(), cell(config=toy.Config(epochs=6))
    write_lines(results / "toy-tiny/records.jsonl", [done])
    records = read_all(results)
    assert kept(here.key, here.protocol(), records) is None
    assert kept(here.key, here.protocol(), records, committed=True) == without_history(done)
    assert kept(longer.key, longer.protocol(), records, committed=True) is None
    write(make(reason="killed"), results)  # hides nothing: the result is there
    assert kept(here.key, here.protocol(), read_all(results), committed=True) == without_history(done)
    assert kept(here.key, here.protocol(), read_all(results)) is None


def test_what_is_asked_anew_is_asked_until_there_is_a_new_record(make: Make, cell: Callable[..., Cell]) -> None:
    here, other = cell(), cell(fold=2)
    write(make(), here.results)
    ask_anew(here.key, here.results)
    assert is_asked_anew(here.key, here.results)
    assert not is_asked_anew(other.key, other.results)
    write(make(), here.results)
    assert not is_asked_anew(here.key, here.results)
