"""The task's config, data and published settings; the contract that all tasks share is in
test_contract.py."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro

import tasks
from rfnext import Structure
from tasks.action_segmentation import task
from tasks.action_segmentation.baselines import doubling
from tasks.action_segmentation.data import open_dataset
from tasks.action_segmentation.models import ms_tcn, ms_tcn_pp, searched
from tasks.action_segmentation.task import PRESETS, PUBLISHED, TASK, Config, data_folder
from tasks.spec import DataError, Run, Split


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RFNEXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return data_folder(Config())


@pytest.fixture
def config(embedded):
    """A network of three layers on every 16th frame of the embedded data."""
    return Config(root=embedded, stages=1, layers=3, maps=8, stride=16, epochs=1)


def test_is_what_the_folder_name_loads():
    assert tasks.load("action_segmentation") is TASK
    with pytest.raises(ValueError, match="unknown task 'action_segmentatoin'. Did you mean 'action_segmentation'"):
        tasks.load("action_segmentatoin")


def test_the_readme_names_every_preset():
    rows = (Path(task.__file__).parent / "README.md").read_text("utf-8").splitlines()
    assert {row.split("`")[1] for row in rows if row.startswith("| `")} == PRESETS.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    c = PRESETS[name]
    assert (c.model, c.stages, c.layers, c.maps, c.dropout) == ("ms_tcn", 4, 10, 64, 0.5)
    assert (c.epochs, c.batch, c.lr, c.lr_drop_epoch, c.smoothing) == (65, 8, 5e-4, 50, 0.15)
    assert (c.stride, len(c.folds)) == {"50salads": (2, 5), "breakfast": (1, 4), "gtea": (1, 4)}[name]
    s = c.search
    assert (s.interval, s.rounds, s.spread, s.branches, s.bounds.min, s.bounds.max) == (3, 10, 0.1, 3, 1, 2048)


def test_published_numbers_only_beside_the_published_data():
    for name, config in PRESETS.items():
        assert TASK.published(config) == (f"action_segmentation.{name}" if name in PUBLISHED else None)
    config = PRESETS["50salads"]
    assert TASK.published(dataclasses.replace(config, folds=(1,))) is None
    assert TASK.published(dataclasses.replace(config, stride=1)) is None
    assert TASK.published(dataclasses.replace(config, layers=5)) is not None


def test_labels_tell_data_apart(tmp_path):
    labels = {name: TASK.data_label(config) for name, config in PRESETS.items()}
    assert labels["tiny"] == labels["small"]
    assert labels["folder"] == labels["compact"]
    assert len(set(labels.values())) == len(PRESETS) - 2
    assert TASK.data_label(Config(root=tmp_path / "mine")) == "own data in mine"
    assert TASK.data_label(Config(dataset="folder", root=tmp_path / "mine")) == "own data in mine"


def test_every_field_has_a_help_text(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    text = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
    assert "Videos per step." in text
    config = tyro.cli(Config, args=["--folds", "1", "3", "--root", "x", "--search.rounds", "2", "--model", "ms_tcn_pp"])
    assert (config.folds, str(config.root), config.search.rounds, config.model) == ((1, 3), "x", 2, "ms_tcn_pp")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"model": "tcn"}, "unknown dataset 'seglearn' or model 'tcn'; known: .*ms_tcn_pp"),
        ({"dataset": "salad"}, "unknown dataset 'salad'.*50salads"),
    ],
)
def test_config_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        Config(**settings)


class TestData:
    def test_folder_of_a_release(self, monkeypatch, tmp_path):
        monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
        assert data_folder(PRESETS["gtea"]) == tmp_path / "gtea"
        assert data_folder(dataclasses.replace(PRESETS["gtea"], root=tmp_path / "x")) == tmp_path / "x"
        monkeypatch.delenv("RFNEXT_DATA")
        assert data_folder(PRESETS["gtea"]).parts[-2:] == ("data", "gtea")

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_missing_release(self, monkeypatch, tmp_path, name):
        monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
        reason = TASK.unavailable(PRESETS[name])
        for part in (str(tmp_path / name), "zenodo.org/records/3625992", "RFNEXT_DATA", f"data/{name}"):
            assert part in reason
        with pytest.raises(DataError, match="no such folder"):
            TASK.build(PRESETS[name])

    def test_folder_without_root(self, monkeypatch, tmp_path, embedded):
        monkeypatch.setenv("RFNEXT_DATA", str(tmp_path))
        assert TASK.unavailable(PRESETS["folder"]).startswith(
            f"no folder {tmp_path / 'folder'}; name your data by --root"
        )
        with pytest.raises(DataError, match="no such folder"):
            TASK.build(PRESETS["folder"])
        (tmp_path / "folder").symlink_to(embedded)
        assert TASK.unavailable(PRESETS["folder"]) is None
        assert TASK.data_label(PRESETS["folder"]) == f"own data in {embedded.name}"

    def test_folder_has_the_folds_of_its_bundles(self, embedded):
        assert TASK.folds(dataclasses.replace(PRESETS["folder"], root=embedded)) == (1, 2, 3, 4, 5)
        assert TASK.folds(dataclasses.replace(PRESETS["folder"], root=embedded, folds=(2,))) == (2,)

    def test_features_that_are_not_the_releases(self, embedded):
        reason = TASK.unavailable(dataclasses.replace(PRESETS["50salads"], root=embedded))
        assert "D = 12, not the I3D features (D = 2048)" in reason

    def test_available(self, embedded):
        assert TASK.unavailable(PRESETS["tiny"]) is None
        assert TASK.unavailable(dataclasses.replace(PRESETS["folder"], root=embedded)) is None

    def test_fold_without_bundle(self, embedded):
        reason = TASK.unavailable(Config(dataset="folder", root=embedded, folds=(1, 6)))
        assert "train.split6.bundle: no such file" in reason

    def test_fold_that_the_config_lacks(self, config):
        with pytest.raises(ValueError, match="fold 9 is not one of"):
            TASK.evaluate(TASK.build(config), config, Split("test", 9))

    def test_training_never_reads_the_test_part(self, config, embedded, tmp_path):
        root = tmp_path / "data"
        shutil.copytree(embedded, root)
        for line in (root / "splits" / "test.split1.bundle").read_text().split():
            path = root / "features" / line.replace(".txt", ".npy")
            np.save(path, np.full_like(np.load(path), np.nan))  # an error for whoever reads it
        config = dataclasses.replace(config, root=root)
        model = TASK.build(config)
        (tmp_path / "run").mkdir()
        TASK.fit(model, config, Run(seed=0, fold=1, folder=tmp_path / "run", device="cpu"))
        TASK.evaluate(model, config, Split("validation", 1))
        with pytest.raises(DataError, match="not finite"):
            TASK.evaluate(model, config, Split("test", 1))


@pytest.mark.parametrize("model", ["ms_tcn", "ms_tcn_pp"])
def test_builds_trains_and_scores_both_networks(config, tmp_path, model):
    config = dataclasses.replace(config, model=model, stages=2, prediction_layers=4)
    network = TASK.build(config)
    assert len(network.stages) == 2
    assert len(network.stages[0].layers) == (4 if model == "ms_tcn_pp" else 3)
    assert network.stages[0].enter.in_channels == 12
    assert network.stages[1].enter.in_channels == 7
    TASK.fit(network, config, Run(seed=0, fold=2, folder=tmp_path, device="cpu"))
    scores = TASK.evaluate(network, config, Split("test", 2))
    assert all(0 <= value <= 100 for value in scores.values())


def test_shortened_input_is_every_other_frame_and_is_scored_at_all_of_them(config):
    short = TASK.shortened(config, 2)
    assert short == dataclasses.replace(config, stride=32)
    one, other = (
        open_dataset(config.root, fold=1, stride=c.stride, validation=0.2, group=None) for c in (config, short)
    )
    for video, same in zip(one.train, other.train, strict=True):
        assert video.name == same.name
        np.testing.assert_array_equal(video.features[:, ::2], same.features)
        np.testing.assert_array_equal(video.full_labels, same.full_labels)


def test_picture(config, tmp_path):
    (path,) = TASK.illustrate(TASK.build(config), config, Split("test", 1), tmp_path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 60_000
    (again,) = TASK.illustrate(TASK.build(config), config, Split("validation", 1), tmp_path)
    assert again != path


def test_trains_on_real_video_features(shared, tmp_path):
    root = shared / "data" / "action_segmentation" / "50salads_svm_1fps"
    if not root.is_dir():
        pytest.skip(f"no {root.name} in shared/")
    config = Config(dataset="folder", root=root, group=r"rgb-\d+", stages=1, layers=4, maps=16, epochs=3, lr=5e-3)
    assert TASK.unavailable(config) is None
    network = TASK.build(config)
    TASK.fit(network, config, Run(seed=0, fold=1, folder=tmp_path, device="cpu"))
    scores = TASK.evaluate(network, config, Split("test", 1))
    assert scores["accuracy"] > 40  # always guessing the most frequent class gives 13


class TestDoubling:
    def test_of_ms_tcn(self):
        network = ms_tcn(3, 2, stages=2, layers=10, maps=4)
        structure = doubling(network, 32)
        for stage in range(2):
            found = [structure[f"stages.{stage}.layers.{layer}.dilated"][0] for layer in range(10)]
            assert found == [1, 2, 4, 8, 16, 32, 1, 2, 4, 8]
        assert doubling(network, 512) == doubling(network, 4096) == Structure.read(network, searched)
        structure.apply(network)
        assert network(torch.randn(1, 3, 20)).shape == (2, 1, 2, 20)

    def test_of_ms_tcn_pp(self):
        network = ms_tcn_pp(3, 2, stages=1, prediction_layers=4, maps=4)
        structure = doubling(network, 2)
        assert [structure[f"stages.0.layers.{i}.growing"][0] for i in range(4)] == [1, 2, 1, 2]
        assert [structure[f"stages.0.layers.{i}.shrinking"][0] for i in range(4)] == [2, 1, 2, 1]

    @pytest.mark.parametrize("largest", [0, 3, -4])
    def test_refuses_what_is_no_power_of_two(self, largest):
        with pytest.raises(ValueError, match=f"{largest} is not a power of two"):
            doubling(ms_tcn(3, 2, layers=2, maps=4), largest)
