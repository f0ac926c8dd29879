"""Published sizes under mmcv's own hook, opened here: `python -m tests.tasks.coco_detection.published_table [NAME...]`.

`--float64` computes in double precision, where rounding is far below the limit. Prints one JSON line for each
detector and mode: the largest difference of outputs, in parts of the largest value of each, after mmcv's hook has
trained a step, and after one more step of both. A step takes minutes on one core, so that the suite has the small sizes
(`test_published.py`). Structure files are those of `../shared/structures`.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tasks.coco_detection.detector_names import Detector
from tests.tasks.coco_detection.test_configs import PUBLISHED
from tests.tasks.coco_detection.test_published import difference

MODES = ("search", "fixed_single_branch", "fixed_multi_branch")
SIZED: tuple[Detector, ...] = ("res2net", "hrnet", "convnext")
STRUCTURES = Path(__file__).parents[4] / "shared" / "structures"


def main(arguments: Sequence[str]) -> int:
    """Measure the detectors of these names; none: all three. The exit status is 1 if one is beyond its limit."""
    double = "--float64" in arguments
    names, limit = set(arguments) - {"--float64"}, 1e-6 if double else 1e-5
    beyond = 0
    for name in SIZED:
        for mode in MODES if not names or name in names else ():
            structure = STRUCTURES / PUBLISHED[name][0]
            begun = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                largest = difference(name, "published", mode, structure, Path(folder), double=double)
            row = {"detector": name, "size": "published", "mode": mode, "largest_relative_difference": largest}
            beyond += largest >= limit
            row |= {
                "limit": limit,
                "dtype": "float64" if double else "float32",
                "steps": 2,
                "seconds": round(time.perf_counter() - begun, 1),
            }
            print(json.dumps(row | {"torch": torch.__version__}), flush=True)
    return int(beyond > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
