"""Data sets: folders, folds, labels, and what is said when one is missing."""

import dataclasses

import numpy as np
import pytest

from tasks.action_segmentation.config import PAPER, PRESETS, Config
from tasks.action_segmentation.datasets import data_folder
from tasks.action_segmentation.task import TASK
from tasks.spec import DataError, Split


@pytest.fixture
def config(embedded):
    """A network of three layers on every 16th frame of the embedded data."""
    return Config(root=embedded, stages=1, layers=3, maps=8, stride=16, epochs=1)


def test_published_numbers_only_beside_the_published_data():
    for name, config in PRESETS.items():
        data = name.split("-")[0]  # later networks on the papers' data: 50salads-asformer
        assert TASK.published(config) == (f"action_segmentation.{data}" if data in PAPER else None), name
    config = PRESETS["50salads"]
    assert TASK.published(dataclasses.replace(config, folds=(1,))) is None
    assert TASK.published(dataclasses.replace(config, stride=1)) is None
    assert TASK.published(dataclasses.replace(config, layers=5)) is not None


def test_labels_tell_data_apart(tmp_path):
    labels: dict[str, set[str]] = {}
    for config in PRESETS.values():
        labels.setdefault(config.dataset, set()).add(TASK.data_label(config))
    assert all(len(found) == 1 for found in labels.values())
    assert len(set.union(*labels.values())) == len(labels)
    assert TASK.data_label(Config(root=tmp_path / "mine")) == "own data in mine"
    assert TASK.data_label(Config(dataset="folder", root=tmp_path / "mine")) == "own data in mine"


def test_folder_of_a_release(monkeypatch, tmp_path):
    monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
    assert data_folder(PRESETS["gtea"]) == tmp_path / "gtea"
    assert data_folder(dataclasses.replace(PRESETS["gtea"], root=tmp_path / "x")) == tmp_path / "x"
    monkeypatch.delenv("RFNEXT_DATA")
    assert data_folder(PRESETS["gtea"]).parts[-2:] == ("data", "gtea")


@pytest.mark.parametrize("name", PAPER)
def test_missing_release(monkeypatch, tmp_path, name):
    monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
    reason = TASK.unavailable(PRESETS[name])
    for part in (str(tmp_path / name), "zenodo.org/records/3625992", "RFNEXT_DATA", f"data/{name}"):
        assert part in reason
    with pytest.raises(DataError, match="no such folder"):
        TASK.build(PRESETS[name])


def test_only_the_release_is_to_be_downloaded(tmp_path):
    reason = TASK.unavailable(Config(dataset="seglearn", root=tmp_path / "none"))
    assert str(tmp_path / "none") in reason
    assert "--root" in reason
    assert "zenodo.org" not in reason


def test_folder_without_root(monkeypatch, tmp_path, embedded):
    monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
    assert TASK.unavailable(PRESETS["folder"]).startswith(f"no folder {tmp_path / 'folder'}; name your data by --root")
    with pytest.raises(DataError, match="no such folder"):
        TASK.build(PRESETS["folder"])
    (tmp_path / "folder").symlink_to(embedded)
    assert TASK.unavailable(PRESETS["folder"]) is None
    assert TASK.data_label(PRESETS["folder"]) == f"own data in {embedded.name}"


def test_folder_has_the_folds_of_its_bundles(embedded):
    assert TASK.folds(dataclasses.replace(PRESETS["folder"], root=embedded)) == (1, 2, 3, 4, 5)
    assert TASK.folds(dataclasses.replace(PRESETS["folder"], root=embedded, folds=(2,))) == (2,)
    assert TASK.folds(PRESETS["compact-seglearn"]) == (1, 2, 3, 4, 5)


def test_features_that_are_not_the_releases(embedded):
    reason = TASK.unavailable(dataclasses.replace(PRESETS["50salads"], root=embedded))
    assert "D = 12, not the I3D features (D = 2048)" in reason


def test_other_data_does_not_pass_for_the_release(root):
    """Own features of the same network have the release's D: published numbers would stand beside them."""
    for path in (root / "features").iterdir():
        np.save(path, np.resize(np.load(path), (2048, np.load(path).shape[1])))
    reason = TASK.unavailable(dataclasses.replace(PRESETS["gtea"], root=root, folds=(1,)))
    assert (
        "has 3 classes and 10 videos, GTEA, I3D features of the MS-TCN release, has 11 and 28; get it whole" in reason
    )
    assert TASK.unavailable(dataclasses.replace(PRESETS["folder"], root=root)) is None


def test_available(embedded):
    assert TASK.unavailable(PRESETS["tiny"]) is None
    assert TASK.unavailable(dataclasses.replace(PRESETS["folder"], root=embedded)) is None


def test_fold_without_bundle(embedded):
    reason = TASK.unavailable(Config(dataset="folder", root=embedded, folds=(1, 6)))
    assert f"{embedded}/splits has fold 1, 2, 3, 4, 5, and the settings name 1, 6; give --folds 1 2 3 4 5, or" in reason


def test_the_folds_of_a_preset_of_other_data_are_named(root):
    """--dataset folder --fold 1 with the preset of the embedded data, which has five folds."""
    (root / "splits/test.split1.bundle").write_text("s5_a.txt\n")
    reason = TASK.unavailable(dataclasses.replace(PRESETS["tiny"], dataset="folder", root=root))
    assert "has fold 1, and the settings name 1, 2, 3, 4, 5; give --folds 1, or --preset folder" in reason


def test_fold_that_the_config_lacks(config):
    with pytest.raises(ValueError, match="fold 9 is not one of"):
        TASK.evaluate(TASK.build(config), config, Split("test", 9))


def test_the_files_of_the_data_are_those_that_the_folds_read(root):
    """Of ten videos; fold 2 has two of them, and a part that is missing."""
    for name in ("README.md", "features/s9_a.npy", "groundTruth/s1_a.txt.orig", "splits/notes.txt"):
        (root / name).touch()
    (root / "splits/train.split2.bundle").write_text("s1_a.txt\ns2_b.txt\n")
    config = dataclasses.replace(PRESETS["folder"], root=root, folds=(1,))
    found = TASK.data_files(config)
    assert (found.root, found.own) == (root, True)
    lists = ["mapping.txt", "splits/train.split1.bundle", "splits/test.split1.bundle"]
    videos = [f"s{subject}_{take}" for subject in range(1, 6) for take in "ab"]
    assert set(found.labels) == {root / name for name in [*lists, *(f"groundTruth/{v}.txt" for v in videos)]}
    assert set(found.inputs) == {root / f"features/{video}.npy" for video in videos}
    some = TASK.data_files(dataclasses.replace(config, folds=(2,)))
    assert set(some.inputs) == {root / f"features/{video}.npy" for video in ("s1_a", "s2_b")}
    assert root / "splits/test.split2.bundle" in some.labels
    assert set(TASK.data_files(dataclasses.replace(config, folds=())).labels) == {*found.labels, *some.labels}


def test_only_data_without_a_name_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
    assert TASK.data_files(PRESETS["tiny"]) is None
    assert not TASK.data_files(PRESETS["gtea"]).own
    assert TASK.data_files(PRESETS["folder"]).own
    assert TASK.data_files(Config(dataset="seglearn", root=tmp_path)).own


def test_changed_data_is_read_anew(root):
    config = dataclasses.replace(PRESETS["folder"], root=root, stages=1, layers=2, maps=4, epochs=1)
    model = TASK.build(config)
    before, longest = TASK.evaluate(model, config, Split("test", 1)), TASK.longest_input(config)
    for path in (root / "groundTruth").iterdir():
        path.write_text(path.read_text().replace("cut", "other").replace("mix", "cut").replace("other", "mix"))
    assert TASK.evaluate(model, config, Split("test", 1)) != before
    (root / "splits/test.split1.bundle").write_text("s5_a.txt\n")
    assert TASK.longest_input(config) == longest - 7
