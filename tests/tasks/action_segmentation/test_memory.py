"""What a training holds in memory: two batches, however many videos there are."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tasks.action_segmentation.ms_tcn_format.layout import Layout

VIDEOS, FRAMES, SIZE = 32, 2000, 2048
DATA = 4 * VIDEOS * FRAMES * SIZE
"""Bytes: 500 MiB."""

PROGRAM = """
import json, re, sys, tempfile
from pathlib import Path
import torch
from tasks.action_segmentation import models
from tasks.action_segmentation.config import Config
from tasks.action_segmentation.evaluation import evaluate
from tasks.action_segmentation.training import fit
from tasks.spec import Run, Split

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

config = Config(dataset="folder", root=Path(sys.argv[1]), folds=(1,), group=None, stages=1, layers=1, maps=2, epochs=1,
    batch=1, lr_drop_epoch=None)
network, before = models.build(config), peak()
with tempfile.TemporaryDirectory() as folder:
    fit(network, config, Run(seed=0, fold=1, folder=Path(folder), device="cpu"))
evaluate(network, config, Split("test", 1))
print(json.dumps(peak() - before))
"""


PARTS = """
import json, re, sys
from pathlib import Path
import torch
from tasks.action_segmentation.data import Batch, Counts
from tasks.action_segmentation.models import ms_tcn
from tasks.action_segmentation.training import accumulate

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
network, size = ms_tcn(4, 3, stages=1, layers=10, maps=32), int(sys.argv[1])
labels = torch.zeros(8, 2000, dtype=torch.int64)
videos = Batch(torch.ones(8, 4, 2000), labels, torch.ones(8, 1, 2000, dtype=torch.bool))
counts = Counts.of(videos.labels, videos.mask)
accumulate(network, [Batch(*(part[:, ..., :9] for part in videos))], counts, 0.15)  # what a first step loads
before = peak()
accumulate(network, [Batch(*parts) for parts in zip(*(part.split(size) for part in videos))], counts, 0.15)
print(json.dumps(peak() - before))
"""


PADDED = """
import json, re, sys
from pathlib import Path
from tasks.action_segmentation.data import open_dataset

def now():
    return 1024 * int(re.search(r"VmRSS:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

part = open_dataset(sys.argv[1], fold=1).test
before = now()
batch = part.batch(range(len(part)))
grown = now() - before
real = sum(float(batch.features[k].sum()) for k in range(len(part)))
print(json.dumps([grown, 4 * batch.features.numel(), real, int(batch.mask.sum())]))
"""


@pytest.fixture
def folder(tmp_path):
    """Features of 16 MB a video, zero in most blocks, which then take no disk."""
    for name in ("features", "groundTruth", "splits"):
        (tmp_path / name).mkdir()
    layout = Layout(tmp_path)
    layout.mapping.write_text("0 cut\n1 mix\n")
    names = [f"video{k}" for k in range(VIDEOS)]
    for name in names:
        np.lib.format.open_memmap(layout.features(name), "w+", np.float32, (SIZE, FRAMES))[::64] = 1
        layout.ground_truth(name).write_text("cut\n" * (FRAMES // 2) + "mix\n" * (FRAMES // 2))
    layout.bundle("train", 1).write_text("".join(f"{name}.txt\n" for name in names[:-8]))
    layout.bundle("test", 1).write_text("".join(f"{name}.txt\n" for name in names[-8:]))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the largest resident memory is read from /proc")
def test_an_epoch_and_an_evaluation_hold_two_batches(folder):
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    print(f"{grown / 2**20:.0f} MiB")
    # Two batches and a video, of 16 MiB each, the same mapped, and what Lightning and scoring load.
    assert grown < 180 * 2**20 < DATA / 2


@pytest.mark.skipif(sys.platform != "linux", reason="the largest resident memory is read from /proc")
def test_a_step_in_parts_holds_the_activations_of_one():
    grown = {}
    for size in (8, 1):
        done = subprocess.run([sys.executable, "-c", PARTS, str(size)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        grown[size] = json.loads(done.stdout)
    print(*(f"{videos} videos at a time: {size / 2**20:.0f} MiB" for videos, size in grown.items()), sep=", ")
    assert grown[1] < grown[8] / 2  # about a fifth; what else memory holds varies from run to run


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_padding_of_a_batch_takes_no_memory(tmp_path):
    """One long video among short ones: nine tenths of the batch are padding."""
    for name in ("features", "groundTruth", "splits"):
        (tmp_path / name).mkdir()
    layout, frames = Layout(tmp_path), {f"video{k}": 100 for k in range(11)} | {"long": 8000}
    layout.mapping.write_text("0 cut\n1 mix\n")
    for name, length in frames.items():
        np.save(layout.features(name), np.ones((512, length), np.float32))
        layout.ground_truth(name).write_text("cut\n" * length)
    layout.bundle("train", 1).write_text("video0.txt\nvideo1.txt\n")
    layout.bundle("test", 1).write_text("".join(f"{name}.txt\n" for name in list(frames)[2:]))
    done = subprocess.run([sys.executable, "-c", PADDED, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    grown, size, total, real = json.loads(done.stdout)
    assert total == 512 * real  # padded with zeros
    print(f"{grown / 2**20:.0f} of {size / 2**20:.0f} MiB")
    assert grown < size / 2
