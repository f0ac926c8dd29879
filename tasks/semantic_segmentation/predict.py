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

from rfnext.files import lines_of, read_text, reason, write_bytes, write_text
from tasks import checkpoint
from tasks.command_line import add_device, status_of
from tasks.diverged import on_file
from tasks.file_names import real_path
from tasks.semantic_segmentation import metrics
from tasks.semantic_segmentation.evaluation import predict
from tasks.semantic_segmentation.folder import Pixels, read_image, read_labels
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
    written = {real_path(given.out / f"{path.stem}.png") for path in given.images}
    if not written.isdisjoint(map(real_path, (*given.images, *labels))):
        parser.error("argument --out: predictions would replace the images or labels that are there; give another")
    return status_of(lambda: _predict(given))


def _predict(given: argparse.Namespace) -> int:
    opened = checkpoint.load(given.checkpoint, "semantic_segmentation")
    classes = opened.facts["classes"]
    if given.labels is not None:
        _same_classes(given.labels.parent / "classes.txt", classes, "give labels of the network's classes")
    # All are read before anything is computed and written. They are read again then: together they may fill the memory.
    for path in given.images:
        _read(path, given.labels, classes)
    _same_classes(given.out / "classes.txt", classes, "give another folder by --out")
    opened.model.to(device_of(given.device))
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    for path in given.images:
        image, labels = _read(path, given.labels, classes)
        with on_file(path):
            found = predict(opened.model, image, opened.config.image)
        picture, buffer = Image.fromarray(found), io.BytesIO()
        picture.putpalette(palette().tobytes())
        picture.save(buffer, "PNG")
        write_bytes(given.out / f"{path.stem}.png", buffer.getvalue())
        if labels is not None:
            matrix += metrics.confusion(labels, found, len(classes))
    write_text(given.out / "classes.txt", "\n".join(classes) + "\n")
    print(f"{len(given.images)} images: {given.out}")
    if given.labels is not None:
        for name, iou in zip(classes, metrics.class_iou(matrix), strict=True):
            print(f"{name}: " + ("neither labelled nor predicted" if np.isnan(iou) else f"IoU {iou:.1f} %"))
        print(", ".join(f"{name} {value:.1f} %" for name, value in metrics.scores(matrix).items()))
    return 0


def _same_classes(path: Path, classes: Sequence[str], fix: str) -> None:
    """Refuse a folder whose values have other names."""
    if not path.exists():
        return
    try:
        lines = lines_of(read_text(path))
    except (OSError, ValueError) as error:
        fail(path, None, f"cannot be read ({reason(error)})", fix)
    if [line.strip() for line in lines] != [*classes]:
        fail(path, None, "has other classes than the network, or another order", fix)


def _read(path: Path, labels: Path | None, classes: Sequence[str]) -> tuple[Pixels, Pixels | None]:
    """An image, and its labels, if there is a folder of them. Raises DataError, OSError."""
    image = read_image(path, fail)
    assert image is not None  # `fail` never returns
    if labels is None:
        return image, None
    place = labels / f"{path.stem}.png"
    found = read_labels(place, classes, fail)
    assert found is not None
    if found.shape != image.shape[:2]:
        fail(place, None, "is not of the size of its image", "give labels of the size of their image")
    return image, found


if __name__ == "__main__":
    sys.exit(main())
