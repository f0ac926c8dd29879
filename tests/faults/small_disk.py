"""A small disk of a process's own: a tmpfs in a namespace of its own, where the system allows that."""

import functools
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path


def command(folder: Path, options: str, line: Sequence[str]) -> list[str]:
    """The command line that runs another one with a tmpfs mounted on a folder, with mount's options."""
    mount = ["sh", "-c", f'mount -t tmpfs -o {options} tmpfs "$0" && exec "$@"', str(folder)]
    return ["unshare", "--map-root-user", "--mount", *mount, *line]


def read_only(folder: Path, line: Sequence[str]) -> list[str]:
    """The command line that runs another one to which a folder is read-only, also if it is root's."""
    mount = ["sh", "-c", 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"', str(folder)]
    return ["unshare", "--map-root-user", "--mount", *mount, *line]


@functools.cache
def refusal() -> str | None:
    """Why this system mounts nothing for us; None if it does."""
    try:
        done = subprocess.run(command(Path("/mnt"), "size=1m", ["true"]), capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else None


class Ballast:
    """A file that leaves only some bytes of a disk free."""

    def __init__(self, disk: Path) -> None:
        self.path = disk / "ballast"

    def leave(self, free: int) -> None:
        """Fill the disk but for `free` bytes."""
        self.remove()
        there = os.statvfs(self.path.parent)
        with open(self.path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, there.f_bavail * there.f_bsize - free))

    def remove(self) -> None:
        """Make space."""
        self.path.unlink(missing_ok=True)
