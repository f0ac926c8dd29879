"""The embedded default data: speech from installed packages, in the layout of `clips.py`.

There are two sources. `Config.dataset` says which one is used, so results on the two never share a table:

asterisk: real. The English prompts of Debian's `asterisk-core-sounds-en-g722` (CC-BY-SA-3.0), one speaker, decoded
    from G.722 with PyPI's `G722` to 16 kHz. Tones, silence, and prompts shorter than 1.5 s or longer than 12 s are left
    out.
espeak: synthetic. Sentences of this repository (`espeak.SENTENCES`) spoken by eSpeak NG from PyPI's `espeakng-loader`,
    at 22.05 kHz.
"""

import importlib.metadata
import importlib.util
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from rfnext.files import cache_folder, new_folder
from tasks.spec import DataError

log = logging.getLogger(__name__)

Source = Literal["asterisk", "espeak"]

VERSION = 1
"""Part of the cache folder's name: raise it with any change of what is written there."""

SOUNDS = Path("/usr/share/asterisk/sounds/en_US_f_Allison")
"""Where the Debian package puts its files."""

PACKAGE = "asterisk-core-sounds-en-g722"
G722_RATE = 16000
SECONDS = (1.5, 12.0)
NO_SPEECH = ("beep", "silence", "tone")
"""Parts of the names of prompts without speech."""

ROOT = Path(__file__).resolve().parents[3]

READMES = {
    "asterisk": f"""Real speech, made by tasks/tts_vocoder/recordings/embedded.py (version {VERSION}) from the prompts
of Debian's {PACKAGE}, CC-BY-SA-3.0 (see its copyright file). Delete this folder to have it made again.
""",
    "espeak": f"""SYNTHETIC speech, made by tasks/tts_vocoder/recordings/espeak.py (version {VERSION}) with eSpeak NG.
Delete this folder to have it made again.
""",
}


def best_source() -> Source:
    """Real speech if its package is installed, else synthetic speech."""
    return "asterisk" if unavailable("asterisk") is None else "espeak"


def unavailable(source: Source) -> str | None:
    """Why a source cannot be used here and what to install; None if it can."""
    if source == "asterisk":
        if not sounds().is_dir():
            return f"no folder {sounds()}; apt-get install {PACKAGE} (Debian, Ubuntu)"
        if importlib.util.find_spec("G722") is None:
            return "the package G722, which decodes the prompts, is missing; pip install G722"
    elif importlib.util.find_spec("espeakng_loader") is None:
        return "the package espeakng-loader with eSpeak NG is missing; pip install espeakng-loader"
    return None


def sounds() -> Path:
    """Folder of the prompts: $RFNEXT_ASTERISK (e.g. in a package unpacked by `dpkg -x`), or `SOUNDS`."""
    return Path(os.environ.get("RFNEXT_ASTERISK") or SOUNDS)


def prepare(source: Source) -> Path:
    """The data folder, made on the first call (a few seconds).

    Safe with several processes: each builds a folder of its own, and the first one that is done is renamed.
    Raises DataError if the source is not installed or does not work, OSError if nothing can be written.
    """
    if reason := unavailable(source):
        raise DataError(reason)
    release = importlib.metadata.version("espeakng-loader") if source == "espeak" else "g722"
    folder = cache_folder() / f"speech-{source}-{release}-v{VERSION}"
    if folder.is_dir():
        return folder
    with new_folder(folder) as building:
        (_write_asterisk if source == "asterisk" else _write_espeak)(building)
        (building / "README.txt").write_text(READMES[source])
    return folder


def _write_espeak(folder: Path) -> None:
    """In a new process; else the samples would differ from time to time, see `espeak`."""
    command = [sys.executable, "-m", "tasks.tts_vocoder.recordings.espeak", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
        raise DataError(f"eSpeak NG failed: {last}; pip install --force-reinstall espeakng-loader")


def _write_asterisk(folder: Path) -> None:
    import soundfile
    from G722 import G722

    (folder / "wavs").mkdir()
    source, lines = sounds(), []
    for path in sorted(source.rglob("*.g722")):
        name = path.relative_to(source).with_suffix("").as_posix().replace("/", "-")
        if any(word in name for word in NO_SPEECH):
            continue
        data = path.read_bytes()
        if SECONDS[0] <= 2 * len(data) / G722_RATE <= SECONDS[1]:  # 64 kbit/s: a byte for two samples
            samples = np.asarray(G722(G722_RATE, 64000).decode(data), dtype=np.int16)
            soundfile.write(folder / "wavs" / f"{name}.wav", samples, G722_RATE, subtype="PCM_16")
            lines.append(f"{name}||\n")
    if not lines:
        raise DataError(f"no usable *.g722 in {source}; apt-get install --reinstall {PACKAGE}")
    (folder / "metadata.csv").write_text("".join(lines), "utf-8")
