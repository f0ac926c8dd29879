"""Own data from end to end: real trainings on two folders of one name, and on one that changes in place."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import run, suite
from benchmarks.records.folder import read_all
from benchmarks.records.record import Record
from benchmarks.report.build import build

FIELDS = shlex.split("--stages 1 --layers 2 --maps 4 --epochs 2 --batch 2 --validate-every 2 --lr-drop-epoch None")


def write(root: Path, seed: int) -> Path:
    """Eight videos in the layout of the MS-TCN release, whose labels follow from the seed; one fold."""
    features, random = np.random.default_rng(0), np.random.default_rng(seed)
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("0 cut\n1 mix\n")
    for video in range(8):
        np.save(root / f"features/v{video}.npy", features.normal(size=(4, 60)).astype(np.float32))
        labels = np.repeat(random.choice(["cut", "mix"], size=6), 10)
        (root / f"groundTruth/v{video}.txt").write_text("\n".join(labels))
    for part, videos in (("train", range(6)), ("test", range(6, 8))):
        (root / f"splits/{part}.split1.bundle").write_text("".join(f"v{video}.txt\n" for video in videos))
    return root


def train(results: Path, root: Path, *options: str) -> Record:
    """Runs one cell in this process, and returns its record."""
    before = {record.key: record for record in read_all(results).all}
    where = ["--root", str(root), "--results", str(results)]
    assert run.main(["action_segmentation", "baseline", "--preset", "folder", *FIELDS, *where, *options]) == 0
    (made,) = [record for record in read_all(results).all if before.get(record.key) != record]
    assert made.status == "done"
    return made


def plan(results: Path, root: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    words = ["folder", "--task", "action_segmentation", "--method", "baseline", "--results", str(results), *options]
    capsys.readouterr()
    assert suite.main([*words, "--list", "--verbose", "--", *FIELDS, "--root", str(root)]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith(("done", "to run")))


@pytest.mark.slow
def test_data_is_known_by_its_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    results, a, b = tmp_path / "results", write(tmp_path / "a/mine", 1), write(tmp_path / "b/mine", 2)
    first, second = train(results, a), train(results, b)
    assert first.data == second.data == "own data in mine"
    assert first.metrics != second.metrics
    for one, root in ((first, a), (second, b)):
        assert re.fullmatch(r"folder-[0-9a-f]{6}-mine-[0-9a-f]{6}", one.preset)
        assert plan(results, root, capsys) == f"done {one.key}"
    assert first.preset != second.preset

    # Neither replaces the other, and each has a table of its own.
    written, errors = build(results)
    assert errors == []
    for one, other in ((first, second), (second, first)):
        table = results / f"action_segmentation-{one.preset}/table.md"
        assert table in written
        mine, theirs = (f" {record.metrics['accuracy']:.1f} " for record in (one, other) if record.metrics)
        assert mine in table.read_text()
        assert theirs not in table.read_text()

    # What no config reads does not count, nor where the data is and when it was written.
    (b / "README.md").write_text("about my data")
    (b / "mapping.txt").touch()
    assert plan(results, b, capsys) == f"done {second.key}"
    capsys.readouterr()
    path = second.key.path(results)
    assert run.main(["--from", str(path), "--root", str(shutil.copytree(b, tmp_path / "c/copy"))]) == 0
    assert "equal: " in capsys.readouterr().out
    assert run.main(["--from", str(path), "--root", str(a)]) == 2
    assert "data is 'files " in capsys.readouterr().err


@pytest.mark.slow
def test_data_that_changes_in_place_is_other_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    results, root = tmp_path / "results", write(tmp_path / "mine", 1)
    before = train(results, root, "--name", "ours")
    assert plan(results, root, capsys, "--name", "ours") == f"done {before.key}"

    shutil.copytree(write(tmp_path / "other", 2), root, dirs_exist_ok=True)
    since = f"data changed since the record of {before.finished[:16].replace('T', ' ')}"
    assert plan(results, root, capsys, "--name", "ours") == f"to run {before.key}: {since}"
    assert plan(results, root, capsys).endswith(f": {since} (in ours, where it stays)")

    # A table never mixes the two. What this process still has in memory of the old data is not used either.
    after = train(results, root, "--name", "ours", "--seed", "1")
    _, errors = build(results)
    assert len(errors) == 1
    assert "records of 2 protocols cannot share a table" in errors[0]
    again = train(results, root, "--name", "ours")
    assert build(results)[1] == []
    anew = write(tmp_path / "anew", 2)
    assert (again.metrics, after.metrics) == tuple(train(results, anew, "--seed", seed).metrics for seed in "01")
    assert again.metrics != before.metrics


@pytest.mark.slow
def test_features_that_end_early_are_trained_on_where_that_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    results, whole, short = tmp_path / "results", write(tmp_path / "whole", 1), write(tmp_path / "short", 1)
    for path in (short / "features").iterdir():
        np.save(path, np.load(path)[:, :-7])
    line = ["action_segmentation", "baseline", "--preset", "folder", *FIELDS, "--results", str(tmp_path / "refused")]
    assert run.main([*line, "--root", str(short)]) == 3
    assert "v0.npy has 53 feature vectors" in "".join(capsys.readouterr())
    accepted = "--length-tolerance", "7"
    same, other = train(results, whole, *accepted), train(results, short, *accepted)
    assert same.metrics == train(results, whole).metrics  # where nothing is missing, nothing changes
    assert other.metrics != same.metrics
