"""Reading the checkpoints of mmengine without unpickling objects."""

import contextlib
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


def checkpoint_globals() -> contextlib.AbstractContextManager[Any]:
    """Within it, torch.load(weights_only=True), the default, reads the checkpoints of mmengine 0.10.

    They hold, besides tensors and plain values, the history of logged numbers: mmengine's HistoryBuffer and numpy
    arrays. Nothing else is allowed. `RFSearchRunner` enters it by itself; a plain Runner needs it to resume.
    """
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, (_statistic, "builtins.getattr")]
    allowed += [type(np.dtype(kind)) for kind in ("int64", "float32", "float64")]
    makers = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    for name, make in makers.items():  # numpy 2 renamed their module; files of either are read
        allowed += [(make, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")]
    return torch.serialization.safe_globals(allowed)


def _statistic(owner: Any, name: str) -> Any:
    """Replaces getattr(), which a HistoryBuffer in a file uses for its four statistics alone."""
    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise ValueError(f"the checkpoint names {owner!r}.{name}, which a checkpoint must not hold")
    return getattr(owner, name)
