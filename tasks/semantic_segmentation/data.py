"""The parts of a fold: images and labels, of embedded scenes in memory, of own data read when they are asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.scenes import PHOTOGRAPHS, STUFF, Source, compose
from tasks.semantic_segmentation.folder import Files, Folder, read_image, read_labels
from tasks.spec import Part, fail

Pixels = NDArray[np.uint8]


class Sample(NamedTuple):
    """image: (height, width, 3), RGB. labels: (height, width), a class or `folder.IGNORED`."""

    image: Pixels
    labels: Pixels


class Samples(Protocol):
    """The images of a part."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


@dataclass(frozen=True)
class Dataset:
    """One fold. train and validation are carved out of the same images."""

    classes: tuple[str, ...]
    train: Samples
    validation: Samples
    test: Samples

    def part(self, part: Part) -> Samples:
        """The images of a part."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[part]


def scene_classes(digits: int) -> tuple[str, ...]:
    """The classes of the embedded scenes: kinds of photographs, then digits."""
    return (*PHOTOGRAPHS, *(f"digit {digit}" for digit in range(digits)))


def held_out(train: int, validation: float) -> int:
    """How many of the training scenes are the validation part."""
    return min(max(1, round(validation * train)), train - 1)


def open_scenes(fold: int, train: int, test: int, digits: int, smallest: float, validation: float) -> Dataset:
    """The embedded scenes of a fold (`tasks.scenes`); those of training and test share no photograph and no glyph."""
    kept = train - held_out(train, validation)
    sources = [Source.open(fold, held_out=tests, digits=digits, smallest=smallest) for tests in (False, True)]
    whole = [_scene(sources[0], f"digit scenes {fold} train {number}") for number in range(train)]
    tested = [_scene(sources[1], f"digit scenes {fold} test {number}") for number in range(test)]
    return Dataset(scene_classes(digits), whole[:kept], whole[kept:], tested)


def _scene(source: Source, seed: str) -> Sample:
    """A scene with the class of each pixel: what lies on top there."""
    scene = compose(source, seed)
    stuff = {category: index for index, category in enumerate(STUFF.values())}
    classes = [stuff.get(category, len(stuff) + category - 1) for category in scene.categories]
    return Sample(scene.image, np.array(classes, np.uint8)[scene.segments])


class OwnSamples:
    """Images of own data, read one by one. Raises DataError, naming the file, for one that cannot be used."""

    def __init__(self, files: Sequence[Files], classes: Sequence[str]) -> None:
        self.files, self.classes = files, classes

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        files = self.files[index]
        image, labels = read_image(files.image, fail), read_labels(files.labels, self.classes, fail)
        assert image is not None  # `fail` never returns
        assert labels is not None
        if image.shape[:2] != labels.shape:  # files that changed since the sizes were compared
            fail(files.labels, None, "is not of the size of its image", "give labels of the size of their image")
        return Sample(image, labels)


def open_own(root: Path, folder: Folder, validation: float, test: float) -> Dataset:
    """Own data: the test part is what test.txt names, or else a share; which images depends on their names alone.

    Raises DataError if a part would have no image.
    """
    names = list(folder.samples)
    tested = set(folder.test) if folder.test is not None else set(carve(names, test))
    rest = [name for name in names if name not in tested]
    validated = set(carve(rest, validation))
    chosen = {
        "train": [name for name in rest if name not in validated],
        "validation": [name for name in rest if name in validated],
        "test": [name for name in names if name in tested],
    }
    for part, wanted in chosen.items():
        if not wanted:
            fail(root / "images", None, f"none of the {len(names)} images is left for {part}", "add images")
    parts = {part: OwnSamples([folder.samples[n] for n in wanted], folder.classes) for part, wanted in chosen.items()}
    return Dataset(folder.classes, **parts)


def carve(names: Sequence[str], share: float) -> list[str]:
    """The `share` of names, at least one if there is any, with the smallest hashes: a new image moves few others."""
    ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
    return ordered[: max(1, round(share * len(ordered)))]
