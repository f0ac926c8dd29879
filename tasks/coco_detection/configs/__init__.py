"""mmengine configs of the five published detectors: `<detector>_<mode>.py`, each over mmdet's own config.

`<detector>_baseline.py` is the detector as mmdet has it; `_search.py` adds the published settings of the local search;
`_fixed_single_branch.py` and `_fixed_multi_branch.py` train with the structure that the search has left in its default
work_dir. Learning rates are for 8 GPUs x 2 images (`auto_scale_lr`), that of RTMDet for 8 x 32.
`current/` has detectors that are newer than the published searches.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.file_names import real_path

if TYPE_CHECKING:
    from mmengine.config import Config

FOLDER = Path(__file__).parent
DETECTORS = ("convnext", "pvtv2", "res2net", "hrnet", "panoptic")
MODES = ("baseline", "search", "fixed_single_branch", "fixed_multi_branch")


def load(path: str | Path, data: Path | None = None) -> "Config":
    """Read a config of mmdet, ours or any other, and import what it asks for; works with mmcv-lite.

    A config is code, whatever its ending: Python is executed, YAML and JSON can name what is executed. So none is read
    that came with data: from `data`, from $RFNEXT_DATA, or from below a folder in COCO's layout.

    Raises:
        ValueError: if the file lies in a folder of data.
        OSError: or what mmengine raises, if the file cannot be read.
    """
    if (folder := _data_above(Path(path), data)) is not None:
        raise ValueError(
            f"{path} lies in a folder of data, {folder}, and reading a config executes it: move it to your code, if "
            "you know what is in it"
        )
    from rfnext.integrations import compiled_ops

    compiled_ops.install()
    from mmengine.config import Config

    with warnings.catch_warnings():
        # By it mmengine finds mmdet's configs: a DeprecationWarning of setuptools 77, a UserWarning of 81.
        warnings.filterwarnings("ignore", "pkg_resources is deprecated as an API")
        return Config.fromfile(path)


def _data_above(path: Path, data: Path | None) -> Path | None:
    """The folder of data that a file, not one of ours, lies in, by its own place or by where its links lead."""
    real = real_path(path)
    if FOLDER.resolve() in real.parents:
        return None
    known = [real_path(folder) for folder in (data, os.environ.get("RFNEXT_DATA")) if folder]
    for folder in (*path.absolute().parents, *real.parents):
        annotations = folder / "annotations"
        annotated = any(any(annotations.glob(f"{kind}_*.json")) for kind in ("instances", "panoptic"))
        if annotated or real_path(folder) in known:
            return folder
    return None
