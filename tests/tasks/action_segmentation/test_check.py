"""The command line of the check; that each kind of bad data is named is tested with the reader, in
test_data.py."""

from pathlib import Path

import numpy as np
import pytest

from tasks.action_segmentation import seglearn_sessions
from tasks.action_segmentation.check import main

SHARED = Path(__file__).parents[4] / "shared" / "data" / "action_segmentation" / "50salads_svm_1fps"


@pytest.fixture
def root(tmp_path):
    """Two folds of four videos."""
    for folder in ("features", "groundTruth", "splits"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("0 cut\n1 mix\n")
    for number, video in enumerate("abcd"):
        np.save(tmp_path / f"features/{video}.npy", np.arange(60, dtype=np.float32).reshape(3, 20) + number)
        (tmp_path / f"groundTruth/{video}.txt").write_text("cut\n" * 12 + "mix\n" * 8)
    for fold, test in ((1, "a"), (2, "d")):
        train = "".join(f"{video}.txt\n" for video in "abcd" if video != test)
        (tmp_path / f"splits/train.split{fold}.bundle").write_text(train)
        (tmp_path / f"splits/test.split{fold}.bundle").write_text(f"{test}.txt\n")
    return tmp_path


def test_good_data_is_summed_up(root, capsys):
    assert main([str(root)]) == 0
    assert capsys.readouterr().out == "fine: 4 videos, 80 frames, 3 features, 2 classes, folds 1, 2\n"
    (root / "splits/train.split1.bundle").write_text("b.txt\nc.txt\n")
    assert main([str(root), "--fold", "1"]) == 0
    assert capsys.readouterr().out == "fine: 3 videos, 60 frames, 3 features, 2 classes, folds 1\n"


def test_every_problem_is_printed_in_one_run(root, capsys):
    (root / "mapping.txt").write_text("0 cut\n1 mix\none pour\n")
    (root / "splits/test.split2.bundle").write_text("d.txt\na.txt\n")
    (root / "features/a.npy").unlink()
    (root / "groundTruth/b.txt").write_text("cut\n" * 19 + "stir\n")
    (root / "groundTruth/c.txt").write_text("cut\n" * 19)
    np.save(root / "features/d.npy", np.full((3, 20), np.nan))
    assert main([str(root)]) == 1
    lines = capsys.readouterr().out.splitlines()
    expected = [
        "mapping.txt:3: 'one pour' is not an index and a name",
        "splits/test.split2.bundle:2: a is also in the training part, train.split2.bundle:1",
        "features/a.npy: no such file",
        "groundTruth/b.txt:20: 'stir' (1 of 20 lines) is no class of mapping.txt",
        "features/d.npy: value 0 of feature vector 0 is nan (60 values are not finite)",
        "groundTruth/c.txt:19: 19 labels, but",
    ]
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"{root}/{start}")
        assert "; " in line
    # The other fold is concerned by all but one of them.
    assert main([str(root), "--fold", "1"]) == 1
    assert capsys.readouterr().out.splitlines() == [line for line in lines if "bundle" not in line.split(":")[0]]


def test_takes_what_a_training_takes(root, capsys):
    for path in (root / "features").glob("*.npy"):
        np.save(path, np.load(path)[:, :9])
    assert main([str(root)]) == 1
    assert "give --feature-stride 2 --length-tolerance 2" in capsys.readouterr().out
    assert main([str(root), "--feature-stride", "2", "--length-tolerance", "2"]) == 0
    assert "fine: 4 videos, 80 frames, 3 features" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(root), "--length-tolerance", "-1"])
    assert "tolerance is -1; give 0 or more" in capsys.readouterr().err


def test_a_fold_without_a_validation_video(root, capsys):
    (root / "splits/train.split1.bundle").write_text("b.txt\n")
    assert main([str(root)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{root}/splits/train.split1.bundle:1: there is one training video, so none can be held out")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda r: [path.unlink() for path in r.glob("splits/*")],
            "splits: there is no bundle; add train.split1.bundle",
        ),
        (lambda r: (r / "splits/train.split2.bundle").unlink(), "splits/train.split2.bundle: no such file"),
        (lambda r: (r / "mapping.txt").unlink(), "mapping.txt: no such file"),
    ],
)
def test_one_missing_file_is_one_problem(root, capsys, spoil, expected):
    spoil(root)
    assert main([str(root)]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{root}/{expected}")


def test_features_that_say_nothing_of_their_video(root, capsys):
    np.save(root / "features/b.npy", np.full((3, 20), 0.5, np.float32))
    (root / "features/d.npy").write_bytes((root / "features/c.npy").read_bytes())
    assert main([str(root)]) == 1
    lines = sorted(line.partition("features/")[2] for line in capsys.readouterr().out.splitlines())
    assert [line.partition(";")[0] for line in lines] == [
        "b.npy: all 20 feature vectors are equal",
        "d.npy: holds the features of c.npy",
    ]


def test_a_missing_folder(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "nowhere: no such folder; give a folder with features/" in capsys.readouterr().out


def test_real_data_is_fine(capsys):
    if not SHARED.is_dir():
        pytest.skip(f"no real features in {SHARED}")
    assert main([str(SHARED)]) == 0
    assert "50 videos, 16596 frames, 28 features, 18 classes, folds 1, 2, 3, 4, 5" in capsys.readouterr().out


def test_the_embedded_default_is_fine(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
    assert main([str(seglearn_sessions.prepare())]) == 0
    assert "60 videos, 48648 frames, 12 features, 7 classes, folds 1, 2, 3, 4, 5" in capsys.readouterr().out
