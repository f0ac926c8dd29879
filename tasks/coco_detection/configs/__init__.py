"""mmengine configs of the five published detectors: `<detector>_<mode>.py`, each over mmdet's own config.

`<detector>_baseline.py` is the detector as mmdet has it; `_search.py` adds the published settings of the local search;
`_fixed_single_branch.py` and `_fixed_multi_branch.py` train with the structure that the search has left in its default
work_dir. Learning rates are for 8 GPUs x 2 images (`auto_scale_lr`).
"""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config

FOLDER = Path(__file__).parent
DETECTORS = ("convnext", "pvtv2", "res2net", "hrnet", "panoptic")
MODES = ("baseline", "search", "fixed_single_branch", "fixed_multi_branch")


def load(path: str | Path) -> "Config":
    """Read a config of mmdet, ours or any other, and import what it asks for; works with mmcv-lite.

    Raises OSError or what mmengine raises if the file cannot be read.
    """
    from tasks.coco_detection import compiled_ops

    compiled_ops.install()
    from mmengine.config import Config

    with warnings.catch_warnings():
        # mmengine finds the folder of mmdet's configs by it.
        warnings.filterwarnings("ignore", "pkg_resources is deprecated as an API", UserWarning)
        return Config.fromfile(path)
