"""The identity of data: a fingerprint of the files that decide a config's results.

It is made of the files' names, sizes and contents, so a copy elsewhere has the same one, whatever its order and times.
Labels and lists count with every byte. Of features, images and sound above `WHOLE` bytes, `BLOCKS` evenly spaced blocks
count, the first, the middle and the last one among them: a change between two blocks that keeps the size is not seen.
"""

import hashlib
import json
import logging
import os
import re
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rfnext.files import cache_folder, write_text
from tasks.spec import DataFiles, Task

log = logging.getLogger(__name__)

BLOCKS = 17
BLOCK = 4096
WHOLE = BLOCKS * BLOCK
"""Bytes up to which features, images and sound are read whole."""

VERSION = 1
"""Part of the cache folder's name: raise it with any change of what a file's digest is."""

SETTLED = 2 * 10**9
"""Nanoseconds after a change until a file's times tell it from the next change."""


class Identity(NamedTuple):
    """What tells data apart.

    fingerprint: 16 hex digits of the files' names and contents. folder: the name of the user's own data in names of
        presets; None for data that the task has a name for.
    """

    fingerprint: str
    folder: str | None


def identify(task: Task[Any], config: Any) -> Identity | None:
    """The identity of a config's data; None if it has no files, or if none of them is here.

    The first call reads the files. Later ones read those that have changed and ask the system for the times of the
    others: what was read is kept in the cache folder.
    """
    files = task.data_files(config) if task.data_files else None
    if files is None:
        return None
    digests = _digests(files)
    if not any(digests.values()):
        return None
    text = json.dumps(sorted(digests.items()), separators=(",", ":"))
    folder = re.sub(r"[^a-z0-9_.]+", "-", files.root.resolve().name.lower()).strip("-.")[:30] or "data"
    return Identity(hashlib.sha256(text.encode()).hexdigest()[:16], folder if files.own else None)


Entry = tuple[int, int, int, bool, str]
"""Of a file in the cache: size, time of its content, time of its inode, whether all of it counts, and its digest."""


def _digests(files: DataFiles) -> dict[str, str]:
    """Name of each file -> digest of its content, empty if it is missing or cannot be read."""
    place = hashlib.sha256(os.fsencode(files.root.absolute())).hexdigest()[:16]
    cache = cache_folder() / f"data-v{VERSION}" / f"{place}.json"
    known = _read(cache)
    root = f"{files.root}/"
    paths = {str(path).removeprefix(root): (path, False) for path in files.inputs}
    paths |= {str(path).removeprefix(root): (path, True) for path in files.labels}
    entries: dict[str, Entry] = {}
    changed: list[str] = []
    for name, (path, whole) in paths.items():
        before, state = known.get(name), _state(path)
        if before is not None and before[:4] == (*state, whole):
            entries[name] = before
        elif state[0] >= 0:
            changed.append(name)
    if changed:
        log.info("reading %d files in %s for the fingerprint of the data", len(changed), root)
        with ThreadPoolExecutor(16) as readers:  # most of the time is the disk's
            found = readers.map(lambda name: _digest(*paths[name]), changed)
        new = {name: entry for name, entry in zip(changed, found, strict=True) if entry is not None}
        _write(cache, known, new)
        entries |= new
    return {name: entries[name][4] if name in entries else "" for name in paths}


def _state(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written or replaced; of a missing one, or a pipe, nothing that a file has."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # of a name that no file can have
        return -1, 0, 0
    if not stat.S_ISREG(found.st_mode):
        return -1, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _digest(path: Path, whole: bool) -> Entry | None:
    """None if the file is missing or cannot be read."""
    state = _state(path)  # before reading: a change meanwhile is found by the next call
    if state[0] < 0:
        return None
    try:
        with open(path, "rb", buffering=0) as file:
            if whole or state[0] <= WHOLE:
                return *state, whole, hashlib.file_digest(file, "sha256").hexdigest()
            digest = hashlib.sha256(str(state[0]).encode())
            for number in range(BLOCKS):
                file.seek(number * (state[0] - BLOCK) // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    except (OSError, ValueError):
        return None
    return *state, whole, digest.hexdigest()


def _read(cache: Path) -> dict[str, Entry]:
    try:
        content = json.loads(cache.read_text("utf-8"))
        return {
            name: (int(size), int(written), int(replaced), bool(whole), str(digest))
            for name, (size, written, replaced, whole, digest) in content.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s cannot be used (%s); the files are read again", cache, error)
        return {}


def _write(cache: Path, known: dict[str, Entry], new: dict[str, Entry]) -> None:
    now = time.time_ns()
    settled = {name: entry for name, entry in new.items() if max(entry[1:3]) < now - SETTLED}
    if settled:
        try:
            write_text(cache, json.dumps(known | settled, separators=(",", ":")))
        except OSError as error:
            log.info("the fingerprint of the data is not kept, and made anew each time: %s", error)
