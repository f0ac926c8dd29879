"""Check own data: `python -m tasks.semantic_segmentation.check PATH`.

Reads every pixel. Prints every problem found, one a line, as "file:line: problem; how to fix it", and exits with 1; or
a summary with the share of each class, and 0.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tasks.semantic_segmentation.folder import IGNORED, read_folder, read_image, read_labels
from tasks.spec import Problem


def check(root: Path) -> tuple[list[Problem], str]:
    """What is wrong with a data folder, and a summary of what could be read; raises nothing for bad data."""
    problems: list[Problem] = []

    def report(path: Path, line: int | None, what: str, fix: str) -> None:
        problems.append(Problem(path, line, what, fix))

    folder = read_folder(root, report)
    if folder is None:
        return problems, ""
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
    summary = f"{len(folder.samples)} images, {test}; {', '.join(shares)}; {ignored:.1f} % of all pixels have no class"
    return problems, summary


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.semantic_segmentation.check",
        description="Check a folder of images/, labels/ and classes.txt. Prints every problem as file:line: problem; "
        "how to fix it, and exits with 1 if there is one.",
    )
    parser.add_argument("path", type=Path, help="the data folder")
    problems, summary = check(parser.parse_args(arguments).path)
    if problems:
        print(*problems, sep="\n")
        return 1
    print(f"fine: {summary}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
