"""Check own data: `python -m tasks.semantic_segmentation.check PATH`.

Reads every pixel. Prints every problem found, of one file the first 20, one a line, as "file:line: problem; how to fix
it", and exits with 1; or a summary with the share of each class, and 0.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.findings import Findings
from tasks.semantic_segmentation.folder import IGNORED, read_folder, read_image, read_labels


def check(root: Path, report: Findings) -> str:
    """Report what is wrong with a data folder; returns what could be read, and raises nothing for bad data."""
    folder = read_folder(root, report)
    if folder is None:
        return ""
    images = {name: files.image for name, files in folder.samples.items()}
    if folder.test is None:
        report.check_twins(root / "images", list(images.values()))
    else:
        tested = [images.pop(name) for name in dict.fromkeys(folder.test)]  # a name that is listed twice is reported
        report.check_twins(root / "images", tested, images.values())
    pixels = np.zeros(IGNORED + 1, np.int64)
    for files in folder.samples.values():
        read_image(files.image, report)
        labels = read_labels(files.labels, folder.classes, report)
        if labels is not None:
            pixels += np.bincount(labels.ravel(), minlength=IGNORED + 1)
    known = max(1, int(pixels[:IGNORED].sum()))
    shares = (f"{name} {100 * count / known:.1f} %" for name, count in zip(folder.classes, pixels, strict=False))
    test = "a share of them is held out" if folder.test is None else f"{len(folder.test)} for testing"
    ignored = 100 * pixels[IGNORED] / max(1, int(pixels.sum()))
    return f"{len(folder.samples)} images, {test}; {', '.join(shares)}; {ignored:.1f} % of all pixels have no class"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.semantic_segmentation.check",
        description="Check a folder of images/, labels/ and classes.txt. Prints every problem as file:line: problem; "
        "how to fix it, and exits with 1 if there is one.",
    )
    parser.add_argument("path", type=Path, help="the data folder")
    report = Findings()
    return report.end(check(parser.parse_args(arguments).path, report))


if __name__ == "__main__":
    sys.exit(main())
