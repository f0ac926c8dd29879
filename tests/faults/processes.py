"""Other processes: which are there, and waiting for what they do."""

import time
from collections.abc import Callable
from pathlib import Path


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds; AssertionError after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(group: int) -> bool:
    """Whether a process group still has a process that is not a zombie."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = status.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state != "Z":
            return True
    return False


def workers(suite: int) -> list[int]:
    """The worker processes of a running suite, which are spawned."""
    found = []
    for child in Path(f"/proc/{suite}/task/{suite}/children").read_text().split():
        try:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
        except OSError:  # it has ended
            continue
    return found
