"""Scoring folders of result files from the command line."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.action_segmentation.ms_tcn_format.result_files import write_prediction
from tasks.action_segmentation.score import main

ROOT = Path(__file__).parents[3]
TRUTH = {
    "v1": ["background"] * 2 + ["cut"] * 5 + ["mix"] * 4,
    "v2": ["mix"] * 6 + ["cut"],
    "v3": ["cut"] * 3,
}


@pytest.fixture
def folders(tmp_path):
    """Perfect predictions of two of three videos, in the forms that tools write."""
    truth, predictions = tmp_path / "groundTruth", tmp_path / "results"
    truth.mkdir()
    for video, names in TRUTH.items():
        (truth / f"{video}.txt").write_text("\n".join(names) + "\n")
    write_prediction(predictions / "v1", TRUTH["v1"])
    (predictions / "v2.txt").write_text("\n".join(TRUTH["v2"]))
    (predictions / ".hidden").write_text("")
    return predictions, truth


def scores(capsys, *arguments):
    main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert printed.err == ""
    return json.loads(printed.out)


def error(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert capsys.readouterr().out == ""
    return str(stopped.value.code)


def test_a_perfect_prediction(folders, capsys):
    result = scores(capsys, *folders)
    assert list(result) == ["accuracy", "edit", "f1@10", "f1@25", "f1@50"]
    assert set(result.values()) == {100.0}


def test_last_segment(folders, capsys):
    """By rule i the last segment of v2 has no length: a false positive and a false negative beside 3 hits."""
    result = scores(capsys, *folders, "--last-segment", "i")
    assert result["f1@10"] == 75.0
    assert result["edit"] == 100.0


def test_background(folders, capsys):
    write_prediction(folders[0] / "v1", ["cut"] * 7 + ["mix"] * 4)
    assert scores(capsys, *folders)["edit"] == 100.0
    assert scores(capsys, *folders, "--background")["edit"] == pytest.approx((200 / 3 + 100) / 2)
    without_mix = scores(capsys, *folders, "--background", "background", "mix")
    assert (without_mix["edit"], without_mix["accuracy"]) == (100.0, pytest.approx(100 * 16 / 18))


def test_bundle(folders, capsys):
    bundle = folders[0].parent / "test.split1.bundle"
    bundle.write_text("v1.txt\nv2.txt\n")
    assert scores(capsys, *folders, "--bundle", bundle)["edit"] == 100.0
    bundle.write_text("v1.txt\nv2.txt\nv3.txt\n")
    assert "results: no prediction of v3; add it" in error(capsys, *folders, "--bundle", bundle)
    bundle.write_text("v1.txt\n")
    assert "v2.txt: a prediction of a video that is not to be scored" in error(capsys, *folders, "--bundle", bundle)
    bundle.write_text("")
    assert "test.split1.bundle:1: the bundle is empty" in error(capsys, *folders, "--bundle", bundle)


def test_a_repeated_last_frame_is_dropped(folders, capsys):
    write_prediction(folders[0] / "v1", [*TRUTH["v1"], "cut"])
    assert set(scores(capsys, *folders).values()) == {100.0}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p, t: write_prediction(p / "v9", ["cut"]), "results/v9: there is no v9.txt in "),
        (lambda p, t: shutil.copy(p / "v1", p / "v1.txt"), "results/v1.txt: there is also v1 for this video"),
        (lambda p, t: write_prediction(p / "v1", TRUTH["v1"][1:]), "results/v1: 10 frames, but "),
        (
            lambda p, t: write_prediction(p / "v1", [*TRUTH["v1"], "cut", "cut"]),
            "results/v1: 13 frames, but ",
        ),
        (lambda p, t: (p / "v1").write_text(""), "results/v1:1: no frame is labelled"),
        (lambda p, t: (t / "v1.txt").write_text("\n"), "groundTruth/v1.txt:1: no frame is labelled"),
        (lambda p, t: (p / "v1").write_bytes(b"\xff\xd8\xff"), "results/v1: not a text file"),
        (lambda p, t: shutil.rmtree(p), "results: no such folder"),
        (lambda p, t: [(p / v).unlink() for v in ("v1", "v2.txt")], "results: there is no file in it"),
    ],
)
def test_bad_input_is_one_error(folders, capsys, spoil, message):
    spoil(*folders)
    found = error(capsys, *folders)
    assert found.startswith("error: ")
    assert message in found
    assert "; " in found
    assert "\n" not in found


def test_real_ms_tcn_result_through_the_command(ms_tcn_result):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tasks.action_segmentation.score",
            ms_tcn_result / "results/split_1",
            ms_tcn_result / "groundTruth",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rounded = {name: round(value, 2) for name, value in json.loads(done.stdout).items()}
    assert rounded == {"accuracy": 77.45, "edit": 67.00, "f1@10": 73.18, "f1@25": 71.10, "f1@50": 63.62}
    assert done.stderr == ""
