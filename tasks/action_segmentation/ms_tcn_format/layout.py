"""The layout of the MS-TCN data release: its folders, and reading and checking its text files.

    ROOT/mapping.txt                    one class a line: index name
    ROOT/features/<video>.npy           (D, T) floats; `feature_files` reads them
    ROOT/groundTruth/<video>.txt        one class name a line, T lines
    ROOT/splits/train.split<fold>.bundle, test.split<fold>.bundle    one <video>.txt a line

Every function that reads takes a `report`, which is called with each problem found. That of a training,
`tasks.spec.fail`, raises at the first problem; that of `tasks.action_segmentation.check` collects all of them.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rfnext import files
from tasks import file_names
from tasks.spec import Report

LONGEST_NAME = 255
"""Characters of a name of a class or a video."""

LONGEST, MOST_LINES = 2**26, 2**22
"""Bytes and lines of the longest text file: labels of 38 hours of video at 30 frames per second."""


@dataclass(frozen=True)
class Layout:
    """Paths of the files of a data folder."""

    root: Path

    @property
    def mapping(self) -> Path:
        """File of the class names and their indices."""
        return self.root / "mapping.txt"

    def features(self, video: str) -> Path:
        """File of a video's features, (D, T)."""
        return self.root / "features" / f"{video}.npy"

    def ground_truth(self, video: str) -> Path:
        """File of a video's labels, one class name a line."""
        return self.root / "groundTruth" / f"{video}.txt"

    def bundle(self, part: Literal["train", "test"], fold: int) -> Path:
        """File that names the videos of a part of a fold."""
        return self.root / "splits" / f"{part}.split{fold}.bundle"

    def folds(self) -> tuple[int, ...]:
        """The numbers of all folds that have a bundle, in order."""
        names = (re.fullmatch(r"(?:train|test)\.split(\d+)\.bundle", p.name) for p in self.root.glob("splits/*"))
        return tuple(sorted({int(found[1]) for found in names if found}))


def open_layout(root: str | Path, report: Report) -> Layout:
    """The layout of a folder; a missing folder is reported."""
    layout = Layout(Path(root))
    if not layout.root.is_dir():
        fix = "give a folder with features/, groundTruth/, splits/ and mapping.txt"
        report(layout.root, None, "no such folder", fix)
    return layout


def read_mapping(layout: Layout, report: Report) -> dict[str, int]:
    """Class name -> index; the indices are 0 .. n - 1."""
    path, lines = layout.mapping, _read_lines(layout.mapping, report)
    index: dict[str, int] = {}
    names: dict[int, str] = {}
    for number, line in enumerate(lines or (), start=1):
        fields = line.split()
        if len(fields) != 2 or not fields[0].isdecimal() or len(line) > LONGEST_NAME:
            report(path, number, f"{_shown(line)} is not an index and a name", 'write one class a line: "0 cut"')
            continue
        key, name = int(fields[0]), fields[1]
        if name in index:
            report(path, number, f"class {name!r} is listed twice", "take one of the lines out")
        elif key in names:
            what = f"index {key} is already that of {names[key]!r}"
            report(path, number, what, "give every class its own index")
        else:
            index[name], names[key] = key, name
    if lines == []:
        report(path, 1, "no class is listed", 'write one class a line: "0 cut"')
    elif missing := sorted(set(range(len(names))) - set(names)):
        report(path, len(lines or ()), f"no class has index {missing[0]}", "number the classes 0, 1, 2, ...")
    return index


def read_fold(layout: Layout, fold: int, report: Report) -> tuple[dict[str, int], dict[str, int]]:
    """The videos of the training and of the test bundle, each with the line that names it."""
    train_path, test_path = layout.bundle("train", fold), layout.bundle("test", fold)
    fix = f"add it or choose another fold (there are: {', '.join(map(str, layout.folds())) or 'none'})"
    train = read_bundle(train_path, report, fix)
    test = read_bundle(test_path, report, fix)
    for video, line in test.items():
        if video in train:
            what = f"{video} is also in the training part, {train_path.name}:{train[video]}"
            report(test_path, line, what, "take it out of one of the two")
    return train, test


def read_bundle(path: Path, report: Report, mend_missing: str = "add it") -> dict[str, int]:
    """Names of the videos of a bundle, without ".txt", each with its line."""
    lines = _read_lines(path, report, mend_missing)
    videos: dict[str, int] = {}
    for number, line in enumerate(lines or (), start=1):
        video = line.removesuffix(".txt")
        if not video or len(video) > LONGEST_NAME or Path(video).name != video:
            report(path, number, f"{_shown(line)} is not the name of a video", "write one <video>.txt a line")
        elif video in videos:
            report(path, number, f"{video} is already named in line {videos[video]}", "take one out")
        else:
            videos[video] = number
    if lines == []:
        report(path, 1, "the bundle is empty", "write one <video>.txt a line")
    return videos


def read_labels(layout: Layout, video: str, index: Mapping[str, int], report: Report) -> NDArray[np.int64] | None:
    """Class index of every frame: (T). Each unknown name is reported once, at its first line."""
    path = layout.ground_truth(video)
    lines = _read_lines(path, report, f"add it or take {video} out of the bundles")
    if lines == []:
        report(path, 1, "no frame is labelled", "write one class name a line, as many as frames")
    if not lines:
        return None
    labels = np.array([index.get(line, -1) for line in lines], dtype=np.int64)
    # If there is no class at all, the mapping is wrong, not every label.
    unknown = Counter(lines[k] for k in np.flatnonzero(labels < 0)) if index else {}
    for name, count in unknown.items():
        what = f"{_shown(name)} ({count} of {len(lines)} lines) is no class of {layout.mapping.name}"
        report(path, lines.index(name) + 1, what, "correct it or add the class")
    return labels


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}..."


def _read_lines(path: Path, report: Report, mend_missing: str = "add it") -> list[str] | None:
    """Stripped lines without the blank ones at the end; None, once reported, if the file cannot be read."""
    text = read_text(path, report, mend_missing)
    return None if text is None else [line.strip() for line in files.lines_of(text)]


def read_text(path: Path, report: Report, mend_missing: str = "add it") -> str | None:
    """The text of a UTF-8 file; None, once reported, if it cannot be read, or is longer than `LONGEST` or `MOST_LINES`
    (words, where they stand in one line)."""
    try:
        text = files.read_text(path, LONGEST)
        if text.count("\n") <= MOST_LINES:
            return text
        report(path, None, f"it has more than {MOST_LINES} lines", "cut the video into shorter ones")
    except FileNotFoundError:
        report(path, None, "no such file", file_names.mend_missing(path, mend_missing))
    except ValueError as error:
        report(path, None, f"not a text file of labels or names ({error})", "save it as UTF-8, one name a line")
    except OSError as error:
        report(path, None, f"cannot be read ({error.strerror})", "make it a readable file")
    return None
