"""Recorded clips: listing them, checking them, and preparing them for training.

    ROOT/wavs/<clip>.wav     LJSpeech's layout; any rate, format and number of channels that libsndfile reads
    ROOT/metadata.csv        one clip a line: <clip>|text|normalised text; optional, without it every file counts

Without a folder wavs/, all audio files anywhere below ROOT are the clips.

A clip that cannot be used is an error that names the file and how to fix it: missing, unreadable, empty, truncated,
silent, not finite, far above full scale, with a header that contradicts itself or claims what cannot be, or with too
low a sample rate for the mel. All others are prepared, and the log says how: channels are averaged, the clip is
resampled, silence at the ends trimmed, the loudness set. Clipping is only reported, since it cannot be undone.

Every function that reads takes a `report`, which is called with each problem found. That of a training,
`tasks.spec.fail`, raises at the first problem; that of `tasks.tts_vocoder.check` collects all of them.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rfnext.files import lines_of, read_text, reason
from tasks.file_names import mend_missing
from tasks.spec import Report
from tasks.tts_vocoder.mels.mel import HIGHEST_RATE
from tasks.tts_vocoder.mels.predicted import Predicted

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Wave = NDArray[np.float32]
"""(samples), full scale is 1."""

Loudness = Literal["peak", "as_is"]
"""peak: scaled so that the largest sample is `PEAK`, as HiFi-GAN does. as_is: not changed."""

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff")
PEAK = 0.95
SILENT = 1e-3
"""Largest sample, -60 dB of full scale, up to which a clip is silent."""

OFFSET = 5e-3
"""Mean of a clip, in parts of full scale, above which its recorder added a constant; that of speech stays below."""

TRIM_DB = 45.0
"""Sound at the ends is silence if it stays this far below the loudest 20 ms."""

MARGIN = 0.1
"""Seconds of silence that are kept at either end."""

CLIPPED_RUN = 4
"""Equal samples in a row at the clip's peak, near full scale, that make it clipped."""

RATES = (1000, HIGHEST_RATE)
"""Lowest and highest sample rate, Hz; others are broken headers, and resampling from them takes gigabytes."""

MOST_CHANNELS = 64
MOST_SAMPLES = 2**29
"""Of all channels together, 2 GB in memory: an hour and a half of stereo at 48 kHz. A small file may claim or, of
silence, even hold any number."""

LONGEST_LIST = 2**27
"""Bytes of metadata.csv: a million clips with their sentences."""

LONGEST = 4
"""Hours of a recording; resampling from a low rate makes many samples of few."""

LOUDEST = 16.0
"""Largest sample, in parts of full scale, of a recording in floats; integers that were saved as floats exceed it."""


@dataclass(frozen=True)
class Shape:
    """What every clip is after preparation.

    sample_rate: Hz.
    highest: highest frequency of the mel in Hz; recordings with a lower one are refused.
    trim: cut silence at the ends.
    loudness: see `Loudness`.
    mels: mels beside the recordings, which belong to each clip; None: there are none.
    """

    sample_rate: int
    highest: float
    trim: bool = False
    loudness: Loudness = "peak"
    mels: Predicted | None = None


def list_clips(root: Path, report: Report) -> dict[str, Path]:
    """Name -> file of every clip, in order of the names; wrong lines of the metadata are reported."""
    if not root.is_dir():
        report(root, None, "no such folder", "give a folder with wavs/*.wav and metadata.csv, or any folder of audio")
        return {}
    metadata, wavs = root / "metadata.csv", root / "wavs"
    folder = wavs if wavs.is_dir() else root
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        # macOS leaves "._name.wav" beside files that it copied
        if path.suffix.lower() not in SUFFIXES or not path.is_file() or path.name.startswith("."):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            report(path, None, f"there is also {files[name].name} of the same name", "take one away")
        else:
            files[name] = path
    if not files:
        report(folder, None, "there is no audio file in it", f"put clips there ({', '.join(SUFFIXES)})")
    if not metadata.exists():
        return files
    lines = _named(metadata, report)
    for name, line in lines.items():
        if name not in files:
            mends = (mend_missing(folder / f"{name}{suffix}", "") for suffix in SUFFIXES)
            fix = next(filter(None, mends), "add the file or take the line out")
            report(metadata, line, f"there is no clip {name} in {folder}", fix)
    if unnamed := [name for name in files if name not in lines]:
        log.info("%s does not name %d of %d clips, %s first; they are left out", metadata, *_counts(unnamed, files))
    return {name: path for name, path in files.items() if name in lines}


def _counts(some: Sequence[str], of: dict[str, Path]) -> tuple[int, int, str]:
    return len(some), len(of), some[0]


def _named(metadata: Path, report: Report) -> dict[str, int]:
    """Clips that metadata.csv names, each with its line."""
    try:
        text = read_text(metadata, LONGEST_LIST)
    except (OSError, ValueError) as error:
        report(metadata, None, f"cannot be read as text ({reason(error)})", "save it as UTF-8, or take it away")
        return {}
    lines: dict[str, int] = {}
    for number, line in enumerate(lines_of(text), start=1):
        name = line.partition("|")[0].strip().removesuffix(".wav")
        if not name or name.startswith("/") or ".." in Path(name).parts or len(name) > 255:
            report(metadata, number, f"{line[:40]!r} names no clip", "write <clip>|text a line")
        elif name in lines:
            report(metadata, number, f"{name} is already named in line {lines[name]}", "take one out")
        else:
            lines[name] = number
    if not lines:
        report(metadata, 1, "no clip is named", "write <clip>|text a line, or take the file away")
    return lines


class Header(NamedTuple):
    """What the header of an audio file says. frames: samples of each channel."""

    sample_rate: int
    channels: int
    frames: int


def read_header(path: Path, shape: Shape, report: Report) -> Header | None:
    """The header, checked: None, once reported, if the file is unreadable, empty, truncated or of too low a rate."""
    import soundfile

    if path.exists() and not path.is_file() and not path.is_dir():  # a pipe would wait for its other end
        report(path, None, "not readable as audio (it is a pipe or a device, not a file)", "give a WAV or FLAC file")
        return None
    try:
        info = soundfile.info(str(path), verbose=True)
    except (OSError, soundfile.SoundFileError) as error:
        if not path.exists():
            report(path, None, "no such file", "give a WAV or FLAC file that is there")
            return None
        reason = "it is empty" if path.is_file() and not path.stat().st_size else str(error).rpartition(": ")[2]
        report(path, None, f"not readable as audio ({reason})", "save it as WAV or FLAC, or take it out")
        return None
    if fault := _header_fault(info):
        report(path, None, *fault)
        return None
    if info.samplerate < 2 * shape.highest:
        report(
            path,
            None,
            f"its sample rate of {info.samplerate} Hz holds nothing above {info.samplerate // 2} Hz, but the mel "
            f"needs up to {shape.highest:g} Hz",
            f"record at {math.ceil(2 * shape.highest)} Hz or more, or set mel.sample-rate and mel.fmax lower",
        )
        return None
    return Header(info.samplerate, info.channels, info.frames)


def _header_fault(info: Any) -> tuple[str, str] | None:
    """What is wrong with a header that libsndfile accepts, and how to mend it."""
    again = "copy it again or take it out"
    if info.frames == 0:
        return "it has a length of 0", "record it again or take it out"
    # libsndfile reads a truncated file without an error; only this text shows it.
    cut = re.search(r"^\s*(?:data|SSND|Riff size|riff)\s*: (\d+) \(should be (\d+)\)", info.extra_info, re.MULTILINE)
    if cut and int(cut[1]) >= 2**31 - 2**16:
        return "its header does not know its length, as one written to a pipe", "convert it into a new file"
    if cut:
        return f"truncated: {cut[2]} of {cut[1]} bytes are there", again
    if rest := _uncounted(info.extra_info):
        return f"{rest} bytes follow that its header does not count, as in a recording that was not closed", (
            "if sound is missing at its end, ffmpeg -ignore_length 1 -i OLD.wav NEW.wav brings it back; else "
            "ffmpeg -i OLD.wav NEW.wav leaves out what follows"
        )
    if not RATES[0] <= info.samplerate <= RATES[1]:
        what = f"its header says {info.samplerate} Hz; sample rates are {RATES[0]} to {RATES[1]} Hz"
        return what, "the header is broken: save the recording again at its true rate"
    if info.channels > MOST_CHANNELS:
        return f"its header says {info.channels} channels, more than {MOST_CHANNELS}", again
    hours = info.frames / info.samplerate / 3600
    if info.frames * info.channels > MOST_SAMPLES or hours > LONGEST:
        what = f"its header claims {info.frames} samples of {info.channels} channels, {hours:.3g} hours"
        most = f"{MOST_SAMPLES} samples of all channels and {LONGEST} hours are the most"
        return f"{what}; {most}", "cut it into clips, or copy it again"
    return _contradiction(info)


def _uncounted(said: str) -> int:
    """Bytes behind the samples of a WAV file that are no chunk, if they are more than a tag or padding; else 0.

    said: what libsndfile says of the header; it ends where it finds no chunk.
    """
    length, counted = (re.search(rf"^{name}\s*: (\d+)", said, re.MULTILINE) for name in ("Length", "data"))
    end = re.search(r"^(?:\*\*\* Unknown chunk|Have 0) marker .*at position (\d+)", said, re.MULTILINE)
    rest = int(length[1]) - int(end[1]) if length and counted and end else 0
    return rest if counted and rest > max(512, int(counted[1]) / 10) else 0


def _contradiction(info: Any) -> tuple[str, str] | None:
    """Whether the bytes per second of a WAV file of plain samples are those of its rate, channels and bits."""
    entries = re.findall(r"^  ([A-Z][\w /]*?)\s*: (\d+)\b", info.extra_info, re.MULTILINE)
    said = {name: int(value) for name, value in entries}
    plain = info.subtype.startswith("PCM") or info.subtype in ("FLOAT", "DOUBLE")
    if plain and {"Block Align", "Bit Width", "Bytes/sec"} <= said.keys():
        align = info.channels * ((said["Bit Width"] + 7) // 8)
        if said["Block Align"] != align or said["Bytes/sec"] != align * info.samplerate:
            format = f"{info.samplerate} Hz, {info.channels} channels and {said['Bit Width']} bits"
            what = f"its header contradicts itself: {format}, but {said['Bytes/sec']} bytes per second"
            return what, "save the recording again at its true rate"
    return None


class Clip(NamedTuple):
    """A prepared clip. treatments: kind -> what was done to it, for the log. mel: (mels, frames) of `Shape.mels`, as
    long as the wave; None without them."""

    name: str
    wave: Wave
    treatments: dict[str, str]
    mel: "Tensor | None" = None


def read_clip(name: str, path: Path, shape: Shape, report: Report) -> Clip | None:
    """One clip, ready for use; None, once reported, if it cannot be used."""
    import soundfile

    header = read_header(path, shape, report)
    if header is None:
        return None
    try:
        samples = np.asarray(soundfile.read(str(path), dtype="float32", always_2d=True)[0], dtype=np.float32)
    except (OSError, soundfile.SoundFileError) as error:
        report(path, None, f"truncated or broken ({error!r})", "copy it again or take it out")
        return None
    if len(samples) < header.frames:
        report(path, None, f"truncated: {len(samples)} of {header.frames} samples are there", "copy it again")
        return None
    peak = max(samples.max(), -samples.min())  # without a copy, for an hour is a gigabyte; NaN if one is NaN
    if not np.isfinite(peak):
        report(path, None, f"{np.count_nonzero(~np.isfinite(samples))} samples are not finite", "save it again")
        return None
    if peak > LOUDEST:
        fix = "divide by 32768 if they are 16-bit integers, and save it again"
        report(path, None, f"its samples reach {peak:.4g} times full scale", fix)
        return None
    done: dict[str, str] = {}
    if count := clipped_samples(samples):
        done["clipped"] = f"clipped: {count} samples are at full scale, which cannot be undone"
    wave = samples.mean(axis=1)
    if header.channels > 1:
        done["channels"] = f"{header.channels} channels averaged"
    if what := _silent(wave, samples):
        report(path, None, what, "record it again or take it out")
        return None
    if header.sample_rate != shape.sample_rate:
        wave = _resampled(wave, header.sample_rate, shape.sample_rate)
        done["rate"] = f"resampled from {header.sample_rate} to {shape.sample_rate} Hz"
    if shape.trim:
        start, end = speech(wave, shape.sample_rate)
        if (seconds := (start + len(wave) - end) / shape.sample_rate) >= 0.01:
            done["trimmed"] = f"{seconds:.2f} s of silence trimmed"
        wave = wave[start:end]
    if shape.loudness == "peak":
        gain = PEAK / float(np.abs(wave).max())
        done["loudness"] = f"scaled by {20 * math.log10(gain):+.1f} dB to a peak of {PEAK}"
        wave = gain * wave
    wave = np.ascontiguousarray(wave, dtype=np.float32)
    if shape.mels is None:
        return Clip(name, wave, done)
    mel = shape.mels.read(name, len(wave), report)
    return None if mel is None else Clip(name, wave[: mel.shape[1] * shape.mels.config.hop], done, mel)


def _resampled(wave: Wave, rate: int, wanted: int) -> Wave:
    from scipy.signal import resample_poly

    # Beyond its ends a clip goes on at its offset; zeros would be a click there, which is no silence to trim.
    padtype = "mean" if abs(wave.mean(dtype=np.float64)) > OFFSET else "constant"
    divisor = math.gcd(rate, wanted)
    return resample_poly(wave, wanted // divisor, rate // divisor, padtype=padtype).astype(np.float32)


def _silent(wave: Wave, samples: NDArray[np.float32]) -> str | None:
    """Why there is nothing to hear in a wave, made of (samples, channels); None if there is.

    A constant offset, as poor sound cards add, is no sound.
    """
    middle = (wave.max() + wave.min()) / 2
    if (reach := (wave.max() - wave.min()) / 2) > SILENT:
        return None
    if np.abs(samples).max() > SILENT >= np.abs(wave).max():
        return "silent once its channels are averaged: they cancel each other"
    if np.abs(wave).max() <= SILENT:
        return f"silent: its largest sample is {np.abs(wave).max():.1g} of full scale"
    return f"silent: its samples stay within {reach:.1g} of full scale around {middle:.2g}"


def clipped_samples(samples: NDArray[np.float32]) -> int:
    """How many samples of (samples, channels) are in runs of `CLIPPED_RUN` or more at a peak near full scale."""
    count = 0
    for channel in samples.T:
        peak = np.abs(channel).max()
        if peak >= 0.98:
            edges = np.flatnonzero(np.diff(np.concatenate([[False], np.abs(channel) >= peak - 1e-6, [False]])))
            runs = edges[1::2] - edges[::2]
            count += int(runs[runs >= CLIPPED_RUN].sum())
    return count


def speech(wave: Wave, sample_rate: int) -> tuple[int, int]:
    """First and last (exclusive) sample without the silence at the ends; see `TRIM_DB` and `MARGIN`."""
    step = sample_rate // 50
    # A constant one would be as loud in silence as in speech. In float32, as the samples: float64 doubles the memory.
    offset = np.float32(wave.mean(dtype=np.float64))
    frames = np.pad(wave - offset, (0, -len(wave) % step)).reshape(-1, step)
    level = np.sqrt(np.square(frames, dtype=np.float64).mean(axis=1))
    loud = np.flatnonzero(level > level.max() * 10 ** (-TRIM_DB / 20))
    margin = round(MARGIN * sample_rate)
    return max(0, int(loud[0]) * step - margin), min(len(wave), (int(loud[-1]) + 1) * step + margin)


def summary(headers: Sequence[Header], sample_rate: int) -> str:
    """Number, length and rates of some clips, and how many are resampled or averaged."""
    seconds = sum(header.frames / header.sample_rate for header in headers)
    text = f"{len(headers)} clips, {seconds / 60:.1f} minutes"
    for rate, count in sorted(Counter(header.sample_rate for header in headers).items()):
        text += f", {count} at {rate} Hz" + (f" (resampled to {sample_rate} Hz)" if rate != sample_rate else "")
    if several := sum(header.channels > 1 for header in headers):
        text += f", {several} with several channels (averaged)"
    return text
