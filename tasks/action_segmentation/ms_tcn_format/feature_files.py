"""Feature files: one .npy file a video, whose header is checked against the file's size before anything else is read.

Every function takes a `report`, see `layout`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tasks.file_names import mend_missing
from tasks.npy_files import NotWhole, open_array
from tasks.spec import Report

SAVE = "save the features with numpy.save as a (D, T) array of floats"

MOST_VALUES = 2**29
"""Of a video, 2 GiB as float32: 2048 features of more than two hours at 30 frames per second. The longest video of
Breakfast has a thirtieth of it."""


def open_features(path: Path, report: Report) -> NDArray | None:
    """The array of a feature file, mapped: of two axes, numbers, not empty. Only the header is read.

    None, once reported, if the file is missing or no such array, if its size is not what its header says, or if it has
    more than `MOST_VALUES`. Arrays of Python objects are refused without opening them.
    """
    try:
        features = open_array(path, MOST_VALUES)
    except FileNotFoundError:
        report(path, None, "no such file", mend_missing(path, f"add it or take {path.stem} out of the bundles"))
    except NotWhole as error:
        fix = "extract or copy the features of this video again"
        report(path, None, f"not a readable .npy file ({error})", fix)
    except OSError as error:
        report(path, None, f"not a readable .npy file ({error.strerror})", SAVE)
    except ValueError as error:
        report(path, None, f"not a readable .npy file ({error})", SAVE)
    else:
        if features.ndim == 2 and features.size and features.dtype.kind in "fiu":
            return features
        kind = f"{features.dtype} of shape {features.shape}"
        report(path, None, f"holds {kind}, not (D, T) floats with at least one frame", SAVE)
    return None


def read_features(
    path: Path, report: Report, *, vectors: int | None = None, stride: int = 1
) -> NDArray[np.float32] | None:
    """Every stride-th of the first `vectors` feature vectors, all finite: (D, ceil(vectors / stride)).

    Of any real type, byte order and memory layout; None, once reported, if the file cannot be used.
    """
    mapped = open_features(path, report)
    if mapped is None:
        return None
    with np.errstate(over="ignore"):
        features = np.array(mapped[:, :vectors:stride], dtype=np.float32, order="C")
    finite = np.isfinite(features)
    if not finite.all():
        row, column = (int(k[0]) for k in np.nonzero(~finite))
        what = (
            f"value {row} of feature vector {column * stride} is {features[row, column]} "
            f"({np.count_nonzero(~finite)} values are not finite)"
        )
        report(path, None, what, "extract the features of this video again")
    return features
