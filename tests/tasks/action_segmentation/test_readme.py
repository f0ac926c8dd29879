"""The README's way from an empty folder to a prediction: its commands are typed, at the smallest sizes."""

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
README = ROOT / "tasks" / "action_segmentation" / "README.md"
SIZES = shlex.split("--epochs 40 --stages 1 --layers 3 --maps 8 --search.interval 1 --search.rounds 3")


def commands() -> list[list[str]]:
    """The commands of the section: module and arguments of each."""
    section = README.read_text("utf-8").partition("## Your own videos")[2].partition("\n## ")[0]
    (block,) = re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]
    assert all(line[:2] == ["python", "-m"] for line in lines)
    return [line[2:] for line in lines]


def write_videos(folder: Path) -> None:
    """Six videos whose features say the class, with noise."""
    random = np.random.default_rng(0)
    names = np.array(["pour", "stir", "wait"])
    for part in ("features", "groundTruth", "splits"):
        (folder / part).mkdir(parents=True)
    (folder / "mapping.txt").write_text("".join(f"{index} {name}\n" for index, name in enumerate(names)))
    for number in range(6):
        labels = np.repeat(random.integers(0, 3, 8), 10 + number)
        features = random.normal(size=(5, len(labels)))
        features[labels, np.arange(len(labels))] += 3
        np.save(folder / f"features/v{number}.npy", features)
        (folder / f"groundTruth/v{number}.txt").write_text("".join(f"{name}\n" for name in names[labels]))
    (folder / "splits/train.split1.bundle").write_text("".join(f"v{number}.txt\n" for number in range(4)))
    (folder / "splits/test.split1.bundle").write_text("v4.txt\nv5.txt\n")


@pytest.mark.slow
def test_from_an_empty_folder_to_a_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_videos(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    check, run, predict, score = commands()

    def output(words: list[str]) -> str:
        """What a command prints; in this process, since starting one takes most of a command's time."""
        assert not importlib.import_module(words[0]).main(words[1:])
        return capsys.readouterr().out

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", *run, *SIZES, "--results", "results"],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            # Whoever started the tests in the background has switched Ctrl-C off for all their children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    assert output(check).startswith("fine: 6 videos, ")
    training = start()
    last = tmp_path / "results/work/action_segmentation/mine/local_single/fold1-seed0/train/last.ckpt"
    while not last.exists() and training.poll() is None:
        time.sleep(0.02)
    training.send_signal(signal.SIGINT)
    _, err = training.communicate(timeout=120)
    assert training.returncode == 130, err
    assert "The same command goes on" in err

    again = start()
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    record = json.loads((tmp_path / "results/runs/action_segmentation/mine/local_single/fold1-seed0.json").read_text())
    assert record["resumed"]
    assert "2 videos segmented, 2 of them with labels" in output(predict)
    scores = json.loads(output(score))
    assert scores == pytest.approx(record["metrics"], rel=1e-12)
    assert scores["accuracy"] > 50
    (segment, *_) = json.loads((tmp_path / "predicted/segments.json").read_text())["videos"]["v4"]["segments"]
    assert segment["end_seconds"] == pytest.approx(segment["end"] / 30)
