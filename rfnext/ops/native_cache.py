"""The folder that keeps the compiled kernels: who can write it, what is loaded from it, and who compiles.

A library runs its code in each program that loads it, so nobody but its user may decide what it holds. The folder and
each file that is read from it belong to this user, and neither others can write the folder, nor one above it: they
could put another one into its place. This is what owners and modes say. Access control lists count as far as the mode
shows them, which it does not on macOS and on some NFS servers. Above the folder, one in which only owners rename what
is theirs, such as /tmp, is fine. What is loaded are the bytes that were checked, from a copy.

For POSIX systems only.
"""

import contextlib
import ctypes
import errno
import fcntl
import grp
import hashlib
import logging
import os
import pwd
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

_LARGEST = 2**26
"""Bytes of a library: far more than one has."""
_SCRATCH = "building-"
_PATIENCE = 2
"""Seconds in which who has taken the lock has surely said so."""


class Unsafe(Exception):
    """Others could put a library into a folder; the message says where, and how to mend it."""


def private_folder(folder: Path) -> Path:
    """The folder, made if it is missing, by its path without links: this user's, and only this user can write it.

    Folders are looked at from the root on. Others cannot replace one that has passed, so the path stays good.

    Raises:
        Unsafe: if others can write the folder, or can put another one into its place.
        OSError: if it can neither be found nor made.
    """
    real = Path(os.path.realpath(folder))
    user = os.geteuid()
    # Whoever owns the root folder can replace everything; in a container it may not be user 0.
    trusted = {user, 0, os.stat("/").st_uid}
    mend = "name a folder of your own in RFNEXT_CACHE"
    for path in (*reversed(real.parents), real):
        last = path == real
        try:
            status = path.lstat()
        except FileNotFoundError:
            path.mkdir(0o700 if last else 0o777, exist_ok=True)
            status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        if status.st_uid not in ({user} if last else trusted):
            raise Unsafe(f"{path} belongs to another user: {mend}")
        if _others_write(path, status) and (last or not status.st_mode & stat.S_ISVTX):
            raise Unsafe(f"other users can write {path}: take that right away (chmod go-w), or {mend}")
    return real


def _others_write(path: Path, status: os.stat_result) -> bool:
    """Whether others than its owner can write a folder. A group that has no other member is nobody else.

    Some systems give each user such a group, and new folders are its own to write.
    """
    if not status.st_mode & 0o022:
        return False
    if status.st_mode & 0o002 or sys.platform != "linux":
        return True
    if any("acl" in name for name in os.listxattr(path)):  # their rights look like those of the group
        return True
    try:
        user, group = pwd.getpwuid(status.st_uid).pw_name, grp.getgrgid(status.st_gid)
    except KeyError:
        return True
    return group.gr_name != user or not set(group.gr_mem) <= {user}


def digest(data: bytes) -> str:
    """16 hex digits that tell contents apart."""
    return hashlib.sha256(data).hexdigest()[:16]


def kept(folder: Path, name: str) -> Iterator[bytes]:
    """The libraries of that name in a private folder: this user's, which nobody else can write, and whole."""
    for path in sorted(folder.glob(f"{name}-*.so")):
        try:
            data = own(path, _LARGEST)
        except OSError as error:
            logger.info("%s is not loaded: %s", path, error)
            continue
        # A disk may lose what it was given, and loading a part would end the process.
        if digest(data) == path.stem.rpartition("-")[2]:
            yield data
        else:
            logger.info("%s is not loaded: it is not whole", path)


def own(path: Path, most: int) -> bytes:
    """At most so many bytes of a regular file of this user; OSError if it is another's, or others can write it."""
    with open(path, "rb", opener=_open) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise OSError(errno.EPERM, "others may have written it", str(path))
        return file.read(most)


def _open(path: str, flags: int) -> int:
    """Neither through a link, nor waiting for somebody who writes a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def write(scratch: Path, path: Path, data: bytes) -> None:
    """Write a file that only this user can read, all at once."""
    temporary = scratch / path.name
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
    temporary.replace(path)


def recent(path: Path, seconds: float) -> str:
    """The text of a file that was written within the last seconds; "" if there is none."""
    try:
        return path.read_text("utf-8", "replace") if 0 <= time.time() - path.stat().st_mtime < seconds else ""
    except OSError:
        return ""


@contextlib.contextmanager
def scratch_space(folder: Path, seconds: float) -> Iterator[Path | None]:
    """A scratch folder in a private folder, for one process at a time; None if another has had its turn for too long.

    The system ends the turn of a process that ends, however it does. The next one removes what was left behind.

    Args:
        folder: the private folder.
        seconds: that a turn may take.

    Raises:
        OSError: if the folder cannot be written.
    """
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        held = _lock(lock, seconds)
        if held is None:
            yield None
            return
        if held:
            for left in folder.glob(f"{_SCRATCH}*"):
                shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=folder, ignore_cleanup_errors=True) as scratch:
            yield Path(scratch)
    finally:
        os.close(lock)


def _lock(handle: int, seconds: float) -> bool | None:
    """Take a lock. None: another process keeps it. False: this file system has no locks, as some of networks."""
    start = time.monotonic()
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.utime(handle)
            return True
        except BlockingIOError:
            waited = time.monotonic() - start
            # One that hangs, or a lock that a network has lost, is waited for once, not by each process anew.
            if waited > seconds or (waited > _PATIENCE and time.time() - os.fstat(handle).st_mtime > seconds):
                return None
            time.sleep(0.05)
        except OSError as error:
            logger.info("no lock on the compiled kernels: %s", error)
            return False


def load(data: bytes) -> ctypes.CDLL:
    """The library of these bytes, loaded from a copy that no other user can reach.

    Raises OSError if the system executes neither memory files nor those of the temporary folder.
    """
    if hasattr(os, "memfd_create"):
        # Never closed: a library is known by its path, and the next one at this path would be taken for this one.
        handle = os.memfd_create("rfnext-native")
        try:
            with open(handle, "wb", closefd=False) as file:
                file.write(data)
            return ctypes.CDLL(f"/proc/self/fd/{handle}")
        except OSError as error:
            os.close(handle)
            logger.info("not loaded from memory: %s", error)
    with tempfile.TemporaryDirectory(prefix="rfnext-") as folder:
        path = Path(folder, "native.so")
        path.write_bytes(data)
        try:
            return ctypes.CDLL(str(path))
        except OSError as error:
            raise OSError(f"{error}; does TMPDIR lie on a file system that executes nothing (noexec)?") from error
