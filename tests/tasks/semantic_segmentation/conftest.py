"""Own data of a few small images."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write(root: Path, images: int = 8, side: int = 32) -> Path:
    """Images of a bright square on a dark ground, and their labels: 0 ground, 1 square, 255 a border around it."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("ground\nsquare\n")
    rng = np.random.default_rng(0)
    for number in range(images):
        labels = np.zeros((side, side + 4), np.uint8)
        top, left = rng.integers(2, side // 2 - 2, 2)
        labels[top - 1 : top + side // 2 + 1, left - 1 : left + side // 2 + 1] = 255
        labels[top : top + side // 2, left : left + side // 2] = 1
        pixels = np.where(labels[..., None] == 1, 200, 40) + rng.integers(0, 30, (*labels.shape, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(labels).save(root / "labels" / f"{number}.png")
    return root


@pytest.fixture
def own_data(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data folder and returns it."""
    return lambda **given: write(tmp_path / "mine", **given)
