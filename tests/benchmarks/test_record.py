"""Records: what is written comes back, what is broken is named, and nothing is ever half-written."""

import dataclasses
import enum
import importlib.metadata
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest

import tasks
from benchmarks import record
from benchmarks.record import Busy, Cell, Cost, Record, RecordError, claim, fingerprint, protocol, rebuild
from benchmarks.run import make_record
from benchmarks.training import Job
from rfnext.ops import native_build as native_library
from tasks.spec import Metric

METRICS = {"accuracy": 90.0, "loss": 0.25}


@pytest.fixture
def done(job: Callable[..., Job]) -> Record:
    return make_record(
        job(command="python -m benchmarks.run toy baseline"),
        "2026-01-01T00:00:00+00:00",
        metrics=METRICS,
        metrics_last=METRICS,
        validation=METRICS,
        structure={"0": [2], "2": [4]},
        history=[{"step": 0, "structure": {"0": [2], "2": [4]}}],
        training=Cost(5, 1.5, 600.25, "resident"),
        pictures=["figures/toy/tiny/baseline/accuracy.svg"],
    )


def test_what_is_written_comes_back(done: Record, tmp_path: Path) -> None:
    path = record.write(done, tmp_path)
    assert path == tmp_path / "runs/toy/tiny/baseline/fold1-seed0.json"
    assert record.read(path) == done
    assert record.read_all(tmp_path) == ([done], {})
    assert Cell.of(path) == done.cell


def test_a_record_names_machine_and_versions(done: Record) -> None:
    assert done.device["type"] == "cpu"
    assert done.device["name"]
    assert done.device["threads"] >= 1
    assert done.device["native_kernels"] is (native_library.failure() is None)
    assert {"python", "torch", "rfnext", "lightning", "numpy", "mmdet", "librosa"} <= set(done.versions)
    assert done.versions["torch"] == importlib.metadata.version("torch")
    assert done.versions["python"] == ".".join(map(str, sys.version_info[:3]))


@dataclass(frozen=True)
class Inner:
    width: int = 3
    cache: str = field(default="here", metadata={"protocol": False})


@dataclass(frozen=True)
class Outer:
    sizes: tuple[int, ...] = (1, 2)
    folder: Path = field(default=Path("here"), metadata={"protocol": False})
    inner: Inner = Inner()


def test_protocol_is_made_of_what_decides_the_result(toy: ModuleType) -> None:
    task = toy.TASK
    here = protocol(task, Outer(), {"candidates": 5})
    assert here["config"] == {"sizes": [1, 2], "inner": {"width": 3}}
    assert here["settings"] == {"candidates": 5}
    elsewhere = protocol(task, Outer(folder=Path("there"), inner=Inner(cache="there")), {"candidates": 5})
    assert fingerprint(elsewhere) == fingerprint(here)
    for other in (
        protocol(task, Outer(inner=Inner(width=4)), {"candidates": 5}),
        protocol(task, Outer(), {"candidates": 6}),
        protocol(dataclasses.replace(task, version=2), Outer(), {"candidates": 5}),
        protocol(dataclasses.replace(task, data_label=lambda config: "other"), Outer(), {"candidates": 5}),
    ):
        assert fingerprint(other) != fingerprint(here)


def test_protocol_is_read_back_as_it_was_planned(job: Callable[..., Job]) -> None:
    planned = job("random_search").protocol()
    assert json.loads(json.dumps(planned)) == planned


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Everything:
    whole: int = 1
    real: float = 0.5
    yes: bool = True
    text: str = "a"
    maybe: int | None = None
    kind: Literal["a", "b"] = "b"
    many: tuple[int, ...] = (1, 2)
    pair: tuple[str, float] = ("a", 1.0)
    nested: Inner = Inner(width=4)
    choice: Inner | Outer | None = Outer(sizes=())
    colour: Colour = Colour.RED
    path: Path = Path("a/b")
    table: Mapping[str, int] = field(default_factory=lambda: {"a": 1})
    secret: str = field(default="here", metadata={"protocol": False})


def test_a_config_is_rebuilt_from_its_protocol(toy: ModuleType) -> None:
    for config in (
        Everything(),
        Everything(maybe=3, many=(), choice=None, secret="here"),
        *(tasks.load(name).presets["tiny"] for name in ("action_segmentation",)),
        toy.Config(epochs=3),
    ):
        stored = json.loads(json.dumps(protocol(toy.TASK, config, {})["config"]))
        assert rebuild(type(config), stored) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "config has no field extra here"),
        ({"secret": "there"}, "config has no field secret here"),
        ({"whole": "1"}, "config.whole is '1', which is no int"),
        ({"whole": True}, "config.whole is True, which is no int"),
        ({"real": "x"}, "config.real is 'x', which is no float"),
        ({"kind": "c"}, "config.kind is 'c'"),
        ({"many": [1, "2"]}, r"config.many\[1\] is '2', which is no int"),
        ({"pair": ["a"]}, "config.pair is"),
        ({"nested": {"width": 4, "depth": 1}}, "config.nested has no field depth here"),
        ({"nested": {}}, "config.nested lacks the field width"),
        ({"nested": 3}, "config.nested is 3, which is no Inner"),
        ({"maybe": "x"}, "config.maybe is 'x'"),
        ({"colour": "blue"}, "'blue' is not a valid Colour"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_field(toy: ModuleType, change: dict, message: str) -> None:
    stored = protocol(toy.TASK, Everything(), {})["config"]
    with pytest.raises(ValueError, match=message):
        rebuild(Everything, stored | change)
    del stored["text"]
    with pytest.raises(ValueError, match="config lacks the field text"):
        rebuild(Everything, stored)


def test_protocol_refuses_values_without_json_form(toy: ModuleType) -> None:
    with pytest.raises(TypeError, match=r"config\.sizes\[1\] is a function"):
        protocol(toy.TASK, Outer(sizes=(1, lambda: 2)), {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": METRICS | {"loss": float("nan")}}, r"metrics of toy .* not finite: loss"),
        ({"metrics_last": METRICS | {"loss": float("inf")}}, r"metrics_last of toy .* not finite: loss"),
        ({"validation": {"accuracy": 1.0}}, r"validation of toy .* has \['accuracy'\], not"),
        ({"metrics": None}, "metrics of toy"),
        ({"status": "failed"}, "'failed' with a reason"),
        ({"status": "fine"}, "status must be"),
    ],
)
def test_a_record_is_sound_or_refused(done: Record, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(done, **change)


def test_a_failed_record_needs_no_metrics(job: Callable[..., Job], tmp_path: Path) -> None:
    failed = make_record(job(), "2026-01-01T00:00:00+00:00", reason="out of memory")
    assert record.read(record.write(failed, tmp_path)) == failed
    assert failed.metrics is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a readable record"),
        (lambda text: "", "not a readable record"),
        (lambda text: "[]", r"not a record of schema 1 \(found 'list'\)"),
        (lambda text: text.replace('"schema": 1', '"schema": 99'), r"\(found 99\)"),
        (lambda text: text.replace('"command"', '"commando"'), "commando"),
        (lambda text: text.replace('"status": "done"', '"status": "maybe"'), "status must be"),
        (lambda text: text.replace('"accuracy": 90.0', '"accuracy": NaN'), "not finite"),
        (lambda text: text.replace('"metrics": {', '"metrics": 7, "more": {'), "not a whole record"),
        (lambda text: text.replace('"fold": 1', '"fold": 3'), "holds the record of toy tiny baseline fold 3"),
    ],
)
def test_a_broken_file_is_named(done: Record, tmp_path: Path, damage: Callable[[str], str], message: str) -> None:
    path = record.write(done, tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(RecordError, match=message) as error:
        record.read(path)
    assert str(path) in str(error.value)
    assert "delete the file" in str(error.value)
    records, broken = record.read_all(tmp_path)
    assert records == []
    assert list(broken) == [path]


def test_a_cell_is_kept_only_if_it_is_done_by_the_planned_protocol(
    done: Record, job: Callable[..., Job], toy: ModuleType, tmp_path: Path
) -> None:
    planned = job().protocol()
    assert record.kept(done.cell, planned, tmp_path) is None
    path = record.write(done, tmp_path)
    assert record.kept(done.cell, planned, tmp_path) == done
    assert record.kept(done.cell, job(config=toy.Config(epochs=6)).protocol(), tmp_path) is None
    path.write_text("{")
    assert record.kept(done.cell, planned, tmp_path) is None
    record.write(make_record(job(), "now", reason="killed"), tmp_path)
    assert record.kept(done.cell, planned, tmp_path) is None


def test_a_record_that_came_from_elsewhere_is_kept_only_on_request(
    done: Record, job: Callable[..., Job], tmp_path: Path
) -> None:
    planned = job().protocol()
    made_there = record.write(done, tmp_path / "there").read_bytes()
    path = done.cell.path(tmp_path / "here")
    path.parent.mkdir(parents=True)
    path.write_bytes(made_there)  # a fresh clone, or a copy from a cluster
    assert record.kept(done.cell, planned, tmp_path / "here") is None
    assert record.kept(done.cell, planned, tmp_path / "here", elsewhere=True) == done
    record.write(dataclasses.replace(done, evaluation_seconds=9.0), tmp_path / "here")
    path.write_bytes(made_there)  # git restored the committed one over our own
    assert record.kept(done.cell, planned, tmp_path / "here") is None


def test_a_full_disk_keeps_the_old_record_and_leaves_nothing_behind(done: Record, tmp_path: Path) -> None:
    path = record.write(done, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))  # the kernel refuses to let a file grow beyond that
    try:
        with pytest.raises(OSError, match="cannot write") as error:
            record.write(dataclasses.replace(done, seed=0, command="another"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(error.value)
    assert record.read(path) == done
    assert [file.name for file in path.parent.iterdir()] == [path.name]


HOLDER = """
import sys, time
from pathlib import Path
from benchmarks.record import claim
with claim(Path(sys.argv[1]), wait=True):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_holds_between_processes_and_dies_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "cell.lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], cwd=record.ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(Busy, match=f"process {holder.pid} on"), claim(path, wait=False):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with claim(path, wait=False):
        assert path.exists()


def test_the_work_folder_hides_itself_from_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    work = record.work_folder(tmp_path / "results")
    (work / "toy").mkdir()
    (work / "toy" / "last.ckpt").write_bytes(b"large")
    status = subprocess.run(
        ["git", "-C", str(tmp_path), "status", "--porcelain"], check=True, capture_output=True, text=True
    )
    assert status.stdout == ""


def test_metric_specs_travel_with_the_record(done: Record, tmp_path: Path) -> None:
    found = record.read(record.write(done, tmp_path))
    assert found.metric_specs == [Metric("accuracy"), Metric("loss", False, 3, "nats")]
