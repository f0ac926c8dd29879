"""What a section finds: one line of JSON per check, so that one that is stopped leaves what it has."""

import contextlib
import importlib.metadata
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"


class NotRun(Exception):
    """A check that cannot be made here, with the reason."""


class Wrong(Exception):
    """A result that is not what it should be."""


def without_tf32() -> None:
    """Products of float32 in float32, here and in the kernels."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def error_of(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference, relative to that of the exact one."""
    difference = (found.detach().cpu().double() - exact.detach().cpu().double()).norm()
    return float(difference / exact.detach().cpu().double().norm().clamp_min(1e-12))


def within(errors: dict[str, float], allowed: float) -> dict[str, float]:
    """The largest error and its bound, for the report; raises Wrong where it is above, or not a number."""
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    if not errors[worst] <= allowed:
        raise Wrong(f"relative error of {worst} is {errors[worst]:.1e}, allowed is {allowed:.0e}")
    return {"largest error": errors[worst], "allowed": allowed}


@contextlib.contextmanager
def check(**what: object) -> Iterator[dict[str, Any]]:
    """One check: what the block puts into the dict is reported beside `what`, and so is what it raises."""
    found: dict[str, Any] = {}
    outcome, why = "passed", ""
    try:
        yield found
        if ON_GPU:
            torch.cuda.synchronize()
    except NotRun as reason:
        outcome, why = "not run", str(reason)
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        outcome, why = "failed", f"{type(error).__name__}: {lines[0][:300]}"
        if type(error).__name__ == "InterpreterError" and "0-dimensional arrays" in lines[0]:
            triton, numpy = (importlib.metadata.version(name) for name in ("triton", "numpy"))
            outcome = "not run"
            why = f"the interpreter of Triton {triton} does not work with numpy {numpy}; install numpy<2.5"
    print(json.dumps({"what": what, "outcome": outcome, "why": why, "found": found}), flush=True)
