"""Records of a toy table, written as the suite writes them."""

import base64
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tasks
from benchmarks.records import record
from benchmarks.records.record import Cost, Record
from benchmarks.report.build import build
from tasks.spec import Metric

METRICS = [Metric("accuracy"), Metric("loss", higher_is_better=False, decimals=3, unit="nats")]
WHEN = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def make() -> Callable[..., Record]:
    """Makes one record: accuracy given, or a reason for having none."""

    def one(method: str, fold: int, seed: int, accuracy: float | str, **other: Any) -> Record:
        config = {"epochs": 5, "width": 8, "search": {"spread": 0.5}} | other.pop("config", {})
        settings = other.pop("settings", {})
        fields: dict[str, Any] = {
            "task": "toy",
            "preset": "tiny",
            "protocol": {"task": "toy", "version": 1, "data": "signals", "config": config, "settings": settings},
            "metric_specs": METRICS,
            "data": "synthetic toy signals",
            "published": None,
            "device": {"type": "cpu", "name": "toy machine", "threads": 1},
            "versions": {"torch": "2"},
            "commit": "abc",
            "command": "python -m benchmarks.run",
            "started": WHEN,
            "finished": WHEN,
        }
        if isinstance(accuracy, str):
            fields |= {"status": "failed", "reason": accuracy}
        else:
            values = {"accuracy": accuracy, "loss": 1 - accuracy / 100}
            last = values | {"accuracy": accuracy - 1}
            cost = Cost(epochs=5, seconds=2.0 * fold, peak_memory_mb=500.0 + seed, memory_measure="resident")
            fields |= {"status": "done", "metrics": values, "metrics_last": last, "validation": values}
            fields |= {"training": cost}
        return Record(method=method, fold=fold, seed=seed, **(fields | other))

    return one


@pytest.fixture
def write(make: Callable[..., Record], results: Path) -> Callable[..., Record]:
    """Writes one whole record into the results folder."""

    def one(*cell: Any, **other: Any) -> Record:
        made = make(*cell, **other)
        record.write(made, results)
        return made

    return one


@pytest.fixture
def search() -> Cost:
    return Cost(epochs=5, seconds=3.0, peak_memory_mb=700.0, memory_measure="resident")


@pytest.fixture
def define(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes "toy" a task with suites and methods that it leaves out."""

    def one(*, suites: dict[str, tuple[str, ...]] | None = None, leaves_out: dict[str, str] | None = None) -> None:
        known = suites or {}
        task = SimpleNamespace(
            suites=known, leaves_out=leaves_out or {}, presets_of=lambda suite: known.get(suite, (suite,))
        )
        monkeypatch.setattr(tasks, "names", lambda: ["toy"])
        monkeypatch.setattr(tasks, "load", lambda name: task)

    return one


HISTORY = [
    {"step": step, "structure": {f"stages.{i // 3}.conv.{i % 3}": [2**i + step] for i in range(6)}} for step in range(4)
]
SCRIPT = 'RuntimeError: <script>alert(1)</script> & "quotes"'
"""Why a cell failed, as text that must not become markup."""

# One pixel.
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@pytest.fixture
def page(write: Callable[..., Record], results: Path, search: Cost) -> Callable[..., Path]:
    """Writes records of four methods on three folds, with searches and a picture, and makes the page.

    field: receptive field of all of them.
    """

    def make(field: dict[str, Any] | None = None) -> Path:
        picture = results / "figures/toy/tiny/local_single/test picture.png"
        picture.parent.mkdir(parents=True)
        picture.write_bytes(PICTURE)
        designed, found = HISTORY[0]["structure"], HISTORY[-1]["structure"]
        for fold in (1, 2, 3):
            write("baseline", fold, 0, 70.0 + fold, structure=designed, receptive_field=field)
            for method, gain in (("local_single", 2.0 + fold / 10), ("local_multi", (-1.0) ** fold)):
                named = [picture.relative_to(results).as_posix()] if (method, fold) == ("local_single", 1) else []
                fields = {"structure": found, "history": HISTORY, "search": search, "receptive_field": field}
                write(method, fold, 0, 70.0 + fold + gain, pictures=named, **fields)
        write("random_single", 1, 0, SCRIPT)
        _, errors = build(results)
        assert errors == []
        return results / "index.html"

    return make
