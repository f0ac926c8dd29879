"""Segmenting videos from the command line: equal to the evaluation, whole or not at all."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from rfnext import LocalSearch
from tasks import checkpoint
from tasks.action_segmentation import predict, score
from tasks.action_segmentation.config import PRESETS
from tasks.action_segmentation.models import searched
from tasks.action_segmentation.ms_tcn_format.result_files import read_prediction
from tasks.action_segmentation.task import TASK
from tasks.spec import Split

SMALL = dataclasses.replace(
    PRESETS["folder"], stages=2, layers=3, maps=8, stride=2, feature_stride=3, length_tolerance=7
)


@pytest.fixture
def sampled(root):
    """The videos of `root` with noise as features, one vector per 3 frames; some are short, one is long."""
    random = np.random.default_rng(0)
    for path in sorted((root / "features").iterdir()):
        vectors = -(-np.load(path).shape[1] // 3) + {"s1_a": -2, "s5_a": -2, "s5_b": 1}.get(path.stem, 0)
        np.save(path, random.normal(size=(4, vectors)))
    return root


@pytest.fixture
def saved(sampled, tmp_path):
    """A network with random weights and the branches of a search, its file, and its config."""
    config = dataclasses.replace(SMALL, root=sampled)
    torch.manual_seed(1)
    model = TASK.build(config)
    LocalSearch(model, config.search, searched)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that predictions change often
    path = tmp_path / "model.pt"
    checkpoint.save(path, TASK.name, config, model, TASK.facts(config))
    return model, path, config


def run(saved, *arguments):
    predict.main([str(saved[1]), *(str(argument) for argument in arguments)])


def error(saved, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run(saved, *arguments)
    return str(stopped.value.code)


def test_result_files_score_as_the_evaluation_does(saved, sampled, tmp_path, capsys):
    model, _, config = saved
    bundle = sampled / "splits/test.split1.bundle"
    run(saved, sampled, "--bundle", bundle, "--out", tmp_path / "out")
    capsys.readouterr()
    score.main([str(tmp_path / "out/results"), str(sampled / "groundTruth"), "--bundle", str(bundle)])
    found = json.loads(capsys.readouterr().out)
    assert found == pytest.approx(TASK.evaluate(model, config, Split("test", 1)), rel=1e-12)
    assert (
        len({name for video in ("s5_a", "s5_b") for name in read_prediction(tmp_path / f"out/results/{video}.txt")}) > 1
    )


def test_segments_cover_every_frame(saved, sampled, tmp_path):
    run(saved, sampled, "--out", tmp_path / "out", "--fps", "7.5")
    content = json.loads((tmp_path / "out/segments.json").read_text())
    assert content["classes"] == ["cut", "mix", "background"]
    assert len(content["videos"]) == len(list((tmp_path / "out/strips").iterdir())) == 10
    for video, found in content["videos"].items():
        frames = len((sampled / f"groundTruth/{video}.txt").read_text().split())
        names = read_prediction(tmp_path / f"out/results/{video}.txt")
        assert found["frames"] == len(names) == frames
        assert [s["label"] for s in found["segments"] for _ in range(s["start"], s["end"])] == names
        pairs = zip(found["segments"], found["segments"][1:], strict=False)
        assert all(one["end"] == two["start"] and one["label"] != two["label"] for one, two in pairs)
        for one in found["segments"]:
            assert (one["start_seconds"], one["end_seconds"]) == (one["start"] / 7.5, one["end"] / 7.5)
        assert (tmp_path / f"out/strips/{video}.png").read_bytes().startswith(b"\x89PNG")


def test_without_labels_a_video_is_as_long_as_its_features(saved, sampled, tmp_path):
    run(saved, sampled, "--out", tmp_path / "labelled")
    shutil.copytree(sampled / "features", tmp_path / "videos")
    run(saved, tmp_path / "videos/s1_b.npy", tmp_path / "videos/s5_a.npy", "--out", tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out/results").iterdir()) == ["s1_b", "s5_a"]
    for video, labels in (("s1_b", 107), ("s5_a", 156)):
        names = read_prediction(tmp_path / f"out/results/{video}.txt")
        frames = 3 * np.load(sampled / f"features/{video}.npy").shape[1]
        assert len(names) == frames
        common = min(frames, labels)
        assert names[:common] == read_prediction(tmp_path / f"labelled/results/{video}.txt")[:common]
    (tmp_path / "elsewhere").mkdir()
    run(saved, tmp_path / "videos", "--out", tmp_path / "elsewhere")  # an empty folder will do
    assert len(list((tmp_path / "elsewhere/results").iterdir())) == 10


def test_labels_are_found_from_the_folder_of_the_features(saved, sampled, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(sampled / "features")
    run(saved, "s5_a.npy", "--out", tmp_path / "out")
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path / 'out'}: 1 videos segmented, 1 of them with labels beside them; score them: ")
    assert said.count(str(tmp_path)) == 2  # the folder, and where its results are
    assert len(read_prediction(tmp_path / "out/results/s5_a.txt")) == 156


def test_labels_may_be_of_classes_that_the_network_does_not_know(saved, sampled, tmp_path):
    path = sampled / "groundTruth/s5_a.txt"
    path.write_text(path.read_text().replace("mix", "stir"))
    run(saved, sampled / "features/s5_a.npy", "--out", tmp_path / "out")
    assert set(read_prediction(tmp_path / "out/results/s5_a.txt")) <= {"cut", "mix", "background"}


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (np.ones((5, 52)), "s5_a.npy: features are 5 x 52, the network takes D = 4; extract the same ones"),
        (
            np.ones((52, 4)),
            "s5_a.npy: features are 52 x 4, the network takes D = 4; these are (frames, features), transp",
        ),
        (np.ones((4, 49)), "one per 3 frames as in the network's training, cover 9 frames more or less than the 156"),
        (np.ones((4, 156)), "s5_a.npy: 156 feature vectors, one per 3 frames"),
        (np.full((4, 52), np.nan), "s5_a.npy: value 0 of feature vector 0 is nan"),
        (np.ones(52), "s5_a.npy: holds float64 of shape (52,)"),
    ],
)
def test_features_that_do_not_fit_are_named_and_nothing_is_left(saved, sampled, tmp_path, features, expected):
    np.save(sampled / "features/s5_a.npy", features)
    before = sorted(tmp_path.rglob("*"))
    message = error(saved, sampled, "--out", tmp_path / "deep/out")
    assert expected in message
    assert message.startswith(f"error: {sampled}/features/s5_a.npy: ")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "deep"] == before


def test_the_tolerance_can_be_given(saved, sampled, tmp_path):
    np.save(sampled / "features/s5_a.npy", np.ones((4, 49)))
    run(saved, sampled, "--out", tmp_path / "out", "--length-tolerance", "9")
    names = read_prediction(tmp_path / "out/results/s5_a.txt")
    assert len(names) == 156
    assert len(set(names[144:])) == 1


def test_what_cannot_be_used(saved, sampled, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "nowhere: no such file or folder" in error(saved, tmp_path / "nowhere", *out)
    assert "there is no .npy file in it" in error(saved, sampled / "splits", *out)
    assert "is a video of that name, too" in error(saved, sampled, sampled / "features/s1_a.npy", *out)
    assert "train.split1.bundle:1: there are no features of s1_a" in error(
        saved, sampled / "features/s5_a.npy", "--bundle", sampled / "splits/train.split1.bundle", *out
    )
    assert "not a readable checkpoint" in error((None, sampled / "mapping.txt"), sampled, *out)
    with pytest.raises(SystemExit):
        run(saved, sampled, *out, "--fps", "0")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(saved, sampled, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept")
    assert "out exists and is not empty; give another --out" in error(saved, sampled, "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
