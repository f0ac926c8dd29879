"""Published sizes under mmcv's own hook, opened here: `python -m tests.tasks.coco_detection.published_table [NAME...]`.

Prints one JSON line for each detector and mode: the largest difference of outputs, in parts of the largest value of
each, after mmcv's hook has trained a step, and after one more step of both. A step takes minutes on one core, so that
the suite has the small sizes (`test_published.py`). Structure files are those of `../shared/structures`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tasks.coco_detection.detectors import Detector
from tests.tasks.coco_detection.test_configs import PUBLISHED
from tests.tasks.coco_detection.test_published import check

MODES = ("search", "fixed_single_branch", "fixed_multi_branch")
SIZED: tuple[Detector, ...] = ("res2net", "hrnet", "convnext")
STRUCTURES = Path(__file__).parents[4] / "shared" / "structures"


def main(names: Sequence[str]) -> None:
    """Measure the detectors of these names; none: all three."""
    for name in SIZED:
        for mode in MODES if not names or name in names else ():
            structure = STRUCTURES / PUBLISHED[name][0]
            begun = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                largest = check(name, "published", mode, structure, Path(folder))
            row = {"detector": name, "size": "published", "mode": mode, "largest_relative_difference": largest}
            row |= {"limit": 1e-5, "dtype": "float32", "steps": 2, "seconds": round(time.perf_counter() - begun, 1)}
            print(json.dumps(row | {"torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
