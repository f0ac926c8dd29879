"""Fingerprints of what a config names besides its recordings: a checkpoint to start from, and predicted mels.

Results depend on their content, not on their paths, so a record holds the fingerprint instead of the path.
"""

import functools
import hashlib
from pathlib import Path


def fingerprint(path: Path) -> str | None:
    """The first 10 hex digits of a SHA-256: of a file's bytes, or of the names and bytes of all .npy files in a folder.
    None if there is nothing at the path."""
    if path.is_dir():
        paths = tuple(sorted(path.rglob("*.npy")))
    elif path.is_file():
        paths = (path,)
    else:
        return None
    return _hashed(path, paths, tuple((found.st_size, found.st_mtime_ns) for found in map(Path.stat, paths)))


@functools.lru_cache(maxsize=8)
def _hashed(root: Path, paths: tuple[Path, ...], state: tuple[tuple[int, int], ...]) -> str:
    """Read again only if the state, sizes and times of change, is another one."""
    total = hashlib.sha256()
    for path in paths:
        total.update(hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:10]
