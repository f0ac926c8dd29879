"""Records: what is written comes back, what is broken is named, and nothing is ever half-written."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.records.folder import read_all
from benchmarks.records.record import Cost, Record, RecordError, read, without_history, write
from tasks.spec import Metric

METRICS = {"accuracy": 90.0, "loss": 0.25}

Make = Callable[..., Record]


def test_what_is_written_comes_back(done: Record, tmp_path: Path) -> None:
    path = write(done, tmp_path)
    assert path == tmp_path / "runs/toy/tiny/baseline/fold1-seed0.json"
    assert read(path) == done
    records = read_all(tmp_path)
    assert (records.all, records.broken, records.own) == ([done], [], {done.key})


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
        ({"metrics": METRICS | {"loss": float("nan")}}, "metrics.loss\n.*finite number"),
        ({"metrics_last": METRICS | {"loss": float("inf")}}, "metrics_last.loss\n.*finite number"),
        ({"validation": {"accuracy": 1.0}}, r"validation of toy .* has \['accuracy'\], not"),
        ({"metrics": None}, "metrics of toy"),
        ({"history": [{"step": 1, "structure": {}, "fitness": float("nan")}]}, "history.0.fitness\n.*finite number"),
        ({"overrides": {"lr": float("nan")}}, "overrides\n.*not finite"),
        ({"training": {"seconds": -1.0}}, "training.seconds\n.*greater than or equal to 0"),
        ({"structure": {"0": [0]}}, "structure.0.0\n.*greater than or equal to 1"),
        ({"preset": "../tiny"}, "preset\n.*match"),
        ({"pictures": ["/etc/passwd"]}, "pictures.0\n.*inside of the results folder"),
        ({"finished": "yesterday"}, "finished\n"),
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
    (lambda text: text.replace('"accuracy": 90.0', '"accuracy": NaN'), r":21: .*metrics.accuracy .* finite number"),
    (lambda text: text.replace('"accuracy": 90.0', f'"accuracy": 1{"0" * 400}'), r":21: .*metrics.accuracy"),
    (lambda text: text.replace('"accuracy": 90.0', '"accuracy": 90.0, "accuracy": 91.0'), "'accuracy' appears twice"),
    (
        lambda text: text.replace('"overrides": {}', '"overrides": ' + '{"a":' * 400 + "1" + "}" * 400),
        "nested too deeply",
    ),
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
    assert [fault.path for fault in records.broken] == [path]


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


def test_without_history_keeps_what_tables_show(done: Record) -> None:
    short = without_history(done)
    assert (short.metrics, short.structure, short.training) == (done.metrics, done.structure, done.training)
    assert (short.history, short.pictures) == ([], [])
    assert short.receptive_field is not None
    assert done.receptive_field is not None
    (axis,), (whole,) = short.receptive_field["axes"], done.receptive_field["axes"]
    assert axis == {name: value for name, value in whole.items() if name not in ("edges", "share")}
    assert without_history(short) == short


def test_a_caption_says_what_was_changed_in_the_preset(make: Make, toy: ModuleType) -> None:
    assert make().title == "tiny"
    changed = make(config=toy.Config(epochs=6, folds=(1, 2, 3)), preset="mine", base="tiny")
    assert changed.title == "tiny, epochs=6, folds=1,2,3"
    assert changed.overrides == {"epochs": 6, "folds": [1, 2, 3]}
