"""Comparing two checkpoints of mmengine."""

from typing import Any

import torch


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two checkpoints differ in a bit of anything but logs and dates; [] if nowhere."""
    if isinstance(one, torch.Tensor):
        equal = isinstance(other, torch.Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return [] if equal and one.numpy().tobytes() == other.numpy().tobytes() else [where]
    if type(one) is not type(other) or (isinstance(one, (dict, list, tuple)) and len(one) != len(other)):
        return [where]
    if isinstance(one, dict):
        names = one.keys() if where else one.keys() - {"meta", "message_hub"}
        pairs = [(f"{where}/{name}", one[name], other.get(name)) for name in names]
    elif isinstance(one, (list, tuple)):
        pairs = [(f"{where}/{i}", a, b) for i, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [where]
    return [path for name, a, b in pairs for path in differences(a, b, name)]
