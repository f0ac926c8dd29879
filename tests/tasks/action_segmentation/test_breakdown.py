"""Scores of classes and videos, worked out by hand."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tasks.action_segmentation import breakdown, metrics
from tasks.action_segmentation.score import main

PAIRS = {
    # Predicted and true. v1: the first half of "cut" is missed, and "mix" is broken in two.
    "v1": (
        ["idle"] * 2 + ["mix"] * 3 + ["cut"] * 1 + ["mix"] * 2 + ["cut"] * 1 + ["mix"] * 1,
        ["idle"] * 2 + ["cut"] * 4 + ["mix"] * 4,
    ),
    "v2": (["mix"] * 5, ["mix"] * 5),
}


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    written = breakdown.write(PAIRS, tmp_path / "new", ["idle"], "i+1")
    assert sorted(written) == sorted((tmp_path / "new").iterdir())
    return tmp_path / "new"


def test_classes(folder):
    cut, idle, mix = read(folder / "classes.csv")
    assert [row["class"] for row in (cut, idle, mix)] == ["cut", "idle", "mix"]
    # Predicted "cut": frames 5 and 8; the first is right. Of its segments, 5 to 6 overlaps 2 to 6 by a quarter.
    assert (cut["frames"], cut["predicted frames"], cut["segments"], cut["predicted segments"]) == ("4", "2", "1", "2")
    numbers = [float(cut[key]) for key in ("precision", "recall", "iou", "f1@50")]
    assert numbers == pytest.approx([50, 25, 20, 0])
    # Predicted "mix": frames 2 to 4, 6, 7, 9 and all of v2. Segment 6 to 8 overlaps 6 to 10 by a half, v2's wholly.
    assert (mix["frames"], mix["predicted frames"], mix["segments"], mix["predicted segments"]) == ("9", "11", "2", "4")
    numbers = [float(mix[key]) for key in ("precision", "recall", "iou", "f1@50")]
    assert numbers == pytest.approx([100 * 8 / 11, 100 * 8 / 9, 100 * 8 / 12, 100 * 4 / 6])
    assert [float(idle[key]) for key in ("precision", "recall", "iou", "f1@50")] == [100] * 4


def test_counts_of_the_classes_add_up_to_the_published_score(folder):
    rows = [row for row in read(folder / "classes.csv") if row["class"] != "idle"]
    hits = sum(float(r["f1@50"]) / 100 * (int(r["segments"]) + int(r["predicted segments"])) / 2 for r in rows)
    total = sum(int(r["segments"]) + int(r["predicted segments"]) for r in rows)
    whole = metrics.score(PAIRS.values(), background=["idle"])
    assert 200 * hits / total == pytest.approx(whole["f1@50"])


def test_confusion(folder):
    rows = read(folder / "confusion.csv")
    assert [list(row.values()) for row in rows] == [
        ["cut", "1", "0", "3"],
        ["idle", "0", "2", "0"],
        ["mix", "1", "0", "8"],
    ]
    for name in ("confusion", "segments"):
        assert np.asarray(Image.open(folder / f"{name}.png").convert("L")).std() > 10


def test_videos(folder):
    first, second = read(folder / "videos.csv")
    assert (first["frames"], first["segments"], first["predicted segments"]) == ("10", "2", "5")
    assert float(first["predicted per true segment"]) == 2.5
    assert float(first["accuracy"]) == 60
    assert (second["accuracy"], second["edit"], second["f1@50"]) == ("100.0", "100.0", "100.0")


def test_command(tmp_path, capsys):
    for side, name in enumerate(("predicted", "groundTruth")):
        (tmp_path / name).mkdir()
        for video, pair in PAIRS.items():
            (tmp_path / name / f"{video}.txt").write_text("\n".join(pair[side]) + "\n")
    main([str(tmp_path / "predicted"), str(tmp_path / "groundTruth"), "--details", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert json.loads(printed.out)["accuracy"] == pytest.approx(100 * 11 / 15)
    assert "out/classes.csv" in printed.err
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="error: .*cannot write .*file"):
        main([str(tmp_path / "predicted"), str(tmp_path / "groundTruth"), "--details", str(tmp_path / "file")])
