"""The embedded data: real, complete, always the same, made once."""

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest

from tasks.action_segmentation import seglearn_sessions
from tasks.action_segmentation.check import check
from tasks.action_segmentation.data import open_dataset
from tasks.spec import DataError


class Evil:
    """Would leave a file behind if it were ever unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def test_is_a_valid_data_folder(embedded):
    found = check(embedded)
    assert found.findings.problems == []
    assert (found.videos, found.feature_size, found.classes) == (60, 12, 7)
    assert found.folds == seglearn_sessions.FOLDS
    tested = [open_dataset(embedded, fold=fold).test.names for fold in found.folds]
    assert len({name for names in tested for name in names}) == sum(map(len, tested)) == 60


def test_leaves_subjects_out(embedded):
    dataset = open_dataset(embedded, fold=2, group=seglearn_sessions.GROUP)
    subjects = [{name.split("_")[0] for name in p.names} for p in (dataset.train, dataset.validation, dataset.test)]
    assert [len(found) for found in subjects] == [6, 2, 2]
    assert len(set.union(*subjects)) == 10
    assert subjects[2] == {"subject03", "subject04"}


def test_every_sample_is_used_once_under_its_label(embedded):
    """Frames are looked up in the recordings themselves, by windows of five samples."""
    recordings = seglearn_sessions.read_recordings(seglearn_sessions.source())
    dataset = open_dataset(embedded, fold=1)
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


def test_is_made_once_and_always_the_same(embedded, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in embedded.rglob("*")}
    monkeypatch.setenv("RFNEXT_CACHE", str(embedded.parent))
    assert seglearn_sessions.prepare() == embedded
    assert before == {path: path.stat().st_mtime_ns for path in embedded.rglob("*")}
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "other"))
    again = seglearn_sessions.prepare()
    for path in (path for path in embedded.rglob("*") if path.is_file()):
        assert path.read_bytes() == (again / path.relative_to(embedded)).read_bytes()


def test_several_builders_do_not_disturb_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path))
    barrier = Barrier(3)
    load = seglearn_sessions.read_recordings
    # Nobody has looked for the folder in vain before everybody has.
    monkeypatch.setattr(seglearn_sessions, "read_recordings", lambda path: (barrier.wait(60), load(path))[1])
    with ThreadPoolExecutor(3) as pool:
        folders = {future.result() for future in [pool.submit(seglearn_sessions.prepare) for _ in range(3)]}
    assert [*tmp_path.iterdir()] == [*folders]
    assert check(folders.pop(), fold=1).findings.problems == []


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
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


def test_another_file_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setenv("RFNEXT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    fake = tmp_path / "watch_dataset.npy"
    np.save(fake, np.array(Evil(), dtype=object), allow_pickle=True)
    monkeypatch.setattr(seglearn_sessions, "source", lambda: fake)
    with pytest.raises(DataError, match=r"watch_dataset\.npy: not the file of seglearn 1\.2\.5; pip install"):
        seglearn_sessions.prepare()
    assert not (tmp_path / "unpickled").exists()


def test_missing_seglearn(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install seglearn==1\.2\.5"):
        seglearn_sessions.source()


def test_cache_folder(monkeypatch):
    monkeypatch.delenv("RFNEXT_CACHE", raising=False)
    assert seglearn_sessions.cache_folder() == Path.home() / ".cache" / "rfnext"
