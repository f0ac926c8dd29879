"""The embedded scenes of detection and of semantic segmentation: real digit glyphs on real photographs.

Sources, both installed from PyPI: the 1,797 handwritten digits of scikit-learn's `load_digits` (8 x 8, test set of
UCI's optdigits, CC BY 4.0) and the photographs in scikit-image's wheel (each with its licence in
skimage/data/README.txt). Real: every glyph's shape and every photograph's pixels. Composed, by rules that depend on a
seed alone: which lies where, at what size and in what colour. So this is a small problem with exact
annotations, not a substitute for real scenes.

A scene is 256 x 256: two photographs, divided by a random straight line, and up to eight digits lie on them, the larger
below the smaller. A digit's height is drawn log-uniformly from 15 to 240 pixels, four octaves, so that no single
receptive field suits all; or from another smallest height. Things are the digits 0 to 9, stuff is the kind of
photograph. Masks are the very pixels that were painted and that no later digit covers; boxes are tight around them.

Each fold holds out a third of every photograph (left, middle, right) and a third of the glyphs (in the order of
the data, which is by writers) for its test scenes: no pixel and no glyph of a test scene occurs in training.
"""

import importlib.util
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rfnext.files import reason
from tasks.spec import fail

SIDE = 256
"""Height and width of a scene in pixels."""

SMALLEST, LARGEST = 15.0, 240.0
"""Smallest (by default) and largest height of a digit in pixels: four octaves."""

MOST_DIGITS = 8
FOLDS = (1, 2, 3)

PHOTOGRAPHS = {
    "texture": ("brick.png", "grass.png", "gravel.png"),
    "space": ("hubble_deep_field.jpg", "moon.png", "rocket.jpg"),
    "tissue": ("cell.png", "ihc.png", "retina.jpg"),
    "everyday": ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png"),
}
"""Stuff class -> files in skimage/data."""

STUFF = {name: 11 + k for k, name in enumerate(PHOTOGRAPHS)}
"""Stuff class -> its category id; the digit d has the id 1 + d."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def missing() -> str | None:
    """Which of the two packages is not installed, or None."""
    for package, pip in (("skimage", "scikit-image"), ("sklearn", "scikit-learn")):
        if importlib.util.find_spec(package) is None:
            return f"the embedded scenes are made of what {pip} brings, and it is not installed; pip install {pip}"
    return None


@dataclass(frozen=True)
class Source:
    """What scenes of one part are composed of.

    photographs: kind -> crops of photographs, (height, width, 3). glyphs: one list per digit, each (8, 8) in 0 .. 16.
    smallest: height of the smallest digit in pixels.
    """

    photographs: dict[str, list[Pixels]]
    glyphs: list[list[NDArray[np.float32]]]
    smallest: float = SMALLEST

    @classmethod
    def open(cls, fold: int, *, held_out: bool, digits: int, smallest: float = SMALLEST) -> "Source":
        """The fold's third of everything if `held_out`, else the other two thirds; of the digits below `digits`."""
        from sklearn.datasets import load_digits

        spec = importlib.util.find_spec("skimage")
        assert spec is not None
        assert spec.submodule_search_locations
        folder = Path(spec.submodule_search_locations[0]) / "data"
        photographs = {
            kind: [crop for file in files for crop in _thirds(_read(folder / file), fold, held_out)]
            for kind, files in PHOTOGRAPHS.items()
        }
        written: Any = load_digits()
        third = np.arange(len(written.images)) * 3 // len(written.images) + 1
        chosen = (third == fold) == held_out
        glyphs = [
            [image.astype(np.float32) for image in written.images[chosen & (written.target == digit)]]
            for digit in range(digits)
        ]
        return cls(photographs, glyphs, smallest)


def _read(path: Path) -> Pixels:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        fail(path, None, f"cannot be read ({reason(error)})", "pip install --force-reinstall scikit-image")


def _thirds(image: Pixels, fold: int, held_out: bool) -> Iterator[Pixels]:
    width = image.shape[1]
    cuts = [0, width // 3, 2 * width // 3, width]
    for third in FOLDS:
        if (third == fold) == held_out:
            yield image[:, cuts[third - 1] : cuts[third]]


@dataclass(frozen=True)
class Scene:
    """image: (SIDE, SIDE, 3). segments: (SIDE, SIDE), 0 .. number of `categories` - 1. categories: ids by segment."""

    image: Pixels
    segments: NDArray[np.int64]
    categories: list[int]


def compose(source: Source, seed: str) -> Scene:
    """The scene of a seed."""
    # Only `random()` is used: of all generators' methods, only its numbers are guaranteed to stay the same.
    draw = random.Random(seed).random
    kinds = sorted(source.photographs, key=lambda _: draw())[:2]
    image = _background(_choose(source.photographs[kinds[0]], draw), draw)
    other = _background(_choose(source.photographs[kinds[1]], draw), draw)
    angle, offset = 2 * math.pi * draw(), SIDE * (0.5 * draw() - 0.25)
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    beyond = x * math.cos(angle) + y * math.sin(angle) > offset
    image = np.where(beyond[..., None], other, image)
    segments = beyond.astype(np.int64)
    categories = [STUFF[kind] for kind in kinds]

    low, high = map(math.log, (source.smallest, LARGEST))
    heights = sorted(math.exp(low + (high - low) * draw()) for _ in range(2 + int((MOST_DIGITS - 1) * draw())))
    for height in reversed(heights):
        digit = int(len(source.glyphs) * draw())
        shade, mask = _glyph(_choose(source.glyphs[digit], draw), height, 0.8 + 0.45 * draw())
        for _ in range(10):
            place = _place(segments, mask, draw)
            if place is not None:
                rows, columns = place
                _paint(image[rows, columns], shade, mask, draw)
                segments[rows, columns][mask] = len(categories)
                categories.append(1 + digit)
                break
    return Scene(image.astype(np.uint8), segments, categories)


def _choose(items: list[Any], draw: Callable[[], float]) -> Any:
    return items[int(len(items) * draw())]


def _background(photograph: Pixels, draw: Callable[[], float]) -> Pixels:
    """A random square of the photograph, mirrored or not; its side is 0.5 to 1 of the shorter one: (SIDE, SIDE, 3)."""
    height, width, _ = photograph.shape
    side = int(min(height, width) * (0.5 + 0.5 * draw()))
    top, left = int((height - side + 1) * draw()), int((width - side + 1) * draw())
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    scaled = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return scaled[:, ::-1] if draw() < 0.5 else scaled


def _glyph(pixels: NDArray[np.float32], height: float, stretch: float) -> tuple[NDArray[np.float32], Mask]:
    """The glyph scaled to a height, and which of its pixels are ink: both tight around the ink.

    stretch: factor of the width beside that of the height.
    """
    rows, columns = np.nonzero(pixels > 4)
    ink = Image.fromarray(pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] / 16)
    width = min(height * stretch * ink.width / ink.height, SIDE - 16)
    shade = np.asarray(ink.resize((max(4, round(width)), round(height)), Image.Resampling.BICUBIC))
    mask = shade > 0.4
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    tight = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return shade[tight], mask[tight]


def _place(segments: NDArray[np.int64], mask: Mask, draw: Callable[[], float]) -> tuple[slice, slice] | None:
    """A random place for a glyph; None if it would cover more than a tenth of a digit that is there."""
    height, width = mask.shape
    top, left = int((SIDE - height + 1) * draw()), int((SIDE - width + 1) * draw())
    place = slice(top, top + height), slice(left, left + width)
    covered = np.bincount(segments[place][mask], minlength=2)[2:]
    there = np.bincount(segments.ravel(), minlength=len(covered) + 2)[2 : 2 + len(covered)]
    return place if (covered <= 0.1 * there).all() else None


def _paint(window: Pixels, shade: NDArray[np.float32], mask: Mask, draw: Callable[[], float]) -> None:
    """Paint the ink in a random colour that stands out from what it covers; darker where the ink is thin."""
    brightness = float(window[mask].mean())
    colour = np.array([draw(), draw(), draw()])
    colour = 60 * colour if brightness > 128 else 255 - 60 * colour
    tint = int(3 * draw())
    colour[tint] = 255 - colour[tint]
    ink = colour * (0.7 + 0.3 * np.clip(shade[mask], 0, 1))[:, None]
    window[mask] = ink.astype(np.uint8)
