"""Names of files that look the same and are not: an accented letter is one character (NFC) or two (NFD, as of macOS).

A file that was copied from there is not found by a list that was typed elsewhere.
"""

import functools
import os
import shlex
import unicodedata
from pathlib import Path

FORMS = ("NFC", "NFD")


def mend_missing(path: Path, mend: str) -> str:
    """What to do about a file that is not there: `mend`, or to rename one whose name only looks the same."""
    if path.name.isascii():
        return mend
    try:
        there, *forms = _names(path.parent, os.stat(path.parent).st_mtime_ns)
    except (OSError, ValueError):  # of a folder that is not there, or whose name no file can have
        return mend
    form = FORMS[0] if unicodedata.is_normalized(FORMS[0], path.name) else FORMS[1]
    if path.name in there or path.name not in forms[FORMS.index(form)]:
        return mend
    # A name that is there in both forms belongs to two files.
    code = (
        f'import os, unicodedata as u; [os.rename(n, m) for n in os.listdir(".") '
        f'if not os.path.lexists(m := u.normalize("{form}", n))]'
    )
    return (
        "a file is there whose name looks the same, with its accents encoded otherwise (Unicode NFC and NFD): "
        f"cd {shlex.quote(str(path.parent))} && python -c {shlex.quote(code)}"
    )


def real_path(path: str | Path) -> Path:
    """Where a path leads, through all links. Unlike Path.resolve, no RuntimeError for a link that leads to itself."""
    return Path(os.path.realpath(path))


def real_name(path: Path) -> str:
    """The name of what a path leads to."""
    return real_path(path).name


@functools.lru_cache(maxsize=2)  # a list may name a hundred thousand files that are not there
def _names(folder: Path, changed: int) -> tuple[frozenset[str], ...]:
    """The names in a folder, as they are and in each of `FORMS`. changed: when it was, so that a new file is seen."""
    names = os.listdir(folder)
    return frozenset(names), *(frozenset(unicodedata.normalize(form, name) for name in names) for form in FORMS)
