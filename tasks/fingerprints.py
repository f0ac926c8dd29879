"""Fingerprints of what a config names besides its data: a checkpoint to start from, predicted mels.

Results depend on their content, not on their paths, so a record holds the fingerprint instead of the path.
"""

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rfnext.files import explained
from tasks.spec import DataError

_KINDS = ("file", "folder")


def recognise(config: Any, name: str, *, folder: bool = False) -> None:
    """Set a frozen config's field `<name>_fingerprint` by the path in its field `<name>`, if there is one.

    Raises ValueError if it is set already and is that of another content, and for a folder where a file is wanted, or
    the reverse.
    """
    path, known = getattr(config, name), getattr(config, f"{name}_fingerprint")
    if path is not None and path.exists() and path.is_dir() != folder:
        raise ValueError(f"{name} is {path}, {'no folder' if folder else 'a folder'}; name a {_KINDS[folder]}")
    found = None if path is None else fingerprint(path)
    if known is None:
        object.__setattr__(config, f"{name}_fingerprint", found)
    elif found is not None and found != known:
        raise ValueError(f"{name} {path} has fingerprint {found}, not {known}; give the same files")


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Within the block an error of the file that --init names is a DataError: one line, as of data."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"--init: {explained(error)}") from error


def missing(config: Any, name: str) -> str | None:
    """What to do if the path in a config's field `<name>` is not there, or only its fingerprint is known."""
    path, known = getattr(config, name), getattr(config, f"{name}_fingerprint")
    if path is not None and not path.exists():
        return f"no such file or folder: {path}; name it by --{name}"
    if path is None and known is not None:
        return f"it needs the {name} of fingerprint {known}; name it by --{name} PATH"
    return None


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
