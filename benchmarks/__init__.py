"""How the tasks are run and reported: methods, one cell, many cells, records, tables and figures."""

import gc
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from types import ModuleType

# Python runs this file before every command of the package, so a missing package is reported here.
NEEDED = ("torch", "tyro", "scipy", "pydantic", "filelock", "rich")
if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    raise ImportError(
        f"{', '.join(missing)} not installed for {sys.executable}; run `bash setup.sh` in the repository, and this "
        "command with the Python that it prints",
        name=__name__,  # `python -m` prints this as one line, and a traceback for any other name
    )


class _WithoutSearch(importlib.abc.MetaPathFinder):
    """Has torch imported while nothing is searched for garbage, whoever imports it first.

    What torch makes on import lives as long as the process. Searching it, while it is imported and again when the
    process ends, takes 0.6 of the 2 seconds of computing that every command with torch would begin with.
    """

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = partial(_unsearched, spec.loader.exec_module)
        return spec


def _unsearched(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    enabled = gc.isenabled()
    gc.disable()
    try:
        execute(module)
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


if "torch" not in sys.modules:
    sys.meta_path.insert(0, _WithoutSearch())
