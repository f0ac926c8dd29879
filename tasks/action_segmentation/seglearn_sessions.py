"""The embedded default data: real wrist recordings from PyPI's `seglearn`, in the layout of `ms_tcn_format/layout.py`.

Source: `watch_dataset.npy` of the seglearn 1.2.5 wheel (BSD licence), recorded for Burns et al., "Shoulder
Physiotherapy Exercise Recognition: Machine Learning the Inertial Signals from a Smartwatch", 2018
(arXiv:1802.01489). 140 recordings of 3 accelerometer and 3 gyroscope axes at 50 Hz: 10 subjects, both wrists,
7 shoulder exercises, 20 repetitions in 19 to 52 s each.

Every sample and the label of every frame are real. The order is composed, by fixed rules that depend on no run's seed:
each recording is cut at two points into three bouts of unequal length, and each of the three sessions of a subject's
wrist joins one bout of every exercise, in an order of its own. So the change from one exercise to the next is a jump,
not a real transition, and there is no typical order to learn.

A frame is a tenth of a second: mean and standard deviation of each of the 6 axes over 5 samples, D = 12, in
the units of the recordings (g and rad/s by their size), not normalised. 60 sessions of 435 to 1,187 frames,
bouts of 30 to 272 frames. Folds 1 to 5 each leave out two subjects.
"""

import hashlib
import importlib.util
import io
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rfnext.files import cache_folder, new_folder
from tasks.action_segmentation.ms_tcn_format.layout import Layout
from tasks.spec import DataError, fail

SHA256 = "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537"
CLASSES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
"""Pendulum, abduction, forward elevation, internal rotation, external rotation, trapezius extension and
upright row, by the names in the data."""

VERSION = 1
"""Part of the cache folder's name: raise it with any change of what is written there."""

SAMPLES_PER_FRAME = 5
SESSIONS = 3
SUBJECTS = range(1, 11)
FOLDS = (1, 2, 3, 4, 5)
GROUP = r"subject\d+"
"""Regular expression that finds the subject in a session's name."""

README = f"""Made by tasks/action_segmentation/seglearn_sessions.py (version {VERSION}) from watch_dataset.npy
of seglearn 1.2.5 (BSD licence). Signals and labels are real, the order of the exercises is composed. Delete
this folder to have it made again.
"""


def source() -> Path:
    """The recordings in the installed seglearn, found without importing it; DataError if it is missing."""
    package = importlib.util.find_spec("seglearn")
    if package is None or not package.submodule_search_locations:
        raise DataError("the package seglearn with the wrist recordings is missing; pip install seglearn==1.2.5")
    path = Path(package.submodule_search_locations[0]) / "data" / "watch_dataset.npy"
    if not path.is_file():
        fail(path, None, "no such file", "pip install --force-reinstall seglearn==1.2.5")
    return path


def prepare() -> Path:
    """The data folder, made on the first call (a second or two).

    Safe with several processes: each builds a folder of its own, and the first one that is done is renamed.
    Raises DataError if seglearn is missing or its file is not the expected one, OSError if nothing can be
    written.
    """
    folder = cache_folder() / f"seglearn_sessions-v{VERSION}"
    if folder.is_dir():
        return folder
    recordings = read_recordings(source())
    with new_folder(folder) as building:
        _write(Layout(building), recordings)
    return folder


Recordings = dict[tuple[int, str, str], NDArray[np.float64]]
"""(subject, side, exercise) -> (samples, 6)"""


def read_recordings(path: Path) -> Recordings:
    """The recordings of `source()`. Raises DataError if it is another file."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256:
        fail(path, None, "not the file of seglearn 1.2.5", "pip install --force-reinstall seglearn==1.2.5")
    # The only pickle of this project. It is safe to read, because its hash is known.
    table = np.load(io.BytesIO(data), allow_pickle=True).item()
    names = table["y_labels"]
    rows = zip(table["subject"], table["side"], table["y"], table["X"], strict=True)
    return {(int(who), "right" if side else "left", names[what]): x for who, side, what, x in rows}


def _write(layout: Layout, recordings: Recordings) -> None:
    for folder in ("features", "groundTruth", "splits"):
        (layout.root / folder).mkdir()
    (layout.root / "README.txt").write_text(README)
    layout.mapping.write_text("".join(f"{index} {name}\n" for index, name in enumerate(CLASSES)))
    names: dict[int, list[str]] = {}
    for subject in SUBJECTS:
        for side in ("left", "right"):
            for number, bouts in enumerate(_sessions(recordings, subject, side), start=1):
                name = f"subject{subject:02d}_{side}_{number}"
                frames = [_frames(samples) for _, samples in bouts]
                np.save(layout.features(name), np.concatenate(frames, axis=1))
                lines = [exercise for (exercise, _), part in zip(bouts, frames, strict=True) for _ in part.T]
                layout.ground_truth(name).write_text("\n".join(lines) + "\n")
                names.setdefault(subject, []).append(name)
    for fold in FOLDS:
        left_out = (2 * fold - 1, 2 * fold)
        parts = {True: "", False: ""}
        for subject, sessions in names.items():
            parts[subject in left_out] += "".join(f"{name}.txt\n" for name in sessions)
        layout.bundle("test", fold).write_text(parts[True])
        layout.bundle("train", fold).write_text(parts[False])


def _sessions(recordings: Recordings, subject: int, side: str) -> Iterator[list[tuple[str, NDArray[np.float64]]]]:
    """The sessions of one wrist, each a list of (exercise, samples)."""
    # Only `random()` is used: Python guarantees that its numbers never change, unlike those of other methods.
    draw = random.Random(f"seglearn sessions {subject} {side}").random
    bouts: dict[str, list[NDArray[np.float64]]] = {}
    for exercise in CLASSES:
        recording = recordings[subject, side, exercise]
        first = 0.15 + 0.35 * draw()  # shares of the first two bouts; the third has the rest, 15 to 70 %
        second = 0.15 + (0.7 - first) * draw()
        cuts = [round(share * len(recording)) for share in (first, first + second)]
        parts = np.split(recording, cuts)
        bouts[exercise] = sorted(parts, key=lambda _: draw())
    for number in range(SESSIONS):
        order = sorted(CLASSES, key=lambda _: draw())
        yield [(exercise, bouts[exercise][number]) for exercise in order]


def _frames(samples: NDArray[np.float64]) -> NDArray[np.float32]:
    """(samples, 6) -> (12, samples // 5): means of all axes, then standard deviations."""
    windows = samples[: len(samples) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME, 6)
    return np.concatenate([windows.mean(axis=1), windows.std(axis=1)], axis=1).T.astype(np.float32)
