"""Check a folder of recordings: `python -m tasks.tts_vocoder.check PATH`.

Prints every problem found, of one file the first 20, one a line, as "file:line: problem; how to fix it", and exits with
1; or a summary, and 0. It is stricter than a training in two points: clipped clips, which a training warns of and uses,
and recordings that are there twice. The summary says what a training changes (rate, channels).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tasks.findings import Findings
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.mels.predicted import Predicted
from tasks.tts_vocoder.recordings.clips import Header, Shape, list_clips, read_clip, read_header, summary


def check(root: Path, shape: Shape, report: Findings) -> str:
    """Read every clip; returns what they are like, and raises nothing for bad data."""
    headers: list[Header] = []
    clips = list_clips(root, report)
    for name, path in clips.items():
        clip = read_clip(name, path, shape, report)
        if clip is None:
            continue
        if clipped := clip.treatments.get("clipped"):
            report(path, None, clipped, "record it again at a lower level, or take it out")
        if header := read_header(path, shape, report):
            headers.append(header)
    report.check_twins(root, list(clips.values()))
    return summary(headers, shape.sample_rate)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    default = MelConfig()
    parser = argparse.ArgumentParser(
        prog="python -m tasks.tts_vocoder.check",
        description="Check recordings in LJSpeech's layout (wavs/*.wav, metadata.csv), or any folder of audio files. "
        "Prints every problem as file:line: problem; how to fix it, and exits with 1 if there is one.",
    )
    parser.add_argument("path", type=Path, help="the data folder")
    parser.add_argument(
        "--sample-rate",
        type=int,
        default=default.sample_rate,
        help="what it will be resampled to; default: %(default)s",
    )
    parser.add_argument(
        "--fmax", type=float, default=default.top, help="highest frequency of the mel in Hz; default: %(default)s"
    )
    parser.add_argument("--mels", type=Path, help="folder of predicted mels, <clip>.npy, to check beside them")
    given = parser.parse_args(arguments)
    try:
        config = MelConfig(sample_rate=given.sample_rate, fmax=given.fmax)
    except ValueError as error:
        parser.error(str(error))
    shape = Shape(given.sample_rate, config.top)
    if given.mels is not None:
        shape = replace(shape, loudness="as_is", mels=Predicted(given.mels, config))
    report = Findings()
    return report.end(check(given.path, shape, report))


if __name__ == "__main__":
    sys.exit(main())
