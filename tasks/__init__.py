"""The benchmark tasks by name: every folder here with a `task.py` that ends in `TASK = Task(...)` is one."""

import difflib
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.spec import Task


# Lightning's metrics import ONNX Runtime where it is installed, which sends what it is used for to Microsoft.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def names() -> list[str]:
    """Names of all tasks, in alphabetical order; no task is imported."""
    found = [file.parent.name for file in Path(__file__).parent.glob("*/task.py")]
    return sorted(name for name in found if name.isidentifier())


def load(name: str) -> "Task[Any]":
    """The `TASK` of `tasks/<name>/task.py`.

    Raises:
        ValueError: if there is no such task, or its module does not end in a `TASK` of that name.
    """
    from tasks.spec import Task

    known = names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown task {name!r}.{hint} Known: {', '.join(known)}")
    task = getattr(importlib.import_module(f"tasks.{name}.task"), "TASK", None)
    if not isinstance(task, Task) or task.name != name:
        raise ValueError(f"tasks/{name}/task.py must end in TASK = Task(name={name!r}, ...), found {task!r}")
    return task
