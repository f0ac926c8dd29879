"""What "auto" has measured on CPUs, kept on disk: a layer is measured once on a machine, not once in each process.

The file is `choices-<hash>.json` in the folder of the compiled kernels (`rfnext.ops.native_build`), so private to this
user. The hash is of what the times depend on: processor, kernels, compiler, versions of torch and rfnext. The number of
threads is part of each layer's key. A file that cannot be read, or holds something else, counts as empty, and the next
measurement replaces it. Where nothing can be kept, each process measures.
"""

import contextlib
import functools
import json
import logging
import os
import tempfile
from pathlib import Path

import torch

from rfnext._version import __version__
from rfnext.files import UNFINISHED, sweep, unfinished
from rfnext.ops import native_build

if os.name == "posix":
    from rfnext.ops import native_cache

logger = logging.getLogger(__name__)

_LARGEST = 2**22
"""Bytes of the file, some ten thousand layers."""


@functools.cache
def path() -> Path | None:
    """The file, which may not exist yet; None if there is no place for it."""
    if os.name != "posix":
        return None
    try:
        parts = native_build.key(), torch.__version__, __version__
    except Exception as error:  # of any kind: CC may be no command, and measuring must work without a compiler
        logger.info("no file for what is measured: %s", error)
        return None
    folder = next(native_build.folders(), None)
    return None if folder is None else folder / f"choices-{native_cache.digest(chr(0).join(parts).encode())}.json"


def read() -> dict[str, str]:
    """The choices: key of a layer -> name of an implementation."""
    file = path()
    if file is None:
        return {}
    try:
        found = json.loads(native_cache.own(file, _LARGEST))
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise ValueError("it is no table of names")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s is not used, layers are measured anew and it is replaced: %s", file, error)
        return {}
    return found


def keep(key: str, name: str) -> None:
    """Add a choice to the file. What another process adds at the same moment may be lost, and is measured once more."""
    file = path()
    if file is None:
        return
    try:
        found = read() | {key: name}
        sweep(file.parent)  # of what processes that died have left here
        beside = unfinished(file.name)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=beside, suffix=UNFINISHED)  # for this user alone
        try:
            with open(handle, "w", encoding="utf-8") as written:
                json.dump(found, written, indent=0, sort_keys=True)
            os.replace(temporary, file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:  # read-only, a full disk
        logger.info("%s is not written: %s", file, error)


def forget() -> None:
    """Remove the file, and look for its folder anew when it is next needed."""
    file = path()
    path.cache_clear()
    if file is not None:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
