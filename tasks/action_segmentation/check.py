"""Check a data folder in the MS-TCN layout: `python -m tasks.action_segmentation.check PATH [--fold N]`.

Prints every problem found, of one file the first 20, one a line, as "file:line: problem; how to fix it", and exits with
1; or a summary, and 0. Give it the `--feature-stride` and `--length-tolerance` that the training is to get.
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.action_segmentation.ms_tcn_format.feature_files import read_features
from tasks.action_segmentation.ms_tcn_format.layout import open_layout, read_fold, read_labels, read_mapping
from tasks.action_segmentation.ms_tcn_format.lengths import EVERY_FRAME, Sampling, fit_lengths, read_shapes, stride_of
from tasks.findings import Findings
from tasks.spec import Report


@dataclass(frozen=True)
class Checked:
    """What a check found. The counts cover what could be used; feature_size is None if no features could."""

    findings: Findings
    videos: int = 0
    frames: int = 0
    feature_size: int | None = None
    classes: int = 0
    folds: tuple[int, ...] = ()

    def __str__(self) -> str:
        folds = ", ".join(map(str, self.folds))
        return (
            f"{self.videos} videos, {self.frames} frames, {self.feature_size} features, "
            f"{self.classes} classes, folds {folds}"
        )


def check(root: str | Path, fold: int | None = None, sampling: Sampling = EVERY_FRAME) -> Checked:
    """Read everything that the given fold, or all folds, name; raises nothing for bad data."""
    report = Findings()
    layout = open_layout(root, report)
    if report.problems:
        return Checked(report)
    index = read_mapping(layout, report)
    folds = layout.folds() if fold is None else (fold,)
    if not folds:
        fix = "add train.split1.bundle and test.split1.bundle, one <video>.txt a line"
        report(layout.root / "splits", None, "there is no bundle", fix)
    videos: dict[str, None] = {}  # an ordered set
    for number in folds:
        train, test = read_fold(layout, number, report)
        videos |= dict.fromkeys([*train, *test])
        if len(train) == 1:
            what = "there is one training video, so none can be held out for validation"
            report(layout.bundle("train", number), 1, what, "add training videos")

    shapes = read_shapes(layout, videos, report)
    labels: dict[str, int] = {}
    digests: dict[bytes, str] = {}
    for video in videos:
        found = read_labels(layout, video, index, report)
        if found is not None:
            labels[video] = len(found)
        if video in shapes:
            features = read_features(layout.features(video), report)
            if features is not None:
                _check_content(layout.features(video), features, digests, report)
    fitting = fit_lengths(layout, shapes, labels, sampling, report)
    sizes = {shapes[video][0] for video in fitting}
    frames = sum(labels[video] for video in fitting)
    return Checked(report, len(videos), frames, min(sizes, default=None), len(index), folds)


def _check_content(path: Path, features: NDArray[np.float32], seen: dict[bytes, str], report: Report) -> None:
    """Features that say nothing of their video: all alike, or those of another video."""
    again = "extract the features of this video again"
    if features.shape[1] > 1 and (features == features[:, :1]).all():
        report(path, None, f"all {features.shape[1]} feature vectors are equal", again)
    elif (other := seen.setdefault(hashlib.sha256(features.data).digest(), path.name)) != path.name:
        report(path, None, f"holds the features of {other}", f"{again}, or take one of the two out of the bundles")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.action_segmentation.check",
        description="Check a data folder in the MS-TCN layout: features/*.npy (D, T), groundTruth/*.txt, "
        "mapping.txt and splits/*.bundle. Prints every problem as file:line: problem; how to fix it, and exits with 1 "
        "if there is one.",
    )
    parser.add_argument("path", type=Path, help="the data folder")
    parser.add_argument("--fold", type=int, help="check this fold alone; default: all folds")
    parser.add_argument("--feature-stride", type=int, default=1, help="frames per feature vector; default: 1")
    parser.add_argument("--feature-rate", help="instead: rates of features and labels, as in 15/25, or 0.6")
    parser.add_argument(
        "--length-tolerance",
        type=int,
        default=0,
        help="frames by which features may cover less or more than the labels; default: 0",
    )
    given = parser.parse_args(arguments)
    try:
        stride = given.feature_stride if given.feature_rate is None else stride_of(given.feature_rate)
        sampling = Sampling(feature_stride=stride, tolerance=given.length_tolerance)
    except ValueError as error:
        parser.error(str(error))
    found = check(given.path, given.fold, sampling)
    return found.findings.end(found)


if __name__ == "__main__":
    sys.exit(main())
