"""What the checks of own data share: what they collect, and files that are there twice."""

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.spec import Problem

LINES = 20
"""Problems of one file that are listed; of a million wrong lines the first ones tell enough."""

SHARED = 0.01
"""Largest share of the test part that may be in the training part, too. Learnt by heart, one picture in a hundred
raises a score by about a hundredth of what it lacks, and the scores of all methods alike."""

NAMED = 10
"""Pairs of the same file that are named."""


class Findings:
    """What a check found; itself a `Report` that collects.

    remarks: what is no problem, but worth knowing.
    """

    def __init__(self) -> None:
        self.remarks: list[str] = []
        self._listed: list[Problem] = []
        self._number: Counter[Path] = Counter()

    def __call__(self, path: Path, line: int | None, what: str, fix: str) -> None:
        self._number[path] += 1
        if self._number[path] <= LINES:
            self._listed.append(Problem(path, line, what, fix))

    def remark(self, path: Path, what: str) -> None:
        """Add a remark on a file or folder."""
        self.remarks.append(f"{path}: {what}")

    @property
    def problems(self) -> list[Problem]:
        """The problems in their order; of a file with more than `LINES`, the first ones, and then how many more."""
        more = {path: number - LINES for path, number in self._number.items() if number > LINES}
        rest = [
            Problem(path, None, f"{number:,} more problems", "mend the first ones") for path, number in more.items()
        ]
        return [*self._listed, *rest]

    def end(self, summary: object) -> int:
        """Print the remarks, then the problems or else the summary; returns the exit status."""
        print(*self.remarks, *(self.problems or [f"fine: {summary}"]), sep="\n")
        return 1 if self.problems else 0

    def check_twins(self, folder: Path, tested: Sequence[Path], trained: Iterable[Path] | None = None) -> None:
        """Say which files of the test part are also in the training part, byte for byte.

        Few are a remark, more than `SHARED` of the test part a problem.

        Args:
            folder: which the problem is of; files are named from there.
            tested: the files of the test part.
            trained: those of the training part. None: the parts are cut from `tested`, in more than one way.
        """
        same = _twins(tested, trained)
        if not same:
            return
        named = [[os.path.relpath(path, folder) for path in pair] for pair in same[:NAMED]]
        pairs = ", ".join(f"{path} as {found}" for path, found in named)
        more = f", and {len(same) - NAMED} more" if len(same) > NAMED else ""
        where = "there twice" if trained is None else "in the training part, too"
        what = f"{len(same)} of {len(tested)} files are {where}, byte for byte: {pairs}{more}"
        if len(same) > SHARED * len(tested):
            fix = "take out one of each" if trained is None else "take them out of one of the two"
            self(folder, None, what, f"{fix}: a score on what was learnt says nothing")
        else:
            self.remark(folder, what)


def _twins(files: Iterable[Path], others: Iterable[Path] | None) -> list[tuple[Path, Path]]:
    """Files that equal one of the others, or of those before them, with that one; only files of one size are read."""
    here, there = _sizes(files), _sizes(others or ())
    sizes = set(there.values()) if others is not None else {size for size, n in Counter(here.values()).items() if n > 1}
    own, known = set(here.values()), dict[bytes, Path]()
    for path, size in there.items():
        if size in own:
            known.setdefault(_digest(path), path)
    found = []
    for path, size in here.items():
        if size in sizes:
            digest = _digest(path)
            if digest in known:
                found.append((path, known[digest]))
            elif others is None:
                known[digest] = path
    return found


def _sizes(paths: Iterable[Path]) -> dict[Path, int]:
    found = {}
    for path in paths:
        with contextlib.suppress(OSError, ValueError):  # reported already
            if path.is_file():
                found[path] = path.stat().st_size
    return found


def _digest(path: Path) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
    return os.urandom(32)  # like no other
