"""Speech from a recording or a saved mel: `python -m tasks.tts_vocoder.synthesize IN OUT.wav --checkpoint CKPT`.

IN is audio (copy synthesis: its mel is computed as in the generator's training, after resampling if needed) or a
log-mel as .npy, (mels, frames), natural logarithms of magnitudes. A mel may have its configuration beside it as
<name>.json, as `--save-mel` writes it; the configuration must then be that of the generator. Without it, mels of
another convention are found by their values.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rfnext.files import explained, write_bytes
from tasks.diverged import on_file
from tasks.spec import fail
from tasks.tts_vocoder.evaluation import synthesise
from tasks.tts_vocoder.export import merged, to_onnx
from tasks.tts_vocoder.mels.log_mel import LogMel
from tasks.tts_vocoder.mels.mel import MelConfig
from tasks.tts_vocoder.mels.saved_mel import read_mel, write_mel
from tasks.tts_vocoder.recordings.clips import Shape, read_clip
from tasks.tts_vocoder.released import open_generator


def mel_of_recording(path: Path, mel: MelConfig) -> Tensor:
    """Log-mel (1, mels, frames) of an audio file, resampled and mixed to one channel but not scaled.

    Raises DataError if the file cannot be used or is shorter than one window.
    """
    clip = read_clip(path.stem, path, Shape(mel.sample_rate, mel.top, loudness="as_is"), fail)
    assert clip is not None  # `fail` never returns
    if len(clip.wave) < mel.n_fft:
        fail(path, None, f"{len(clip.wave)} samples are less than one window of {mel.n_fft}", "give a longer recording")
    return LogMel(mel)(torch.from_numpy(clip.wave)[None])


def mel_of_file(path: Path, mel: MelConfig) -> Tensor:
    """Log-mel (1, mels, frames) that was saved as .npy, see `read_mel`. Raises DataError if it is no such mel."""
    values = read_mel(path, mel)
    assert values is not None  # `fail` never returns
    return values[None]


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; exits with 1 and a message if it fails."""
    import soundfile

    parser = argparse.ArgumentParser(
        prog="python -m tasks.tts_vocoder.synthesize",
        description="Synthesise speech from a recording (copy synthesis) or from a log-mel saved as .npy.",
    )
    parser.add_argument("source", type=Path, nargs="?", help="audio file, or .npy of (mels, frames)")
    parser.add_argument("output", type=Path, nargs="?", help="16-bit WAV file to write")
    parser.add_argument("--checkpoint", type=Path, required=True, help="model.pt of a cell, or a published vocoder")
    parser.add_argument("--save-mel", type=Path, metavar="MEL.npy", help="write the log-mel and its configuration, too")
    parser.add_argument("--onnx", type=Path, metavar="OUT.onnx", help="write the merged generator as ONNX")
    given = parser.parse_args(arguments)
    if (given.source is None) != (given.output is None) or (given.source is None and given.onnx is None):
        parser.error("give SOURCE and OUTPUT.wav, or --onnx")
    try:
        network = open_generator(given.checkpoint)
        if given.onnx is not None:
            to_onnx(network, network.mel_config, given.onnx)
            print(f"written: {given.onnx}")
        if given.source is None:
            return
        mel = (mel_of_file if given.source.suffix == ".npy" else mel_of_recording)(given.source, network.mel_config)
        if given.save_mel is not None:
            write_mel(given.save_mel, mel[0], network.mel_config)
            print(f"written: {given.save_mel}")
        with on_file(given.source):
            wave = synthesise(merged(network), mel)[0].numpy()
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, network.mel_config.sample_rate, format="WAV", subtype="PCM_16")
        write_bytes(given.output, buffer.getvalue())
        print(f"written: {given.output}, {len(wave) / network.mel_config.sample_rate:.2f} s")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {explained(error)}")


if __name__ == "__main__":
    main()
