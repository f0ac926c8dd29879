"""Features that do not fit their labels: what is said, and that what is said mends it."""

import logging
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tasks.action_segmentation.check import check
from tasks.action_segmentation.data import open_dataset, upsample
from tasks.action_segmentation.ms_tcn_format.lengths import EVERY_FRAME, Sampling, difference, nearest, stride_of
from tasks.action_segmentation.predict import check_video
from tasks.spec import DataError

COUNTS = (100, 107, 114, 121, 135)


def make(root, shapes, counts=COUNTS):
    """Videos v0, v1, ... with the given shapes of features and numbers of labels; v0 and v1 are tested."""
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("0 cut\n1 mix\n")
    for k, (shape, count) in enumerate(zip(shapes, counts, strict=True)):
        np.save(root / f"features/v{k}.npy", k + np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
        (root / f"groundTruth/v{k}.txt").write_text("cut\n" * count)
    names = [f"v{k}.txt\n" for k in range(len(counts))]
    (root / "splits/test.split1.bundle").write_text("".join(names[:2]))
    (root / "splits/train.split1.bundle").write_text("".join(names[2:]))
    return root


def said(root, sampling=EVERY_FRAME):
    """The one problem of a folder, which a training stops at, too."""
    (problem,) = check(root, sampling=sampling).findings.problems
    with pytest.raises(DataError) as caught:
        open_dataset(root, fold=1, sampling=sampling)
    assert str(caught.value) == str(problem)
    return problem


def options(fix):
    """The sampling that a message advises."""
    found = {name: int(value) for name, value in re.findall(r"--(feature-stride|length-tolerance) (\d+)", fix)}
    return Sampling(feature_stride=found.get("feature-stride", 1), tolerance=found.get("length-tolerance", 0))


@pytest.mark.parametrize(
    ("vectors", "labels", "stride", "expected"),
    [
        (9, 9, 1, 0),
        (7, 9, 1, -2),
        (12, 9, 1, 3),
        (3, 9, 4, 0),  # frames 0 to 3, 4 to 7, and 8
        (2, 9, 4, -1),
        (1, 9, 4, -5),
        (4, 9, 4, 4),
        (2, 8, 4, 0),
    ],
)
def test_difference(vectors, labels, stride, expected):
    assert difference(vectors, labels, stride) == expected


class TestTransposed:
    @pytest.mark.parametrize(
        ("name", "shapes", "counts", "wrong"),
        [
            ("all", [(n, 16) for n in COUNTS], COUNTS, 5),
            ("all, of one length", [(96, 16)] * 5, [96] * 5, 5),
            ("some", [(n, 16) if n % 2 else (16, n) for n in COUNTS], COUNTS, 3),
            ("one", [(n, 16) if n == 107 else (16, n) for n in COUNTS], COUNTS, 1),
            ("all, one square", [(n, 107) for n in COUNTS], COUNTS, 4),
            (
                "some, one square",
                [(107, 107), (107, 107), (114, 107), (107, 121), (107, 135)],
                (107, 107, *COUNTS[2:]),
                1,
            ),
            ("short, too", [(n - 7, 16) for n in COUNTS], COUNTS, 5),
            ("a folder with a space and 'quotes'", [(n, 16) for n in COUNTS], COUNTS, 5),
        ],
    )
    def test_the_command_mends_it(self, tmp_path, name, shapes, counts, wrong):
        root = make(tmp_path / name, shapes, counts)
        before = {path: np.load(path) for path in (root / "features").iterdir()}
        problem = said(root)
        assert "these are (frames, features)" in problem.what
        assert f"in {wrong} of 5 videos" in problem.what
        assert "cut" not in problem.fix
        words = shlex.split(problem.fix.partition(": ")[2])
        assert words[:2] == ["python", "-c"]
        subprocess.run([sys.executable, *words[1:3]], check=True)
        problems = check(root).findings.problems
        assert not any("(frames, features)" in later.what for later in problems)
        assert bool(problems) == (name == "short, too")
        size = 107 if "square" in name else 16
        for path, features in before.items():
            after = np.load(path)
            assert after.shape[0] == size
            turned = features.shape[0] != size or name == "all, one square"
            np.testing.assert_array_equal(after, features.T if turned else features)

    def test_either_reading_is_named_where_nothing_decides(self, tmp_path):
        problem = said(make(tmp_path / "a", [(96, 24)] * 4, [96] * 4))
        assert "if D is 96, there is one vector per 4 frames: give --feature-stride 4" in problem.fix
        assert "--feature-stride" not in said(make(tmp_path / "b", [(n, 24) for n in COUNTS])).fix

    def test_the_size_of_the_features_may_be_a_number_of_frames(self, tmp_path):
        assert not check(make(tmp_path, [(107, n) for n in COUNTS])).findings.problems


class TestStride:
    @pytest.mark.parametrize("stride", [2, 3, 4])
    @pytest.mark.parametrize(
        ("name", "vectors", "tolerance"),
        [
            ("every n-th", lambda n, k: -(-n // k), 0),
            ("whole clips", lambda n, k: n // k, None),
            ("two vectors short", lambda n, k: -(-n // k) - 2, None),
        ],
    )
    def test_the_options_mend_it(self, tmp_path, stride, name, vectors, tolerance):
        root = make(tmp_path, [(2048, vectors(n, stride)) for n in COUNTS])
        problem = said(root)
        sampling = options(problem.fix)
        assert f"one per {stride} frames, not per frame (in 5 of 5 videos)" in problem.what
        assert sampling.feature_stride == stride
        if tolerance is not None:
            assert sampling.tolerance == tolerance
        assert sampling.tolerance < 3 * stride
        assert not check(root, sampling=sampling).findings.problems

    def test_features_whose_size_is_like_a_number_of_labels(self, tmp_path):
        assert options(said(make(tmp_path, [(107, -(-n // 4)) for n in COUNTS])).fix) == Sampling(feature_stride=4)

    def test_the_other_stride_is_explained(self, tmp_path):
        root = make(tmp_path, [(16, -(-n // 4)) for n in COUNTS])
        with pytest.raises(DataError, match=r"give --feature-stride 4 \(--stride counts feature vectors: with 4"):
            open_dataset(root, fold=1, sampling=Sampling(stride=4))

    def test_a_stride_that_is_none(self, tmp_path):
        problem = said(make(tmp_path, [(16, n) for n in COUNTS]), Sampling(feature_stride=4))
        assert "one per frame, not per 4 frames (in 5 of 5 videos)" in problem.what
        assert problem.fix == "give --feature-stride 1"

    @pytest.mark.parametrize(
        ("vectors", "expected"),
        [
            ([50, 54, 114, 121, 135], r"labels per vector are 1 \(in 3\) and .*extract the features of v0, v1 again"),
            ([25, 54, 38, 121, 27], r"labels per vector are between 1 and 5 in 5 videos; .* of v2, v4, v0, v1 again"),
            ([round(n / 1.2) for n in COUNTS], r"1\.2 labels per vector, about the same in all 5.*frame rates"),
            ([30 * n for n in COUNTS], r"0\.0333 labels per vector, about the same in all 5 videos.*frame rates"),
            ([40] * 5, r"has 40 feature vectors, as all 5 videos have.*rather than a fixed number per video"),
        ],
    )
    def test_no_stride_explains_it(self, tmp_path, vectors, expected):
        problem = said(make(tmp_path, [(16, n) for n in vectors]))
        assert re.search(expected, f"{problem.what}; {problem.fix}")
        assert ("--" in problem.fix) == ("frame rates" in problem.fix)


class TestTolerance:
    @pytest.mark.parametrize(
        ("off", "differ", "need"),
        [((-7,) * 5, 5, 7), ((-1,) * 5, 5, 1), ((3,) * 5, 5, 3), ((0, 0, -2, 0, 0), 1, 2), ((-6, 0, 5, 0, 1), 3, 6)],
    )
    def test_is_off_by_default_and_named(self, tmp_path, caplog, off, differ, need):
        root = make(tmp_path, [(16, n + d) for n, d in zip(COUNTS, off, strict=True)])
        problem = said(root)
        assert f"{differ} of 5 videos differ, by up to {need} frames" in problem.what
        assert problem.fix.endswith(f"accept it by --length-tolerance {need}")
        with pytest.raises(DataError, match=f"--length-tolerance {need}"):
            open_dataset(root, fold=1, sampling=Sampling(tolerance=need - 1))
        assert not caplog.records
        dataset = open_dataset(root, fold=1, sampling=Sampling(tolerance=need))
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"differ in {differ} of 5 videos, by up to {need} frames" in record.message
        for number, video in enumerate(dataset.test):
            common = min(COUNTS[number], COUNTS[number] + off[number])
            assert video.features.shape == (16, common)
            assert (len(video.labels), len(video.full_labels)) == (common, COUNTS[number])

    def test_nothing_is_said_of_features_that_fit(self, tmp_path, caplog):
        open_dataset(make(tmp_path, [(16, n) for n in COUNTS]), fold=1, sampling=Sampling(tolerance=7))
        assert not caplog.records


def test_features_and_labels_are_of_the_same_frames(tmp_path):
    """One vector per 4 frames, every third used: frames 0, 12, 24, ... of the labels."""
    root = make(tmp_path, [(2, -(-n // 4)) for n in COUNTS])
    (root / "mapping.txt").write_text("".join(f"{k} c{k}\n" for k in range(200)))
    for k, count in enumerate(COUNTS):
        np.save(root / f"features/v{k}.npy", np.tile(np.arange(0, count, 4), (2, 1)))  # the number of the frame
        (root / f"groundTruth/v{k}.txt").write_text("".join(f"c{t}\n" for t in range(count)))
    dataset = open_dataset(root, fold=1, sampling=Sampling(stride=3, feature_stride=4))
    assert dataset.step == 12
    for video in dataset.test:
        assert video.labels.tolist() == list(range(0, len(video.full_labels), 12))
        assert video.features[1].tolist() == video.labels.tolist()


class TestRates:
    def test_a_vector_gets_the_label_nearest_in_time(self, tmp_path):
        """Features at 2 a second, labels at 5: at 0, 0.5, 1, ... seconds, labels 0, 2.5, 5, 7.5, ...; halves go up."""
        counts = (20, 21, 22, 25, 30)
        root = make(tmp_path / "data", [(4, -(-2 * count // 5)) for count in counts], counts)
        for k, count in enumerate(counts):
            (root / f"groundTruth/v{k}.txt").write_text("".join(f"{'cut' if t < 8 else 'mix'}\n" for t in range(count)))
        dataset = open_dataset(root, fold=1, sampling=Sampling(feature_stride=stride_of("2/5")))
        first = dataset.test[0]
        # Labels 0, 3, 5, 8, 10, 13, 15, 18.
        assert first.labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
        # Frame t is of the vector that is nearest in time, of those at 0, 2.5, 5, 7.5, ...
        found = upsample(np.arange(8), dataset.step, 20)
        assert found.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7, 7, 7]

    @pytest.mark.parametrize("rate", ["15/25", "0.9", "2/5", "1/2", "1"])
    def test_a_frame_that_gave_its_label_to_a_vector_gets_the_vectors_class(self, rate):
        step, frames = stride_of(rate), 60
        vectors = int(frames / step)
        assert upsample(np.arange(vectors), step, frames)[nearest(vectors, step, frames)].tolist() == [*range(vectors)]

    def test_more_vectors_than_labels(self):
        assert nearest(5, stride_of("30/15"), 2).tolist() == [0, 1, 1, 1, 1]
        assert nearest(4, 3, 12).tolist() == [0, 3, 6, 9]
        assert stride_of("15/30") == stride_of("0.5") == 2

    @pytest.mark.parametrize(("rate", "frames"), [("30/15", 3), ("45/15", 2), ("2/5", 13), ("1/4", 20)])
    def test_every_vector_of_a_video_without_labels_is_of_a_frame(self, rate, frames, tmp_path):
        np.save(tmp_path / "v.npy", np.zeros((4, 5)))
        sampling = Sampling(feature_stride=stride_of(rate))
        assert check_video(tmp_path / "v.npy", 4, sampling).frames == frames
        assert len(upsample(np.arange(5), sampling.step, frames)) == frames

    def test_lengths_that_do_not_fit_the_rate(self, tmp_path):
        root = make(tmp_path / "data", [(4, count // 2) for count in COUNTS])
        sampling = Sampling(feature_stride=stride_of("0.6"))
        assert "one per 2 frames, not per 5/3 frames" in said(root, sampling).what
        rounded = make(tmp_path / "rounded", [(4, 3 * count // 5) for count in COUNTS])
        assert not check(rounded, sampling=sampling).findings.problems  # extractors round up or down
        assert "give them by --feature-rate" in said(rounded).fix

    @pytest.mark.parametrize("rate", ["0", "15/0", "nan", "a/b", "-1", "1/1000", ""])
    def test_what_is_no_rate(self, rate):
        with pytest.raises(ValueError, match="as in 15/25"):
            stride_of(rate)
