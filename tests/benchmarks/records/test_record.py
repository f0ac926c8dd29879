"""Records: what is written comes back, what is broken is named, and nothing is ever half-written."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.records.folder import read_all
from benchmarks.records.lines import CONTEXT, read_lines, write_lines
from benchmarks.records.record import Cost, Record, RecordError, read, without_history, write
from tasks.spec import Metric

METRICS = {"accuracy": 90.0, "loss": 0.25}

Make = Callable[..., Record]


@pytest.fixture
def done(make: Make, receptive_field: dict[str, Any]) -> Record:
    return make(
        structure={"0": [2], "2": [4]},
        history=[{"step": 0, "structure": {"0": [2], "2": [4]}}],
        training=Cost(epochs=5, seconds=1.5, peak_memory_mb=600.25, memory_measure="resident"),
        pictures=["pictures/toy/tiny/baseline/accuracy.svg"],
        receptive_field=receptive_field,
    )


def test_what_is_written_comes_back(done: Record, tmp_path: Path) -> None:
    path = write(done, tmp_path)
    assert path == tmp_path / "runs/toy/tiny/baseline/fold1-seed0.json"
    assert read(path) == done
    records = read_all(tmp_path)
    assert (records.all, records.broken, records.own) == ([done], {}, {done.key})


def test_metric_specs_travel_with_the_record(done: Record, tmp_path: Path) -> None:
    found = read(write(done, tmp_path))
    assert found.metric_specs == [Metric("accuracy"), Metric("loss", False, 3, "nats")]


def test_costs_add_up_and_keep_the_larger_memory() -> None:
    one = Cost(epochs=2, seconds=1.0, peak_memory_mb=5.0, memory_measure="cuda")
    two = Cost(epochs=3, seconds=0.5, peak_memory_mb=7.0, memory_measure="cuda")
    assert one + two == Cost(epochs=5, seconds=1.5, peak_memory_mb=7.0, memory_measure="cuda")
    assert one + Cost() == Cost() + one == one
    assert Cost() + Cost() == Cost()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": METRICS | {"loss": float("nan")}}, "metrics of toy .* not finite: loss"),
        ({"metrics_last": METRICS | {"loss": float("inf")}}, "metrics_last of toy .* not finite: loss"),
        ({"validation": {"accuracy": 1.0}}, r"validation of toy .* has \['accuracy'\], not"),
        ({"metrics": None}, "metrics of toy"),
        ({"history": [{"share": float("nan")}]}, "history of toy .* not finite"),
        ({"status": "failed"}, "needs a reason"),
        ({"status": "fine"}, "status"),
        ({"flavour": "sweet"}, "flavour"),
    ],
)
def test_a_record_is_sound_or_refused(done: Record, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Record(**{name: getattr(done, name) for name in Record.model_fields} | change)


def test_a_failed_record_needs_no_metrics(make: Make, tmp_path: Path) -> None:
    failed = make(reason="out of memory")
    assert read(write(failed, tmp_path)) == failed
    assert failed.metrics is None


def changed(**fields: Any) -> Callable[[str], str]:
    """Replaces fields of a record's text; those that are None are removed."""

    def change(text: str) -> str:
        content = json.loads(text) | fields
        return json.dumps({name: value for name, value in content.items() if name not in fields or value is not None})

    return change


BROKEN: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text[: len(text) // 2], "not a readable record"),
    (lambda text: "", "not a readable record"),
    (lambda text: "[]", r"not a record of schema 2 \(found 'list'\)"),
    (changed(schema_version=99), r"schema 2 \(found 99\)"),
    (changed(schema=1, schema_version=None), r"schema 2 \(found 1\)"),
    (changed(commando="python"), "commando"),
    (changed(command=None), "command"),
    (changed(status="maybe"), "status"),
    (changed(fold="1"), "fold"),
    (changed(seed=0.5), "seed"),
    (changed(resumed=1), "resumed"),
    (changed(search={"epochs": 1, "minutes": 2}), "search.minutes"),
    (changed(metric_specs=[{"name": 3}]), "metric_specs.0.name"),
    (lambda text: text.replace('"accuracy": 90.0', '"accuracy": NaN'), "not finite"),
    (changed(metrics=7), "metrics"),
    (changed(structure={"0": 2}), "structure.0"),
    (changed(fold=3), "holds the record of toy tiny baseline fold 3"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_a_broken_file_is_named_with_what_to_do(
    done: Record, tmp_path: Path, damage: Callable[[str], str], message: str
) -> None:
    path = write(done, tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(RecordError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "delete the file" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    records = read_all(tmp_path)
    assert records.all == []
    assert list(records.broken) == [path]


def test_a_record_must_lie_in_its_place(done: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(done, tmp_path)
    for place in (path.with_name("fold2-seed0.json"), tmp_path / "record.json"):
        place.write_bytes(path.read_bytes())
        with pytest.raises(RecordError, match="holds the record of toy tiny baseline fold 1 seed 0"):
            read(place)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match="holds the record of"):
        read(Path("record.json"))


def test_a_full_disk_keeps_the_old_record_and_leaves_nothing_behind(done: Record, tmp_path: Path) -> None:
    path = write(done, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))  # the kernel refuses to let a file grow beyond that
    try:
        with pytest.raises(OSError, match="cannot write") as error:
            write(done.model_copy(update={"command": "another"}), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(error.value)
    assert read(path) == done
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.fixture
def several(make: Make, done: Record) -> list[Record]:
    """Records of two methods, folds and machines, among them a failed one and one without a structure."""
    other = make("local_single", fold=2, structure={"0": [3], "2": [5]}, search=Cost(epochs=5, seconds=2.0))
    far = other.model_copy(update={"seed": 1, "device": other.device | {"name": "another"}, "resumed": True})
    return [done, make("local_single", reason="killed"), other, far, make("local_multi", fold=2)]


def test_lines_give_every_field_but_the_history(several: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "toy-tiny" / "records.jsonl"
    write_lines(path, reversed(several))
    found = list(read_lines(path))
    expected = sorted((without_history(record) for record in several), key=lambda record: record.key)
    for ours, theirs in zip(found, expected, strict=True):
        assert {name: getattr(ours, name) for name in Record.model_fields} == {
            name: getattr(theirs, name) for name in Record.model_fields
        }
    again = tmp_path / "again.jsonl"
    write_lines(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_what_cells_have_in_common_is_written_once(several: list[Record], tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    write_lines(path, several)
    contents = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [content for content in contents if "context" not in content]
    contexts = [content for content in contents if "context" in content]
    assert len(lines) == len(several)
    assert 1 < len(contexts) < len(several)
    for content in lines:
        assert not set(CONTEXT) & set(content)
        assert "history" not in content or content["history"] == []


def test_without_history_keeps_what_tables_show(done: Record) -> None:
    short = without_history(done)
    assert (short.metrics, short.structure, short.training) == (done.metrics, done.structure, done.training)
    assert (short.history, short.pictures) == ([], [])
    assert short.receptive_field is not None
    assert done.receptive_field is not None
    (axis,), (whole,) = short.receptive_field["axes"], done.receptive_field["axes"]
    assert axis == {name: value for name, value in whole.items() if name not in ("edges", "share")}
    assert without_history(short) == short


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"task": "toy"}', '{"in_context": 99}', '{"context": 0}{'])
def test_a_broken_line_is_named_by_its_number(several: list[Record], tmp_path: Path, text: str) -> None:
    path = tmp_path / "toy-tiny" / "records.jsonl"
    write_lines(path, several)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], text, *lines[3:]]))
    with pytest.raises(RecordError, match=f"{path}:4: ") as error:
        list(read_lines(path))
    assert "restore the file" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    records = read_all(tmp_path)
    assert records.all == []
    assert list(records.broken) == [path]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema_version": 1}, "found 1"), ({"schema_version": None, "schema": 1}, "found 1"), ({"device": 3}, "device")],
)
def test_a_line_whose_context_does_not_fit_is_refused(
    several: list[Record], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = tmp_path / "records.jsonl"
    write_lines(path, several)
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([changed(**change)(first), *rest]))
    with pytest.raises(RecordError, match=f"{path}:2: .*{message}.*restore the file"):
        list(read_lines(path))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "toy-tiny" / "records.jsonl"
    path.parent.mkdir()
    path.write_bytes(b"\xff\xfe\x00")
    assert str(path) in read_all(tmp_path).broken[path]


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


def test_a_failed_run_does_not_hide_a_committed_result(several: list[Record], make: Make, results: Path) -> None:
    write_lines(results / "toy-tiny/records.jsonl", several)
    done = next(one for one in several if one.status == "done")
    failed = make(method=done.method, fold=done.fold, seed=done.seed, reason="no data")
    assert failed.key == done.key
    write(failed, results)
    both = read_all(results)
    assert both.by_key[done.key] == without_history(done)
    assert both.failed == {done.key: "no data"}
    assert done.key not in both.own


def test_a_caption_says_what_was_changed_in_the_preset(make: Make, toy: ModuleType) -> None:
    assert make().title == "tiny"
    changed = make(config=toy.Config(epochs=6, folds=(1, 2, 3)), preset="mine", base="tiny")
    assert changed.title == "tiny, epochs=6, folds=1,2,3"
    assert changed.overrides == {"epochs": 6, "folds": [1, 2, 3]}
