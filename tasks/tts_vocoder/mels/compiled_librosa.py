"""librosa, whose loops numba compiles: by one process at a time, into a folder that later processes read.

numba keeps what it has compiled, by default beside librosa. Two processes that compile at once mix up its files: a
function that one has written is called by what the other has written, under another name. From then on every process
that reads them calls code that is not there, and crashes without a message. That was measured: in a first main job the
two workers that scored the first vocoder crashed, and so did all after them (numba 0.68.1).
"""

import atexit
import functools
import logging
import os
import shutil
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from rfnext.files import cache_folder
from rfnext.ops import native_cache

log = logging.getLogger(__name__)

PATIENCE = 300
"""Seconds to wait for another process that compiles: it takes 15 to 40."""


@functools.cache
def compiled() -> Any:
    """The module librosa. What this task calls is compiled, or read from the folder that keeps it: the one that
    NUMBA_CACHE_DIR names, else `numba` in the cache folder.

    Where that folder cannot be kept safe (`native_cache`), or another process keeps it for too long, the process
    compiles for itself. So does one that has imported numba before.
    """
    try:
        named = os.environ.get("NUMBA_CACHE_DIR")
        folder = native_cache.private_folder(Path(named) if named else cache_folder() / "numba")
        with native_cache.scratch_space(folder, PATIENCE) as turn:
            if turn is not None:
                return _compile(str(folder))
        log.warning("another process has compiled librosa for %d s: this one compiles it for itself", PATIENCE)
    except (native_cache.Unsafe, OSError) as error:
        log.info("librosa is compiled for this process alone: %s", error)
    own = tempfile.mkdtemp(prefix="rfnext-numba-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return _compile(own)


def _compile(folder: str) -> ModuleType:
    os.environ["NUMBA_CACHE_DIR"] = folder  # numba reads it when it is imported
    import librosa

    tone = np.sin(np.arange(4096, dtype=np.float32) / 10)
    librosa.pyin(tone, fmin=100, fmax=400, sr=16000, frame_length=1024, resolution=0.25, n_thresholds=50)
    librosa.sequence.dtw(C=np.zeros((2, 2)))
    librosa.filters.mel(sr=16000, n_fft=512)
    return librosa
