"""Pictures of predictions on images: colours, sheets of tiles, PNGs that are small enough to be committed."""

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 90_000
"""Bytes of a picture: it is committed with the results."""


def sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], side: int) -> Image.Image:
    """Images (height, width, 3) in rows and columns, each made to fit into a square of `side` pixels."""
    found = Image.new("RGB", (side * max(map(len, rows)), side * len(rows)), "white")
    for number, row in enumerate(rows):
        for column, tile in enumerate(row):
            picture = Image.fromarray(tile)
            picture.thumbnail((side, side))
            found.paste(picture, (side * column, side * number))
    return found


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG of at most `LARGEST` bytes, in as few colours as that takes."""
    buffer = io.BytesIO()
    for colours in (128, 64, 32, 16, 8):
        buffer = io.BytesIO()
        picture.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
        if buffer.tell() <= LARGEST:
            break
    return buffer.getvalue()


def colour(number: int) -> str | tuple[int, int, int]:
    """One of many well distinguished colours: hues a golden angle apart."""
    hue = number * 0.618034 % 1 * 6
    red, green, blue = (
        round(255 * min(1, max(0, value))) for value in (abs(hue - 3) - 1, 2 - abs(hue - 2), 2 - abs(hue - 4))
    )
    return red, green, blue
