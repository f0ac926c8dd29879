"""The reader, its batches and result files, and the embedded seglearn sessions."""

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from tasks.action_segmentation import seglearn_sessions
from tasks.action_segmentation.check import check
from tasks.action_segmentation.data import (
    IGNORED,
    Video,
    carve_validation,
    collate,
    open_dataset,
    read_prediction,
    upsample,
    write_prediction,
)
from tasks.spec import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "action_segmentation" / "50salads_svm_1fps"
VIDEOS = [f"s{subject}_{take}" for subject in range(1, 6) for take in "ab"]
LENGTHS = {video: 100 + 7 * k for k, video in enumerate(VIDEOS)}
CLASSES = ("cut", "mix", "background")


@pytest.fixture
def root(tmp_path):
    """Ten videos of five subjects; fold 1 tests the last one. Every frame's features tell its number."""
    for folder in ("features", "groundTruth", "splits"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("2 background\n0 cut\n1 mix\n")
    for video, length in LENGTHS.items():
        features = np.arange(4)[:, None] * 1000.0 + np.arange(length)
        np.save(tmp_path / f"features/{video}.npy", features)
        names = [CLASSES[t // 10 % 3] for t in range(length)]
        (tmp_path / f"groundTruth/{video}.txt").write_text("\n".join(names) + "\n")
    for part, videos in (("train", VIDEOS[:8]), ("test", VIDEOS[8:])):
        (tmp_path / f"splits/{part}.split1.bundle").write_text("".join(f"{v}.txt\n" for v in videos))
    return tmp_path


def test_reads_features_and_labels(root):
    dataset = open_dataset(root, fold=1)
    assert (dataset.classes, dataset.feature_size) == (CLASSES, 4)
    assert dataset.test.names == ("s5_a", "s5_b")
    assert sorted(dataset.train.names + dataset.validation.names) == VIDEOS[:8]
    video = dataset.part("test")[1]
    assert (video.name, video.features.shape) == ("s5_b", (4, LENGTHS["s5_b"]))
    assert video.features.dtype == np.float32
    assert video.labels.dtype == np.int64
    np.testing.assert_array_equal(video.features[2], 2000 + np.arange(LENGTHS["s5_b"]))
    np.testing.assert_array_equal(video.full_labels, np.arange(LENGTHS["s5_b"]) // 10 % 3)
    assert [v.name for v in dataset.train] == list(dataset.train.names)


@pytest.mark.parametrize("stride", [1, 2, 3, 1000])
def test_stride_takes_every_nth_frame_and_upsample_undoes_it(root, stride):
    for video in open_dataset(root, fold=1, stride=stride).test:
        frames = LENGTHS[video.name]
        np.testing.assert_array_equal(video.features[0], np.arange(0, frames, stride))
        assert len(video.full_labels) == frames
        restored = upsample(video.labels, stride, frames)
        np.testing.assert_array_equal(restored, [video.full_labels[t // stride * stride] for t in range(frames)])
    with pytest.raises(ValueError, match="do not cover"):
        upsample(np.zeros(3), 2, 7)


def test_features_are_kept_up_to_the_budget(root):
    one = 4 * 4 * LENGTHS["s5_a"]
    kept = open_dataset(root, fold=1, cache_bytes=one).test
    first, second = kept[0].features, kept[1].features
    shutil.rmtree(root / "features")
    assert kept[0].features is first
    assert len(second) == 4
    with pytest.raises(DataError, match=r"s5_b\.npy: no such file"):
        kept[1]


def test_line_ends_and_blank_lines_at_the_end_do_not_matter(root):
    expected = open_dataset(root, fold=1)
    for path in [root / "mapping.txt", *root.glob("groundTruth/*"), *root.glob("splits/*")]:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n \r\n")
    dataset = open_dataset(root, fold=1)
    assert (dataset.classes, dataset.train.names) == (expected.classes, expected.train.names)
    np.testing.assert_array_equal(dataset.test[0].full_labels, expected.test[0].full_labels)


def test_reads_real_features():
    if not SHARED.is_dir():
        pytest.skip(f"no real features in {SHARED}")
    dataset = open_dataset(SHARED, fold=2, group=r"rgb-\d+")
    parts = dataset.train, dataset.validation, dataset.test
    assert [len(part) for part in parts] == [32, 8, 10]
    subjects = [{video.name[:6] for video in part} for part in parts]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == 25
    assert (dataset.feature_size, len(dataset.classes)) == (28, 18)


class TestValidation:
    def test_keeps_groups_together_and_depends_on_the_fold_alone(self):
        videos = [f"P{subject:02d}_cam{camera}_P{subject:02d}_tea" for subject in range(3, 23) for camera in "123"]
        train, held_out = carve_validation(videos, fold=1, share=0.2, group=r"P\d+")
        assert (len(train), len(held_out)) == (48, 12)
        assert {v[:3] for v in train}.isdisjoint(v[:3] for v in held_out)
        assert carve_validation(videos[::-1], fold=1, group=r"P\d+") == (train[::-1], held_out[::-1])
        assert carve_validation(videos, fold=2, group=r"(P\d+)_")[1] != held_out

    def test_takes_whole_groups_as_near_to_the_share_as_they_allow(self):
        videos = [f"S{subject}_{take}" for subject in range(1, 4) for take in range(7)]  # GTEA: 3 of 4 subjects
        assert len(carve_validation(videos, fold=1, share=0.2, group=r"(S\d+)_")[1]) == 7
        assert len(carve_validation(videos, fold=1, share=0.99, group=r"S\d+")[1]) == 14
        assert len(carve_validation(videos, fold=1, share=0.2)[1]) == 4

    @pytest.mark.parametrize(
        ("videos", "arguments", "message"),
        [
            (["a"], {}, r"fold 1 has no validation video: the training videos \(1\) are of one group"),
            (["P1_a", "P1_b"], {"group": r"P\d"}, r"the training videos \(2\) are of one group"),
            (["a", "b"], {"group": "("}, "not a regular expression"),
            (["a", "b"], {"group": "S"}, "matches none of the training videos, such as 'a'"),
            (["a", "b"], {"share": 0.0}, "above 0 and below 1"),
            (["a", "b"], {"share": 1.0}, "above 0 and below 1"),
        ],
    )
    def test_refuses_an_empty_part(self, videos, arguments, message):
        with pytest.raises(ValueError, match=message):
            carve_validation(videos, fold=1, **arguments)


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
        lambda r: (r / "groundTruth/s5_a.txt").write_bytes(b"\xff\xfe\x00"),
        "groundTruth/s5_a.txt: not a text file (invalid start byte); save it as UTF-8",
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
        "features/s5_a.npy: features are 156 x 4, others have D = 4; save all as (D, T), not (T, D)",
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
        "features/s5_a.npy: feature 3 of frame 17 is nan (1 values are not finite)",
    ),
    "infinity": (
        lambda r: save(r / "features/s5_a.npy", with_value(-np.inf)),
        "features/s5_a.npy: feature 3 of frame 17 is -inf",
    ),
    "too large for float32": (
        lambda r: save(r / "features/s5_a.npy", with_value(1e300)),
        "features/s5_a.npy: feature 3 of frame 17 is inf",
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
    assert message in [str(problem) for problem in check(root).problems]
    assert not (root / "unpickled").exists()


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; give a folder with features/"):
        open_dataset(tmp_path / "nowhere", fold=1)


def test_no_such_fold(root):
    with pytest.raises(DataError, match=r"train\.split3\.bundle: no such file; .*there are: 1"):
        open_dataset(root, fold=3)
    with pytest.raises(ValueError, match="stride is 0"):
        open_dataset(root, fold=1, stride=0)


def test_a_frame_too_many_is_cut_with_a_warning(root, caplog):
    """As in some releases; the check still names it."""
    edit(root / "groundTruth/s5_a.txt", line156="cut\nmix")
    save(root / "features/s5_b.npy", lambda x: np.concatenate([x, x[:, :1]], axis=1))
    test = open_dataset(root, fold=1).test
    assert [len(video.full_labels) for video in test] == [156, 163]
    assert [video.features.shape[1] for video in test] == [156, 163]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "s5_a.txt:157: 157 labels" in caplog.text
    assert len(check(root).problems) == 2


class TestCollate:
    videos = tuple(Video(f"v{n}", np.full((2, n), float(n), np.float32), np.full(n, n), np.full(n, n)) for n in (3, 5))

    @pytest.mark.parametrize(("pad_to", "frames"), [(None, 5), (8, 8)])
    def test_pads_at_the_end(self, pad_to, frames):
        batch = collate(self.videos, pad_to)
        assert batch.features.shape == (2, 2, frames)
        assert (batch.features.dtype, batch.labels.dtype, batch.mask.dtype) == (
            torch.float32,
            torch.int64,
            torch.bool,
        )
        for k, length in enumerate((3, 5)):
            assert batch.mask[k, 0].tolist() == [t < length for t in range(frames)]
            assert batch.labels[k].tolist() == [length] * length + [IGNORED] * (frames - length)
            assert batch.features[k, 0].tolist() == [length] * length + [0] * (frames - length)

    def test_refuses_what_does_not_fit(self):
        with pytest.raises(ValueError, match=r"cannot pad videos of \[3, 5\] frames to 4"):
            collate(self.videos, 4)
        with pytest.raises(ValueError, match="cannot pad"):
            collate([])


class TestResultFiles:
    def test_round_trip(self, tmp_path):
        path = tmp_path / "results" / "video"
        write_prediction(path, np.array(["cut", "cut", "mix"]))
        assert path.read_text() == "### Frame level recognition: ###\ncut cut mix"
        assert read_prediction(path) == ["cut", "cut", "mix"]

    @pytest.mark.parametrize("text", ["a b\tb", "a\nb\nb\n\n", "# header\r\na b b\r\n", "\ufeffa b b"])
    def test_reads_what_other_tools_write(self, tmp_path, text):
        (tmp_path / "video.txt").write_text(text, encoding="utf-8")
        assert read_prediction(tmp_path / "video.txt") == ["a", "b", "b"]

    @pytest.mark.parametrize("text", ["", "\n\n", "### Frame level recognition: ###\n"])
    def test_refuses_an_empty_file(self, tmp_path, text):
        (tmp_path / "video").write_text(text)
        with pytest.raises(DataError, match="video:1: no frame is labelled"):
            read_prediction(tmp_path / "video")

    @pytest.mark.parametrize("names", [[], ["two words"], [""], ["#a"]])
    def test_refuses_names_that_could_not_be_read_back(self, tmp_path, names):
        with pytest.raises(ValueError, match="cannot be written as a class name"):
            write_prediction(tmp_path / "video", names)
        assert not (tmp_path / "video").exists()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


class TestSeglearnSessions:
    @pytest.fixture
    def folder(self, cache, monkeypatch):
        monkeypatch.setenv("RFNEXT_CACHE", str(cache))
        return seglearn_sessions.prepare()

    def test_is_a_valid_data_folder(self, folder):
        findings = check(folder)
        assert findings.problems == ()
        assert (findings.videos, findings.feature_size, findings.classes) == (60, 12, 7)
        assert findings.folds == seglearn_sessions.FOLDS
        tested = [open_dataset(folder, fold=fold).test.names for fold in findings.folds]
        assert len({name for names in tested for name in names}) == sum(map(len, tested)) == 60

    def test_leaves_subjects_out(self, folder):
        dataset = open_dataset(folder, fold=2, group=seglearn_sessions.GROUP)
        subjects = [{name.split("_")[0] for name in p.names} for p in (dataset.train, dataset.validation, dataset.test)]
        assert [len(found) for found in subjects] == [6, 2, 2]
        assert len(set.union(*subjects)) == 10
        assert subjects[2] == {"subject03", "subject04"}

    def test_every_sample_is_used_once_under_its_label(self, folder):
        """Frames are looked up in the recordings themselves, by windows of five samples."""
        recordings = seglearn_sessions._load(seglearn_sessions.source())
        dataset = open_dataset(folder, fold=1)
        lengths = dict.fromkeys(recordings, 0)
        for video in dataset.test:
            subject, side, _ = video.name.split("_")
            changes = np.flatnonzero(np.diff(video.full_labels)) + 1
            pieces = zip(np.split(video.full_labels, changes), np.split(video.features, changes, axis=1), strict=True)
            for labels, frames in pieces:
                key = int(subject.removeprefix("subject")), side, dataset.classes[labels[0]]
                lengths[key] += frames.shape[1]
                means = np.stack([recordings[key][k : k + 5].mean(axis=0) for k in range(len(recordings[key]) - 4)])
                start = np.abs(means - frames[:6, 0]).sum(axis=1).argmin()
                found = means[start : start + 5 * frames.shape[1] : 5].T
                np.testing.assert_allclose(frames[:6], found, rtol=0, atol=1e-6)
        for key in (key for key in recordings if key[0] in (1, 2)):
            # At most one incomplete window is lost at the end of each of the three bouts.
            assert 0 <= len(recordings[key]) // 5 - lengths[key] <= 3

    def test_is_made_once_and_always_the_same(self, folder, tmp_path, monkeypatch):
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        assert seglearn_sessions.prepare() == folder
        assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "other"))
        again = seglearn_sessions.prepare()
        for path in (path for path in folder.rglob("*") if path.is_file()):
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes()

    def test_several_builders_do_not_disturb_each_other(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
        barrier = Barrier(3)
        load = seglearn_sessions._load
        # Nobody has looked for the folder in vain before everybody has.
        monkeypatch.setattr(seglearn_sessions, "_load", lambda path: (barrier.wait(60), load(path))[1])
        with ThreadPoolExecutor(3) as pool:
            folders = {future.result() for future in [pool.submit(seglearn_sessions.prepare) for _ in range(3)]}
        assert [*tmp_path.iterdir()] == [*folders]
        assert check(folders.pop(), fold=1).problems == ()

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
        saved = []

        def fill_up(path, array):
            saved.append(path)
            if len(saved) == 5:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr(np, "save", fill_up)
        with pytest.raises(OSError, match="No space left on device"):
            seglearn_sessions.prepare()
        assert [*tmp_path.iterdir()] == []

    def test_another_file_is_refused_unread(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        fake = tmp_path / "watch_dataset.npy"
        np.save(fake, np.array(Evil(), dtype=object), allow_pickle=True)
        monkeypatch.setattr(seglearn_sessions, "source", lambda: fake)
        with pytest.raises(DataError, match=r"watch_dataset\.npy: not the file of seglearn 1\.2\.5; pip install"):
            seglearn_sessions.prepare()
        assert not (tmp_path / "unpickled").exists()

    def test_missing_seglearn(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(DataError, match=r"pip install seglearn==1\.2\.5"):
            seglearn_sessions.source()

    def test_cache_folder(self, monkeypatch):
        monkeypatch.delenv("RFNEXT_CACHE", raising=False)
        assert seglearn_sessions.cache_folder() == Path.home() / ".cache" / "rfnext"
