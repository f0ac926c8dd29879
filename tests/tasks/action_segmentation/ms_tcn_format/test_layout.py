"""Reading and checking a data folder: every kind of broken file, and what is tolerated."""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy

from tasks.action_segmentation.check import check
from tasks.action_segmentation.data import open_dataset
from tasks.spec import DataError


def test_line_ends_and_blank_lines_at_the_end_do_not_matter(root):
    expected = open_dataset(root, fold=1)
    for path in [root / "mapping.txt", *root.glob("groundTruth/*"), *root.glob("splits/*")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n \r\n")
    dataset = open_dataset(root, fold=1)
    assert (dataset.classes, dataset.train.names) == (expected.classes, expected.train.names)
    np.testing.assert_array_equal(dataset.test[0].full_labels, expected.test[0].full_labels)


def edit(path, **changes):
    """Replace lines of a text file; `{"line3": None}` takes the third one out."""
    lines: list[str | None] = list(path.read_text().splitlines())
    for key, text in changes.items():
        lines[int(key.removeprefix("line")) - 1] = text
    path.write_text("".join(f"{line}\n" for line in lines if line is not None))


def save(path, change):
    np.save(path, change(np.load(path)))


def with_value(value):
    def change(features):
        features[3, 17] = value
        return features

    return change


class Evil:
    """Would leave a file behind if it were ever unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


# What is broken (its function gets the data folder), and the whole of the problem.
BROKEN = {
    "no mapping": (lambda r: (r / "mapping.txt").unlink(), "mapping.txt: no such file; add it"),
    "empty mapping": (lambda r: (r / "mapping.txt").write_text("\n"), "mapping.txt:1: no class is listed"),
    "malformed mapping": (
        lambda r: edit(r / "mapping.txt", line2="cut"),
        "mapping.txt:2: 'cut' is not an index and a name",
    ),
    "class twice": (
        lambda r: edit(r / "mapping.txt", line3="1 cut"),
        "mapping.txt:3: class 'cut' is listed twice",
    ),
    "index twice": (
        lambda r: edit(r / "mapping.txt", line3="0 mix"),
        "mapping.txt:3: index 0 is already that of 'cut'; give every class its own index",
    ),
    "hole in the mapping": (
        lambda r: edit(r / "mapping.txt", line3="3 mix"),
        "mapping.txt:3: no class has index 1",
    ),
    "no bundle": (
        lambda r: (r / "splits/test.split1.bundle").unlink(),
        "splits/test.split1.bundle: no such file; add it or choose another fold (there are: 1)",
    ),
    "empty bundle": (
        lambda r: (r / "splits/test.split1.bundle").write_text(" \n"),
        "splits/test.split1.bundle:1: the bundle is empty",
    ),
    "video twice": (
        lambda r: edit(r / "splits/train.split1.bundle", line5="s1_b.txt"),
        "splits/train.split1.bundle:5: s1_b is already named in line 2",
    ),
    "video in train and test": (
        lambda r: edit(r / "splits/test.split1.bundle", line2="s2_a.txt"),
        "splits/test.split1.bundle:2: s2_a is also in the training part, train.split1.bundle:3",
    ),
    "path in a bundle": (
        lambda r: edit(r / "splits/test.split1.bundle", line2="../s2_a.txt"),
        "splits/test.split1.bundle:2: '../s2_a.txt' is not the name of a video",
    ),
    "no labels": (
        lambda r: (r / "groundTruth/s5_a.txt").unlink(),
        "groundTruth/s5_a.txt: no such file; add it or take s5_a out of the bundles",
    ),
    "zero labels": (
        lambda r: (r / "groundTruth/s5_a.txt").write_text(""),
        "groundTruth/s5_a.txt:1: no frame is labelled",
    ),
    "unknown label": (
        lambda r: edit(r / "groundTruth/s5_a.txt", line12="chop", line14="chop"),
        "groundTruth/s5_a.txt:12: 'chop' (2 of 156 lines) is no class of mapping.txt; correct it or add",
    ),
    "blank label": (
        lambda r: edit(r / "groundTruth/s5_a.txt", line12=""),
        "groundTruth/s5_a.txt:12: '' (1 of 156 lines) is no class of mapping.txt",
    ),
    "binary labels": (
        lambda r: (r / "groundTruth/s5_a.txt").write_bytes(b"\xff\xfe"),
        "groundTruth/s5_a.txt: not a text file of labels or names ('utf-8' codec can't decode byte 0xff",
    ),
    "labels with zero bytes": (
        lambda r: (r / "groundTruth/s5_a.txt").write_text("cut\n" * 156, "utf-16-le"),
        "groundTruth/s5_a.txt: not a text file of labels or names (it has zero bytes, so it is no text); save",
    ),
    "labels longer than any": (
        lambda r: (r / "groundTruth/s5_a.txt").write_bytes(b"cut\n" * (2**24 + 1)),
        "groundTruth/s5_a.txt: not a text file of labels or names (it has more than 67108864 bytes)",
    ),
    "all labels in one line": (
        lambda r: (r / "groundTruth/s5_a.txt").write_text("cut " * 156),
        "groundTruth/s5_a.txt:1: 'cut cut cut cut cut cut cut cut cut cut cut cut cut cut cut cut cut cut cut cut '...",
    ),
    "labels are a pipe": (
        lambda r: (r / "groundTruth/s5_a.txt").unlink() or os.mkfifo(r / "groundTruth/s5_a.txt"),
        "groundTruth/s5_a.txt: cannot be read (it is a pipe or a device, not a file)",
    ),
    "labels are a folder": (
        lambda r: (r / "groundTruth/s5_a.txt").unlink() or (r / "groundTruth/s5_a.txt").mkdir(),
        "groundTruth/s5_a.txt: cannot be read (Is a directory)",
    ),
    "too many labels": (
        lambda r: edit(r / "groundTruth/s5_a.txt", line156="cut\ncut\ncut"),
        "groundTruth/s5_a.txt:157: 158 labels, but",
    ),
    "too few labels": (
        lambda r: edit(r / "groundTruth/s5_a.txt", line1=None, line2=None),
        "groundTruth/s5_a.txt:154: 154 labels, but",
    ),
    "transposed features": (
        lambda r: save(r / "features/s5_a.npy", np.transpose),
        "features/s5_a.npy: features are 156 x 4 for 156 labels: these are (frames, features), as in 1 of 10 videos",
    ),
    "no features": (
        lambda r: (r / "features/s5_a.npy").unlink(),
        "features/s5_a.npy: no such file; add it or take s5_a out of the bundles",
    ),
    "zero frames": (
        lambda r: save(r / "features/s5_a.npy", lambda x: x[:, :0]),
        "features/s5_a.npy: ",
    ),
    "other D": (
        lambda r: save(r / "features/s5_a.npy", lambda x: x[:3]),
        "features/s5_a.npy: features are 3 x 156, others have D = 4",
    ),
    "one dimension": (
        lambda r: save(r / "features/s5_a.npy", lambda x: x[0]),
        "features/s5_a.npy: holds float64 of shape (156,), not (D, T) floats with at least one frame",
    ),
    "complex features": (
        lambda r: save(r / "features/s5_a.npy", lambda x: x * 1j),
        "features/s5_a.npy: holds complex128 of shape (4, 156)",
    ),
    "NaN": (
        lambda r: save(r / "features/s5_a.npy", with_value(np.nan)),
        "features/s5_a.npy: value 3 of feature vector 17 is nan (1 values are not finite)",
    ),
    "infinity": (
        lambda r: save(r / "features/s5_a.npy", with_value(-np.inf)),
        "features/s5_a.npy: value 3 of feature vector 17 is -inf",
    ),
    "too large for float32": (
        lambda r: save(r / "features/s5_a.npy", with_value(1e300)),
        "features/s5_a.npy: value 3 of feature vector 17 is inf",
    ),
    "pickled features": (
        lambda r: np.save(r / "features/s5_a.npy", np.array([[Evil()]], dtype=object), allow_pickle=True),
        "features/s5_a.npy: not a readable .npy file",
    ),
    "bare pickle": (
        lambda r: (r / "features/s5_a.npy").write_bytes(b"\x80\x04\x95"),
        "features/s5_a.npy: not a readable .npy file",
    ),
    "truncated features": (
        lambda r: os.truncate(r / "features/s5_a.npy", 1000),
        "features/s5_a.npy: not a readable .npy file",
    ),
    "empty features": (
        lambda r: os.truncate(r / "features/s5_a.npy", 0),
        "features/s5_a.npy: not a readable .npy file",
    ),
    "broken header": (
        lambda r: (r / "features/s5_a.npy").write_bytes(npy.magic(1, 0) + b"\x05\x00{'a':"),
        "features/s5_a.npy: not a readable .npy file",
    ),
}


def read_everything(root):
    dataset = open_dataset(root, fold=1)
    return [list(part) for part in (dataset.train, dataset.validation, dataset.test)]


@pytest.mark.parametrize("case", BROKEN)
def test_bad_data_is_one_error_for_the_reader_and_one_line_for_the_check(root, monkeypatch, case):
    monkeypatch.chdir(root)
    spoil, expected = BROKEN[case]
    spoil(root)
    with pytest.raises(DataError) as caught:
        read_everything(root)
    message = str(caught.value)
    assert message.startswith(str(root / expected))
    assert message in [str(problem) for problem in check(root).findings.problems]
    assert not (root / "unpickled").exists()


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; give a folder with features/"):
        open_dataset(tmp_path / "nowhere", fold=1)


def test_no_such_fold(root):
    with pytest.raises(DataError, match=r"train\.split3\.bundle: no such file; .*there are: 1"):
        open_dataset(root, fold=3)
