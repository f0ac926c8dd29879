"""Own data of two tasks, past findings, and their readers: a series as CSV, and images with a label PNG each."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from tasks.findings import Findings
from tasks.load_forecasting import datasets as forecasting
from tasks.load_forecasting.config import Config as Forecasting
from tasks.load_forecasting.csv_file import read_csv
from tasks.semantic_segmentation import datasets as segmentation
from tasks.semantic_segmentation.check import check as check_images
from tasks.semantic_segmentation.config import Config as Segmentation
from tests.faults.fuzz.mutations import SPARSE, Sample
from tests.faults.fuzz.samples import each
from tests.faults.fuzz.scenes import picture, png

HUGE_FILE = SPARSE + struct.pack("<Q", 2**33)


def series() -> list[Sample]:
    """200 hours of a target and a covariate."""
    rows = (f"2024-01-{1 + k // 24:02} {k % 24:02}:00,{k % 5},{k % 7}.5" for k in range(200))
    return [{"series.csv": "\n".join(("time,target,holiday", *rows)).encode()}]


def past_series() -> list[Sample]:
    """Numbers and times of any size, and a file of any length."""
    text = series()[0]["series.csv"].decode()
    changes = [(",4,", f",{value},") for value in ("1e400", "9" * 5000, "nan", "\0", '"', "1_0", "é")]
    changes += [("2024-01-02", when) for when in ("0000-00-00", "9999-12-31", "2024-01-02T00:00+99:00", "٢٠٢٤-01-02")]
    samples: list[Sample] = [{"series.csv": text.replace(*change).encode()} for change in changes]
    return [*samples, {"series.csv": HUGE_FILE}, *each(series()[0], "series.csv")]


def read_series(folder: Path, told: Any) -> None:
    """Check the file, and cut what has no problem into parts."""
    problems: list[str] = []
    read_csv(folder / "series.csv", "time", "target", lambda *problem: problems.append(": ".join(map(str, problem))))
    told(problems)
    config = Forecasting(dataset="folder", root=folder, horizon=2, seasons=(4,), burn_in=4)
    for fold in forecasting.folds(config):
        forecasting.open_fold(config, fold)


def labelled() -> list[Sample]:
    """Six images of two classes, two of them in the test part."""
    sample: Sample = {"classes.txt": b"ground\nsquare\n", "test.txt": b"0\n1\n"}
    labels = np.repeat(np.array([[0, 1, 255]], np.uint8), 12, axis=0).repeat(5, axis=1)
    for k in range(6):
        sample[f"images/{k}.png"] = picture(np.full((12, 15, 3), 40 + k, np.uint8), "PNG")
        sample[f"labels/{k}.png"] = picture(labels, "PNG")
    return [sample]


def past_labelled() -> list[Sample]:
    """Pictures that claim any size, and names that lead elsewhere."""
    good = labelled()[0]
    samples = [good | {name: png(30_000, 30_000)} for name in ("images/0.png", "labels/0.png")]
    samples += [good | {"test.txt": name} for name in (b"../../etc/passwd", b"\0", "é\0/é".encode(), b"a" * 5000)]
    for name in ("images/0.png", "labels/0.png", "classes.txt", "test.txt"):
        samples += [good | {name: HUGE_FILE}, *each(good, name)]
    return samples


def read_labelled(folder: Path, told: Any) -> None:
    """Check the folder, and read all that training, validation and scoring would."""
    report = Findings()
    summary = check_images(folder, report)
    told(report.problems or [summary])
    dataset = segmentation.open_fold(Segmentation(dataset="folder", root=folder), 1)
    for part in (dataset.train, dataset.validation, dataset.test):
        for index in range(len(part)):
            image, labels = part[index]
            if image.shape[:2] != labels.shape:
                raise AssertionError(f"labels of {labels.shape} for an image of {image.shape}")
