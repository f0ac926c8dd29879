"""Files that are written completely or not at all, texts and JSON from outside, and the cache folder."""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

LONGEST_TEXT = 2**24
"""Bytes of a text file from outside; a structure of ten thousand layers is a megabyte."""

STEP = 2**22
"""Bytes of a text that are read at once."""

DEEPEST = 64
"""Levels of a JSON value from outside."""

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically: a reader gets the old file or the new one, never a part.

    The data goes to a temporary file in the same folder (created if missing), is flushed to disk, and is renamed
    over `path`; then the folders that name it are flushed, too, so that a power loss takes neither file nor name. On
    any failure (a full disk among them) the old file stays and the temporary one is removed.

    Raises OSError, with the target path in the message, if the file cannot be written.
    """
    path = Path(path)
    try:
        named_in = _folders_to_name(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=unfinished(path.name), suffix=UNFINISHED)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is meant to be read by others, as the umask allows.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write {path}: {error.strerror}; the previous file is kept") from error
        raise
    for folder in named_in:
        _flush(folder)


def _folders_to_name(path: Path) -> list[Path]:
    """The folders in which a name is new once the file is written: its own, and those of folders that are missing."""
    found = [path.parent]
    while not found[-1].exists() and found[-1].parent != found[-1]:
        found.append(found[-1].parent)
    return found


def _flush(folder: Path) -> None:
    """Flush the names in a folder to disk, where the system can: not all file systems know it, Windows none."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # a folder may be closed for reading, and on Windows none is open for it
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM):
            raise OSError(error.errno, f"{folder}: what was written may be lost: {error.strerror}") from error
    finally:
        os.close(handle)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file for reading bytes.

    Raises OSError, naming it, for anything else: a pipe would wait for its other end, and a device has no end.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except ValueError as error:  # of a name that no file can have
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    if not regular and not os.path.isdir(path):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
    return open(path, "rb")


def reason(error: Exception) -> str:
    """Why something failed, beside the name of its file: of an OSError without number and name."""
    return getattr(error, "strerror", None) or str(error)


def explained(error: Exception) -> str:
    """An error as commands say it, in one line: of an OSError the file and the reason, without the system's number."""
    if not isinstance(error, OSError) or error.filename is None:
        return reason(error)
    mend = "; check the name" if isinstance(error, FileNotFoundError) else ""
    return f"{error.filename}: {reason(error)}{mend}"


def read_text(path: str | Path, longest: int = LONGEST_TEXT) -> str:
    """The text of a UTF-8 file from outside, with or without a byte order mark.

    Raises:
        ValueError: without the file's name, if it has more than `longest` bytes, zero bytes, or is not UTF-8.
        OSError: naming the file, if it cannot be read or is none.
    """
    data = bytearray()
    with open_file(path) as file:
        while part := file.read(min(STEP, longest + 1 - len(data))):
            if b"\0" in part:  # as all of a file that was only made long: no more of it is read
                raise ValueError("it has zero bytes, so it is no text")
            data += part
    if len(data) > longest:
        raise ValueError(f"it has more than {longest} bytes")
    return data.decode("utf-8-sig")


def lines_of(text: str) -> list[str]:
    """The lines of a text, without blank ones at its end.

    Not str.splitlines(): it also splits at separators that a sentence may hold, such as U+2028 or U+0085.
    """
    return re.split("\r\n|\r|\n", text.rstrip()) if text.strip() else []


def read_json(path: str | Path) -> Any:
    """The value of a JSON file from outside; raises ValueError as `parse_json`, OSError as `read_text`."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """The value of a JSON text from outside.

    Numbers may be of any size, infinite or NaN. Raises ValueError if it is no JSON, names an entry twice (json.loads
    keeps the last one), has more than `DEEPEST` levels, or a string that is no text (half a surrogate pair).
    """
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    check_depth(value, DEEPEST)
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("a string in it is no text: it has half a surrogate pair") from None
    return value


def check_depth(value: Any, deepest: int) -> None:
    """Raise ValueError if lists and mappings are within each other in more levels than `deepest`."""
    nests = frozenset((list, dict))
    level = [value] if type(value) in nests else []
    for _ in range(deepest):
        inside = [node.values() if type(node) is dict else node for node in level]
        # Most of a record are long lists of numbers, which are passed over at once.
        nesting = [parts for parts in inside if not nests.isdisjoint(map(type, parts))]
        level = [part for parts in nesting for part in parts if type(part) in nests]
        if not level:
            return
    if level:
        raise ValueError("it is nested too deeply")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise ValueError(f"entry {max(counts, key=counts.__getitem__)[:80]!r} appears twice")
    return content


UNFINISHED = ".tmp"
"""Ends the names of files and folders that are being written, and those of the left-overs of processes that died."""

ABANDONED = 24 * 3600
"""Seconds after which what is being written on another machine counts as left over: no write takes that long."""


def unfinished(name: str) -> str:
    """What the name of a temporary file or folder beside `name` begins with: it says which process writes it."""
    return f".{name}.{_here()}-{os.getpid()}-"


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name when the block ends: others see it whole or not at all.

    Safe with several processes that make the same: each fills one of its own, and the first one that is done is kept.
    Raises OSError if nothing can be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=unfinished(folder.name), suffix=UNFINISHED))
    try:
        yield building
        building.chmod(0o755)  # mkdtemp makes folders private
        os.rename(building, folder)
    except OSError:
        # Another process may have been faster; its folder has the same content.
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


@functools.cache
def _here() -> str:
    """8 hex digits of where process numbers mean the same: this machine since it was started, and this container."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        return hashlib.sha256(f"{boot}{os.readlink('/proc/self/ns/pid')}".encode()).hexdigest()[:8]
    return secrets.token_hex(4)  # known nowhere else, so that only age decides


def sweep(folder: Path) -> list[Path]:
    """Remove what processes that died have left half-written below a folder; returns what was removed.

    Of a process of this machine it is known whether it still runs. That of another machine, on a file system that both
    share, may run: what it writes is left over when it has not changed for `ABANDONED` seconds.
    """
    removed = []
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            if _is_left_over(path):
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if name in folders else path.unlink()
                    removed.append(path)
        folders[:] = [name for name in folders if not name.endswith(UNFINISHED)]
    return removed


def _is_left_over(path: Path) -> bool:
    writer = re.fullmatch(r"\..+\.(?:([0-9a-f]{8})-(\d{1,9})-)?[a-z0-9_]{8}\.tmp", path.name)
    if writer is None:
        return False
    if writer[1] == _here():
        return not _runs(int(writer[2]))
    try:
        return os.lstat(path).st_mtime < time.time() - ABANDONED
    except OSError:
        return False


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing; /proc may hide the processes of other users
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        pass
    return True


def bound(folder: Path, most: int, unused: float) -> None:
    """Keep a cache small: of the folders in it, the `most` that were used last and those used in `unused` seconds.

    Whoever uses one says so by `os.utime`.
    """
    with contextlib.suppress(OSError):
        used = sorted(((path.stat().st_mtime, path) for path in folder.iterdir()), reverse=True)
        for when, path in used[most:]:
            if when < time.time() - unused:
                shutil.rmtree(path, ignore_errors=True)


def cache_folder() -> Path:
    """The folder for files that were downloaded or compiled and can be made again; it may not exist yet.

    It is the folder that the environment variable RFNEXT_CACHE names, else ~/.cache/rfnext.
    """
    return Path(os.environ.get("RFNEXT_CACHE") or Path.home() / ".cache" / "rfnext")
