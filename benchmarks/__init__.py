"""How the tasks are run and reported: methods, one cell, many cells, records, tables and figures."""

import gc
import importlib.util
import sys

# Python runs this file before every command of the package, so a missing package is reported here.
NEEDED = ("torch", "tyro", "scipy", "pydantic", "filelock", "rich")
if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    raise ImportError(
        f"{', '.join(missing)} not installed for {sys.executable}; run `bash setup.sh` in the repository, and this "
        "command with the Python that it prints",
        name=__name__,  # `python -m` prints this as one line, and a traceback for any other name
    )

if "torch" not in sys.modules:
    # What torch makes on import lives as long as the process. Searching it for garbage, while it is imported and again
    # when the process ends, takes 0.6 of the 2 seconds of computing that every command would begin with.
    enabled = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("torch")
        gc.freeze()
    finally:
        if enabled:
            gc.enable()
