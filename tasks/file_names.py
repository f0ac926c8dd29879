"""Names of files that look the same and are not: an accented letter is one character (NFC) or two (NFD, as of macOS).

A file that was copied from there is not found by a list that was typed elsewhere.
"""

import os
import shlex
import unicodedata
from pathlib import Path


def mend_missing(path: Path, mend: str) -> str:
    """What to do about a file that is not there: `mend`, or to rename one whose name only looks the same."""
    if path.name.isascii():
        return mend
    try:
        there = os.listdir(path.parent)
    except OSError:
        return mend
    form = "NFC" if unicodedata.is_normalized("NFC", path.name) else "NFD"
    if path.name in there or path.name not in {unicodedata.normalize(form, name) for name in there}:
        return mend
    code = f'import os, unicodedata as u; [os.rename(n, u.normalize("{form}", n)) for n in os.listdir(".")]'
    return (
        "a file is there whose name looks the same, with its accents encoded otherwise (Unicode NFC and NFD): "
        f"cd {shlex.quote(str(path.parent))} && python -c {shlex.quote(code)}"
    )
