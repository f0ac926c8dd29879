"""The published tables: published numbers as they are, ours where they were measured, what is missing in words."""

import csv
import io
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tasks
from benchmarks import suite
from benchmarks.arguments import parse_both
from benchmarks.methods.table import METHODS
from benchmarks.records.folder import read_all
from benchmarks.records.record import Record
from benchmarks.report.build import build
from benchmarks.report.gathered import published_rows
from benchmarks.report.paper_rows import TABLES
from tasks.spec import Metric

CONVNEXT = "coco_detection.convnext_t_cascade_mask_3x"


def rows(results: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(table, row) -> column -> mean or text, of the written CSV file."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in csv.DictReader(io.StringIO((results / "paper/table.csv").read_text("utf-8"))):
        found.setdefault((line["table"], line["row"]), {})[line["column"]] = line["mean"]
    return found


def of(results: Path, key: str, *words: str) -> dict[str, str]:
    """The first row of a table that has all these words."""
    return next(row for (table, name), row in rows(results).items() if table == key and {*words} <= {*name.split(", ")})


@pytest.fixture
def detector(write: Callable[..., Record]) -> Callable[..., Record]:
    """Writes the record of a detector: of the preset of COCO unless other fields are given."""

    def one(method: str, value: float, **other: Any) -> Record:
        values = {"box_mAP": value, "mask_mAP": value - 10}
        fields: dict[str, Any] = {"task": "coco_detection", "preset": "coco-convnext", "base": "coco-convnext"}
        fields |= {"protocol": {"task": "coco_detection", "version": 1, "data": "d", "config": {}, "settings": {}}}
        fields |= {"published": CONVNEXT, "data": "COCO 2017", "metric_specs": [Metric("box_mAP"), Metric("mask_mAP")]}
        fields |= {"metrics": values, "metrics_last": values, "validation": values}
        return write(method, 1, other.pop("seed", 0), 0.0, **fields | other)

    return one


def test_every_row_says_what_is_published_and_how_to_run_it(write: Callable[..., Record], results: Path) -> None:
    write("baseline", 1, 0, 70.0)
    build(results)
    text = (results / "paper/table.md").read_text("utf-8")
    known = rows(results)
    for table in TABLES:
        published = {row["name"]: row for row in published_rows(table.key, table.metrics)}
        assert {line.published for line in table.lines if line.published} == set(published)
        for line in table.lines:
            row = published.get(line.published or "", {"values": {}, "source": "none could be verified"})
            shown = known[table.key, ", ".join((*line.words, row["source"]))]
            for metric in table.metrics:
                value = row["values"].get(metric.name)
                assert shown[f"{metric.name} published"] == ("" if value is None else f"{value:g}")
                assert shown[f"{metric.name} ours"] == ""
            if line.method:
                assert shown["ours"].startswith(f"not run: needs {table.needs}")
                assert f"\n{table.command(line)} " in text


def test_the_commands_are_those_of_a_plan() -> None:
    for table in TABLES:
        task = tasks.load(table.task)
        config = task.presets[table.preset]
        assert len(task.folds(config)) == table.folds
        assert task.published(config) == table.key
        assert {metric.name for metric in table.metrics} <= {metric.name for metric in task.metrics_of(config)}
        for line in filter(lambda line: line.method, table.lines):
            assert line.method in METHODS
            words = shlex.split(table.command(line))
            given = words[words.index("--") + 1 :] if "--" in words else []
            _, made = parse_both(suite.Options, config, given, prog="suite")
            assert {name: getattr(made, name) for name in line.fields} == dict(line.fields)
            assert task.published(made) == table.key


def test_the_published_setting_fills_its_row_with_seeds_and_interval(
    detector: Callable[..., Record], results: Path
) -> None:
    for seed, value in enumerate((49.0, 50.0, 51.0)):
        detector("baseline", value, seed=seed)
    build(results)
    row = of(results, CONVNEXT, "NO")
    assert (row["box_mAP published"], row["box_mAP ours"], row["mask_mAP ours"]) == ("50.3", "50", "40")
    assert row["ours"].startswith("1 of 1 fold, seeds 0, 1, 2 ")
    assert "50.0 ± 2.5" in (results / "paper/table.md").read_text("utf-8")
    assert of(results, CONVNEXT, "Single-Branch")["ours"].startswith("not run")
    assert "1 of 30 rows" in (results / "paper/table.md").read_text("utf-8")


def test_other_data_and_settings_are_marked_and_give_way_to_the_published_ones(
    detector: Callable[..., Record], results: Path
) -> None:
    detector("baseline", 12.0, preset="coco-convnext-mine-0a1b2c", published=None, data="own data in mine")
    build(results)
    row = of(results, CONVNEXT, "NO")
    assert (row["box_mAP published"], row["box_mAP ours"]) == ("50.3", "12")
    assert "not the published data: own data in mine" in row["ours"]
    assert "0 of 30 rows" in (results / "paper/table.md").read_text("utf-8")
    fields = {"preset": "coco-convnext-ffffff", "overrides": {"epochs": 2}, "published": None}
    detector("baseline", 13.0, **fields, finished="2026-01-02T00:00:00+00:00")
    build(results)
    assert "changed: epochs=2" in of(results, CONVNEXT, "NO")["ours"]
    detector("baseline", 50.0)
    build(results)
    row = of(results, CONVNEXT, "NO")
    assert row["box_mAP ours"] == "50"
    assert "changed" not in row["ours"]
    assert "not the published data" not in row["ours"]


def test_a_network_of_another_row_fills_that_row_alone(write: Callable[..., Record], results: Path) -> None:
    values = dict.fromkeys(("f1@10", "f1@25", "f1@50", "edit", "accuracy"), 61.0)
    protocol = {"task": "action_segmentation", "version": 1, "data": "d", "config": {}, "settings": {}}
    fields = {"task": "action_segmentation", "protocol": protocol, "metric_specs": [Metric(name) for name in values]}
    fields |= {"metrics": values, "metrics_last": values, "validation": values}
    fields |= {"base": "gtea", "overrides": {"model": "ms_tcn_pp"}, "published": "action_segmentation.gtea"}
    write("baseline", 1, 0, 0.0, preset="gtea-123456", **fields)
    build(results)
    assert of(results, "action_segmentation.gtea", "MS-TCN++")["edit ours"] == "61"
    assert of(results, "action_segmentation.gtea", "MS-TCN++")["ours"].startswith("1 of 4 folds, seed 0 ")
    assert of(results, "action_segmentation.gtea", "MS-TCN")["ours"].startswith("not run")


def test_memory_of_searching_is_compared_where_it_was_measured_on_a_gpu(
    detector: Callable[..., Record], results: Path, search: Any
) -> None:
    on_gpu = {"peak_memory_mb": 40960.0, "memory_measure": "cuda"}
    detector("local_as_searched", 50.0, search=search.model_copy(update=on_gpu))
    detector("local_single", 50.0, search=search, training=search.model_copy(update=on_gpu | {"peak_memory_mb": 32768}))
    detector("baseline", 50.0, training=search.model_copy(update={"seconds": 2.5}))
    build(results)
    row = rows(results)["cost", "ConvNeXt on COCO"]
    assert [row[f"{name}, published"] for name in ("search", "single")] == ["11.9", "9.4"]
    assert [row[f"{name}, ours"] for name in ("search", "single", "search / single")] == ["40", "32", "1.25"]
    assert row["seconds: search / training, ours"] == "1.2"
    assert rows(results)["cost", "HRNet on COCO"]["search, ours"] == ""


def stand_in(root: Path) -> Path:
    """Six tiny videos in the layout of the MS-TCN release, one fold."""
    random = np.random.default_rng(0)
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("0 take\n1 pour\n")
    for video in range(6):
        np.save(root / f"features/S{video}_Tea.npy", random.normal(size=(4, 30)).astype(np.float32))
        (root / f"groundTruth/S{video}_Tea.txt").write_text("\n".join(["take"] * 12 + ["pour"] * 18))
    for part, videos in (("train", range(4)), ("test", range(4, 6))):
        (root / f"splits/{part}.split1.bundle").write_text("".join(f"S{video}_Tea.txt\n" for video in videos))
    return root


@pytest.mark.slow
def test_a_row_is_run_on_a_stand_in_and_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: Path) -> None:
    """The very command of the row, with a folder of the published layout that is not the published data."""
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    (table,) = [table for table in TABLES if table.preset == "gtea"]
    line = next(line for line in table.lines if line.published == "MS-TCN")
    _, _, preset, *words = shlex.split(table.command(line))
    data = ["--dataset", "folder", "--root", str(stand_in(tmp_path / "standin")), "--folds", "1"]
    words = [*words, "--seeds", "0", "--workers", "1", "--results", str(results)]
    assert suite.main([preset, *words, "--", *data]) == 0
    _, errors = build(results)
    assert errors == []
    (record,) = read_all(results).all
    assert (record.base, record.published) == ("gtea", None)
    assert record.metrics is not None
    row = of(results, table.key, "MS-TCN")
    for name, value in record.metrics.items():
        assert float(row[f"{name} ours"]) == pytest.approx(value, abs=1e-3)
    assert row["f1@10 published"] == "87.5"
    assert row["ours"].startswith("1 of 4 folds, seed 0; not the published data: own data in standin; changed: ")
    assert "0 of 30 rows" in (results / "paper/table.md").read_text("utf-8")
