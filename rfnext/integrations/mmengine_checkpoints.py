"""Reading the checkpoints of mmengine without unpickling objects."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


@contextlib.contextmanager
def checkpoint_globals() -> Iterator[None]:
    """Within it, torch.load reads the checkpoints of mmengine 0.10, and with weights_only=True alone.

    They hold, besides tensors and plain values, the history of logged numbers: mmengine's HistoryBuffer and numpy
    arrays. Nothing else is allowed, also where a library asks for weights_only=False, as mmengine does for what it
    downloads. `RFSearchRunner` enters it by itself; a plain Runner needs it to resume.
    """
    allowed: list[Any] = [HistoryBuffer, np.ndarray, np.dtype, (_statistic, "builtins.getattr")]
    allowed += [type(np.dtype(kind)) for kind in ("int64", "float32", "float64")]
    makers = {"_reconstruct": np.empty(0).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
    for name, make in makers.items():  # numpy 2 renamed their module; files of either are read
        allowed += [(make, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core")]
    before = {name: os.environ.pop(name, None) for name in _FORCE}
    os.environ[_FORCE[0]] = "1"
    try:
        with torch.serialization.safe_globals(allowed):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


_FORCE = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
"""Environment variables that torch.load asks each time; the second one alone would have it unpickle anything."""


def _statistic(owner: Any, name: str) -> Any:
    """Replaces getattr(), which a HistoryBuffer in a file uses for its four statistics alone."""
    if owner is not HistoryBuffer or name not in ("min", "max", "mean", "current"):
        raise ValueError(f"the checkpoint names {owner!r}.{name}, which a checkpoint must not hold")
    return getattr(owner, name)
