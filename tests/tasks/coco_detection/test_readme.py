"""The README's way from images to a prediction, typed as it stands, at the smallest sizes; and after Ctrl-C."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SMALL = "--detector pvtv2 --size tiny --image 32 --epochs 2 --validate-every 2 --search.rounds 1 --results results"


def commands():
    page = (ROOT / "tasks/coco_detection/README.md").read_text("utf-8")
    (block,) = re.findall(r"## Your own data\n.*?```bash\n(.*?)```", page, flags=re.S)
    return [line for line in block.splitlines() if line.startswith("python -m ")]


def start(command, folder):
    given = shlex.split(command.replace("python", sys.executable, 1))
    given = [part for word in given for part in (sorted(map(str, folder.glob(word))) if "*" in word else [word])]
    # Ctrl-C also where the tests run in the background, which ignore it.
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *given],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(command, folder):
    process = start(command, folder)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_from_images_to_a_prediction(own_data, tmp_path):
    own_data(root=tmp_path / "mine")
    check, train, predict = commands()
    assert run(check, tmp_path).startswith("fine: ")
    process = start(f"{train} {SMALL}", tmp_path)
    until = time.monotonic() + 100
    while not list(tmp_path.rglob("last.pth")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "The same command goes on" in output
    assert "continuing the training" in run(f"{train} {SMALL}", tmp_path)
    assert "4 images: " in run(f"{predict} --threshold 0 --device cpu", tmp_path)
    results = json.loads((tmp_path / "predictions/predictions.json").read_text())
    assert [Path(result["image"]).name for result in results] == ["000.jpg", "001.jpg", "002.jpg", "003.jpg"]
    assert {instance["class"] for result in results for instance in result["instances"]} == {"thing"}
