"""Folders and locks: where the repository is, where a results folder keeps its work, who works in a folder now."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from rfnext.files import write_text

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""


def work_folder(results: Path) -> Path:
    """The folder for checkpoints, logs and locks; a .gitignore in it hides it from git wherever `results` is."""
    folder = results / "work"
    if not (folder / ".gitignore").exists():
        write_text(folder / ".gitignore", "*\n")
    return folder


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
