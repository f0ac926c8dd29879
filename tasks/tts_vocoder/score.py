"""Score synthesised speech of any tool: `python -m tasks.tts_vocoder.score TRUTH OUTPUT`.

Both are folders with files of the same names. Prints one JSON object: `measures.METRICS`, and "pesq", wide-band PESQ
at 16 kHz (ITU-T P.862.2, a MOS-LQO from 1.04 to 4.64), if the package `pesq` is installed, else null.
"""

import argparse
import importlib
import importlib.util
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rfnext.files import explained
from tasks.spec import fail
from tasks.tts_vocoder import metrics
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.recordings.clips import Shape, Wave, list_clips, read_clip

PESQ_RATE = 16000

TOLERANCE = 0.1
"""Seconds by which the lengths of truth and output may differ; a vocoder drops or adds part of a frame."""


def score_folders(truth: str | Path, output: str | Path, mel: MelConfig) -> dict[str, float | None]:
    """`metrics.score` and "pesq" of all clips in `output`, each against the clip of its name in `truth`.

    Recordings are resampled to the mel's rate if needed, and not scaled.

    Raises DataError if a file has no truth, cannot be used, or differs in length by more than `TOLERANCE` from it.
    """
    pairs = list(_pairs(Path(truth), Path(output), mel))
    return {**metrics.score(pairs, mel), "pesq": pesq(pairs, mel.sample_rate)}


def pesq(pairs: Sequence[tuple[Wave, Wave]], sample_rate: int) -> float | None:
    """Mean wide-band PESQ over (truth, output) pairs; None if `pesq` is not installed."""
    if importlib.util.find_spec("pesq") is None:
        return None
    from scipy.signal import resample_poly

    measure = importlib.import_module("pesq").pesq  # not among the requirements: it needs a C compiler
    divisor = math.gcd(sample_rate, PESQ_RATE)
    up, down = PESQ_RATE // divisor, sample_rate // divisor
    return float(
        np.mean([measure(PESQ_RATE, *(resample_poly(wave, up, down) for wave in pair), "wb") for pair in pairs])
    )


def _pairs(truth: Path, output: Path, mel: MelConfig) -> Iterator[tuple[Wave, Wave]]:
    shape = Shape(mel.sample_rate, mel.top, loudness="as_is")
    true = list_clips(truth, fail)
    for name, path in list_clips(output, fail).items():
        if name not in true:
            fail(path, None, f"there is no {name} in {truth}", "take it away or add the truth")
        clips = [read_clip(name, file, shape, fail) for file in (true[name], path)]
        one, other = (clip.wave for clip in clips if clip is not None)
        if abs(len(one) - len(other)) > TOLERANCE * mel.sample_rate:
            seconds = [f"{len(wave) / mel.sample_rate:.2f} s" for wave in (one, other)]
            fail(path, None, f"{seconds[1]} long, its truth {true[name]} {seconds[0]}", "synthesise it again, uncut")
        yield one, other


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message if a file cannot be scored."""
    parser = argparse.ArgumentParser(
        prog="python -m tasks.tts_vocoder.score",
        description="Score a folder of synthesised clips against the recordings of the same names. Prints JSON.",
    )
    parser.add_argument("truth", type=Path, help="folder of recordings")
    parser.add_argument("output", type=Path, help="folder of synthesised clips; exactly these are scored")
    parser.add_argument(
        "--sample-rate", type=int, default=22050, help="at which they are compared; default: %(default)s"
    )
    given = parser.parse_args(arguments)
    try:
        highest = min(8000.0, given.sample_rate / 2)
        scores = score_folders(given.truth, given.output, MelConfig(sample_rate=given.sample_rate, fmax=highest))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {explained(error)}")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
