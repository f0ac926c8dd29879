"""Commands that predict and score, on broken files: of semantic segmentation, and of the vocoder."""

import contextlib
import functools
import io
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.semantic_segmentation import predict as segmenting
from tasks.tts_vocoder import score, synthesize
from tests.faults.fuzz import own_data as own
from tests.faults.fuzz import samples, sounds
from tests.faults.fuzz.mutations import Sample


def command(main: Callable[[Sequence[str]], int | None], words: Sequence[str]) -> None:
    """Run a command line; ValueError with what it says if it refuses its input."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(words) or 0
        except SystemExit as end:
            if isinstance(end.code, str):
                said.write(end.code)
            status = end.code or 0
    if status:
        raise ValueError(said.getvalue().strip().removeprefix("error: "))


@functools.cache
def images() -> list[Sample]:
    """A network of two classes, an image and its labels."""
    folder = own.labelled()[0]
    names = ("images/0.png", "labels/0.png", "classes.txt")
    return [samples.segmenters()[0] | {name: folder[name] for name in names}]


def past_images() -> list[Sample]:
    """What is no image, no labels or no network."""
    good = images()[0]
    found = [
        good | {name: past[name]}
        for past in own.past_labelled()
        for name in ("images/0.png", "labels/0.png", "classes.txt")
        if past[name] != good[name]
    ]
    return found + [good | {"model.pt": bomb} for bomb in samples.bombs(good["model.pt"])]


def segment(folder: Path) -> None:
    """Predict the image, and score it."""
    given = ["--checkpoint", f"{folder / 'model.pt'}", "--out", f"{folder / 'out'}", "--labels", f"{folder / 'labels'}"]
    command(segmenting.main, [f"{folder / 'images/0.png'}", *given, "--device", "cpu"])


@functools.cache
def sources() -> list[Sample]:
    """A released generator with a recording and with a mel."""
    generator = sounds.vocoders()[0]
    return [generator | {"a.wav": sounds.sound("WAV", "PCM_16")}, generator | {"a.npy": sounds.mels()[0]["a.npy"]}]


def past_sources() -> list[Sample]:
    """Recordings, mels and settings that once ended a reader."""
    wave, mel = sources()
    recordings = [past["wavs/a.wav"] for past in sounds.past_clips() if "wavs/a.wav" in past]
    found = [wave | {"a.wav": data} for data in recordings if data != wave["a.wav"]]
    found += [mel | past for past in sounds.past_mels()]
    return found + [wave | past for past in sounds.past_vocoders() if "config.json" in past]


def synthesise(folder: Path) -> None:
    """Speech from the recording, or from the mel."""
    source = folder / ("a.npy" if any(folder.glob("a.npy")) else "a.wav")
    words = [f"{source}", f"{folder / 'out.wav'}", "--checkpoint", f"{folder / 'g.pt'}"]
    command(synthesize.main, [*words, "--save-mel", f"{folder / 'saved.npy'}"])


@functools.cache
def speech() -> list[Sample]:
    """A recording, and what a vocoder made of it."""
    wave = sounds.sound("WAV", "PCM_16")
    return [{"truth/a.wav": wave, "output/a.wav": wave}]


def past_speech() -> list[Sample]:
    """Each of the two broken in its turn."""
    good = speech()[0]
    names = ("wavs/a.wav", "wavs/a.flac")
    broken = {past[name] for past in sounds.past_clips() for name in names if name in past}
    return [good | {name: data} for name in good for data in sorted(broken)]


def score_speech(folder: Path) -> None:
    """Metrics of the output."""
    command(score.main, [f"{folder / 'truth'}", f"{folder / 'output'}", "--sample-rate", "8000"])
