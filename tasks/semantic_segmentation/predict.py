"""Segment images: `python -m tasks.semantic_segmentation.predict IMAGE... --checkpoint model.pt [--out FOLDER]`.

Writes NAME.png for each image: the class of each pixel, as in the labels of own data, with a palette to look at it, and
classes.txt beside them. With --labels FOLDER (NAME.png, as in own data) it prints the IoU of each class.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from rfnext.files import write_bytes, write_text
from tasks import checkpoint
from tasks.command_line import add_device, status_of
from tasks.semantic_segmentation import metrics
from tasks.semantic_segmentation.evaluation import predict
from tasks.semantic_segmentation.folder import read_image, read_labels
from tasks.semantic_segmentation.illustrate import palette
from tasks.spec import device_of, fail


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 3 for an image or labels that cannot be used, 1 for other files."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.semantic_segmentation.predict",
        description="Segment images. Writes a PNG with the class of each pixel for each, and classes.txt.",
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of a cell, selected.pt of a training")
    parser.add_argument("--out", type=Path, default=Path("predictions"), help="output folder (default: %(default)s)")
    parser.add_argument("--labels", type=Path, help="folder of NAME.png to compare with")
    add_device(parser)
    given = parser.parse_args(arguments)
    if len({path.stem for path in given.images}) < len(given.images):
        parser.error("two images have the same name, and so would their predictions; predict them one by one")
    labels = [given.labels / f"{path.stem}.png" for path in given.images] if given.labels is not None else []
    written = {(given.out / f"{path.stem}.png").resolve() for path in given.images}
    if not written.isdisjoint(path.resolve() for path in (*given.images, *labels)):
        parser.error("argument --out: predictions would replace the images or labels that are there; give another")
    return status_of(lambda: _predict(given))


def _predict(given: argparse.Namespace) -> int:
    opened = checkpoint.load(given.checkpoint, "semantic_segmentation")
    classes = opened.facts["classes"]
    for path in given.images:
        read_image(path, fail)  # before anything is written: a broken one would be found after the others
    if given.labels is not None:
        _same_classes(given.labels.parent / "classes.txt", classes, "give labels of the network's classes")
        for path in given.images:
            read_labels(given.labels / f"{path.stem}.png", classes, fail)
    _same_classes(given.out / "classes.txt", classes, "give another folder by --out")
    opened.model.to(device_of(given.device))
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for path in given.images:
        image = read_image(path, fail)
        assert image is not None  # `fail` never returns
        found = predict(opened.model, image, opened.config.image)
        picture, buffer = Image.fromarray(found), io.BytesIO()
        picture.putpalette(palette().tobytes())
        picture.save(buffer, "PNG")
        write_bytes(given.out / f"{path.stem}.png", buffer.getvalue())
        if given.labels is not None:
            matrix += _compared(given.labels / f"{path.stem}.png", found, classes)
    write_text(given.out / "classes.txt", "\n".join(classes) + "\n")
    print(f"{len(given.images)} images: {given.out}")
    if given.labels is not None:
        for name, iou in zip(classes, metrics.class_iou(matrix), strict=True):
            print(f"{name}: " + ("neither labelled nor predicted" if np.isnan(iou) else f"IoU {iou:.1f} %"))
        print(", ".join(f"{name} {value:.1f} %" for name, value in metrics.scores(matrix).items()))
    return 0


def _same_classes(path: Path, classes: Sequence[str], fix: str) -> None:
    """Refuse a folder whose values have other names."""
    if path.exists() and [line.strip() for line in path.read_text("utf-8-sig").rstrip().splitlines()] != [*classes]:
        fail(path, None, "has other classes than the network, or another order", fix)


def _compared(path: Path, found: np.ndarray, classes: Sequence[str]) -> metrics.Confusion:
    labels = read_labels(path, classes, fail)
    assert labels is not None  # `fail` never returns
    if labels.shape != found.shape:
        fail(path, None, "is not of the size of its image", "give labels of the size of their image")
    return metrics.confusion(labels, found, len(classes))


if __name__ == "__main__":
    sys.exit(main())
