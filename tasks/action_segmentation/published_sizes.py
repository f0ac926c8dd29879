"""Data folders of the published data sets' sizes, to measure what their protocols cost.

Features and, unless they are given, labels are made up. Of each 64 blocks of a feature file one is random, the others
are holes: what is 29 GB long takes less than 1 GB of disk.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from tasks.action_segmentation.datasets import I3D_SIZE
from tasks.action_segmentation.ms_tcn_format.layout import Layout

BLOCK, EVERY = 4096, 64


@dataclass(frozen=True)
class Size:
    """How many videos there are and how long they are.

    mean, shortest, longest: frames of a video; spread: standard deviation of their logarithm. subjects: the beginnings
    of names; the first `tested` of them are the test part.
    """

    videos: int
    classes: int
    mean: float
    shortest: int
    longest: int
    spread: float
    subjects: tuple[str, ...]
    tested: int

    def lengths(self) -> list[int]:
        """Frames of each video: a log-normal distribution with this mean and extremes, in a fixed random order."""
        normal = np.array([NormalDist().inv_cdf((k + 0.5) / self.videos) for k in range(self.videos)])
        drawn = self.mean * np.exp(self.spread * normal - self.spread**2 / 2)
        drawn = np.clip(drawn, self.shortest, self.longest)
        drawn[[0, -1]] = self.shortest, self.longest
        return np.random.default_rng(0).permutation(np.round(drawn).astype(int)).tolist()


_BREAKFAST = tuple(f"P{number:02}" for number in range(3, 55))
_50SALADS = tuple(f"rgb-{number:02}" for number in range(1, 26))

SIZES = {
    "breakfast": Size(1712, 48, 2097, 130, 9741, 0.75, _BREAKFAST, 13),
    "50salads": Size(50, 19, 11552, 7555, 18143, 0.2, _50SALADS, 5),
    "gtea": Size(28, 11, 1115, 634, 2009, 0.25, ("S1", "S2", "S3", "S4"), 1),
}
"""50 Salads: of the release's labels. Breakfast: as published. GTEA: as is generally known, no source was at hand."""


def make_folder(root: Path, size: Size, labels: Path | None = None) -> None:
    """Write a data folder in the MS-TCN layout.

    Args:
        root: the folder to make.
        size: of the data set.
        labels: a folder with the mapping, splits and labels of a release, which are copied; features are made for its
            labels. None: made-up labels with one fold, of `size`.
    """
    random = np.random.default_rng(1)
    layout = Layout(root)
    if labels is not None:
        shutil.copytree(labels, root)
        layout.root.joinpath("features").mkdir()
        for path in sorted(layout.root.joinpath("groundTruth").iterdir()):
            _write_features(layout.features(path.stem), len(path.read_text().split()), random)
        return
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    layout.mapping.write_text("".join(f"{k} action{k}\n" for k in range(size.classes)))
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for number, frames in enumerate(size.lengths()):
        subject = number % len(size.subjects)
        name = f"{size.subjects[subject]}_{number}"
        parts["test" if subject < size.tested else "train"].append(f"{name}.txt\n")
        actions = np.sort(random.integers(0, 7, frames)) + random.integers(0, size.classes - 7)
        layout.ground_truth(name).write_text("".join(f"action{k}\n" for k in actions.tolist()))
        _write_features(layout.features(name), frames, random)
    for part, names in parts.items():
        (root / "splits" / f"{part}.split1.bundle").write_text("".join(names))


def _write_features(path: Path, frames: int, random: np.random.Generator) -> None:
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (I3D_SIZE, frames)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        size = start + 4 * I3D_SIZE * frames
        block = random.random(BLOCK // 4, dtype=np.float32).tobytes()
        for at in range(start, size - BLOCK, EVERY * BLOCK):
            file.seek(at)
            file.write(block)
        file.truncate(size)
