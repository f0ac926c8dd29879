"""The task as the benchmarks use it; the contract that all tasks share is in test_contract.py."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

import tasks
from tasks.action_segmentation import task
from tasks.action_segmentation.config import PRESETS, Config
from tasks.action_segmentation.task import TASK
from tasks.spec import DataError, Run, Split


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
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    assert {name for cell in cells for name in cell.split("`")[1::2]} == PRESETS.keys()


def test_the_papers_presets():
    assert TASK.presets_of("paper") == ("50salads", "breakfast", "gtea")
    assert TASK.presets_of("tiny") == ("tiny",)
    assert TASK.presets_of("nothing") == ()


@pytest.mark.defect(2)
def test_training_never_reads_the_test_part(config, embedded, tmp_path):
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
