"""A detector that RF-Next released for MMDetection 2 as a file of ours, by `python -m tasks.coco_detection.published`.

It reads the released checkpoint and the structure file of its step, and writes a file like the selected.pt of a
training: `predict` opens it, and `benchmarks.run coco_detection METHOD --init FILE` scores it or goes on from it. The
names are those of published.toml, which has the links. Without --checkpoint and --structure, the two files are fetched
into the cache (`rfnext.files.cache_folder`), and fetched on where that broke off.
"""

import argparse
import hashlib
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import rfnext
from rfnext.files import cache_folder, explained
from rfnext.structure import searched_convs
from tasks import checkpoint
from tasks.checkpoint import Checkpoint
from tasks.coco_detection import detectors
from tasks.coco_detection.config import PRESETS
from tasks.coco_detection.detector_names import Detector
from tasks.coco_detection.download import fetch
from tasks.coco_detection.task import TASK

STRUCTURES = "https://raw.githubusercontent.com/open-mmlab/mmdetection/v2.28.2"
"""Where the paths of structure files in published.toml begin."""


class Released(NamedTuple):
    """A row of published.toml: detector, mode of its training, schedule, path of its structure file, link
    of its checkpoint, and the metrics reported on COCO val2017."""

    detector: Detector
    mode: str
    schedule: str
    structure: str
    url: str
    metrics: Mapping[str, float]


def released() -> dict[str, Released]:
    """The rows of published.toml by name."""
    rows = tomllib.loads((Path(__file__).parent / "published.toml").read_text(encoding="utf-8"))
    fields = Released._fields[:-1]
    return {
        name: Released(*(row[field] for field in fields), metrics={key: row[key] for key in row if key not in fields})
        for name, row in rows.items()
    }


def open_released(row: Released, weights: Path | None = None, structure: Path | None = None) -> Checkpoint:
    """The row's detector with the weights of its checkpoint; files that are not given are fetched into the cache.

    Raises:
        ValueError: naming the file and the layer, if it is of another detector, mode or search; see
            `rfnext.open_published`.
        OSError: if a file cannot be read; if it cannot be fetched, with its link and its place.
    """
    cache = cache_folder() / "released"
    if structure is None:
        *_, search, step = row.structure.split("/")
        structure = cache / search / step
        fetch(f"{STRUCTURES}/{row.structure}", structure)
    if weights is None:
        weights = cache / row.url.rpartition("/")[2]
        fetch(row.url, weights)
    check_download(row, weights)
    config = PRESETS[f"coco-{row.detector}"]
    classes, things = _classes(row.detector)
    model = detectors.build(row.detector, config.size, len(classes), things)
    rfnext.open_published(model, weights, structure)
    if bool(searched_convs(model)) != (row.mode == "search"):
        raise ValueError(f"{weights} was not trained in mode {row.mode!r}; give the checkpoint at {row.url}")
    return Checkpoint(TASK.name, config, {"classes": list(classes), "things": things}, model.eval())


def _classes(detector: Detector) -> tuple[Sequence[str], int]:
    """The names of COCO's classes in the order of the published labels, and how many are things."""
    from rfnext.integrations import compiled_ops

    compiled_ops.install()  # before anything of mmdet is imported
    from mmdet.datasets import CocoDataset, CocoPanopticDataset

    things = len(CocoDataset.METAINFO["classes"])
    owner: Any = CocoPanopticDataset if detector == "panoptic" else CocoDataset
    return owner.METAINFO["classes"], things


def check_download(row: Released, weights: Path) -> None:
    """Raise ValueError unless the file is the released one, by the digits of its SHA-256 in the link; OSError if it
    cannot be read."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    digits = re.search(r"-([0-9a-f]{8})\.pth$", row.url)
    if digits and not digest.startswith(digits[1]):
        raise ValueError(
            f"{weights} ({weights.stat().st_size} bytes) is not the released file: its SHA-256 begins with "
            f"{digest[:8]}, not {digits[1]}; delete it and fetch {row.url} again"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    rows = released()
    parser = argparse.ArgumentParser(
        prog="python -m tasks.coco_detection.published",
        description="Write a detector that RF-Next released as a file that tasks.coco_detection.predict opens.",
    )
    parser.add_argument("name", choices=list(rows), metavar="NAME", help=f"one of {', '.join(rows)}")
    parser.add_argument("--checkpoint", type=Path, help="the released checkpoint (default: fetched into the cache)")
    parser.add_argument("--structure", type=Path, help="the structure file of its step (default: likewise)")
    parser.add_argument("--out", type=Path, help="the file to write (default: NAME.pt)")
    given = parser.parse_args(arguments)
    row = rows[given.name]
    out = given.out or Path(f"{given.name}.pt")
    try:
        opened = open_released(row, given.checkpoint, given.structure)
        checkpoint.save(out, TASK.name, opened.config, opened.model, opened.facts)
    except (ValueError, OSError) as error:
        print(explained(error), file=sys.stderr)
        return 1
    reported = ", ".join(f"{name} {value}" for name, value in row.metrics.items())
    print(f"{out}: {given.name}; reported on COCO val2017: {reported}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
