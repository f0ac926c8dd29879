"""Folders and locks: where the repository is, where a results folder keeps its work, who works in a folder now."""

import contextlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rfnext.files import cache_folder, sweep, write_text

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""


def work_folder(results: Path) -> Path:
    """The folder for checkpoints, logs and locks; a .gitignore in it hides it from git wherever `results` is."""
    folder = results / "work"
    if not (folder / ".gitignore").exists():
        write_text(folder / ".gitignore", "*\n")
    return folder


def sweep_up(results: Path) -> None:
    """Remove what processes that died have left half-written: in a results folder, in the cache, as scratch folders."""
    for path in (*sweep(results), *sweep(cache_folder())):
        log.info("removed %s, left over by a process that died", path)
    scratch = Path(tempfile.gettempdir())
    for folder in scratch.glob("rfnext-*"):
        if re.fullmatch(r"rfnext-(again-\w+|[0-9a-f]{32})", folder.name) and _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
            log.info("removed %s, left over by a process that died", folder)


SCRATCH_SECONDS = 7 * 24 * 3600
"""How long a scratch folder stays after its last cell has begun: a suite goes on from what is in it."""


def _is_abandoned(folder: Path) -> bool:
    """Whether a scratch folder of this machine is this user's, is old, and no process holds a lock in it."""
    try:
        found = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.getuid():
            return False
        if found.st_mtime > time.time() - SCRATCH_SECONDS:
            return False
        for lock in folder.rglob("*.lock"):
            with claim(lock, wait=False):
                pass
    except (OSError, Busy):
        return False
    return True


class Busy(RuntimeError):
    """Another process holds the lock."""


@contextlib.contextmanager
def claim(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file `path`, so that two processes never work in the same place.

    The system frees the lock when its process ends, however it ends, so there are no stale locks.

    Raises:
        Busy: if another process holds it and `wait` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        if not wait:
            raise Busy(f"{path} is held by another process") from None
        log.info("%s is held by another process; waiting until that has ended", path)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def portable(text: str) -> str:
    """Text without this machine's folders, since records are committed."""
    return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")
